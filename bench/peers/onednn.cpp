// The same network in oneDNN: its vanilla_rnn primitive, its matmul for the readout, and plain
// loops for the cross-entropy, the clipping and SGD. Called from onednn.py.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"

namespace {

using dnnl::matmul;
using dnnl::memory;
using dnnl::vanilla_rnn_backward;
using dnnl::vanilla_rnn_forward;
using tag = memory::format_tag;
constexpr auto kFloat = memory::data_type::f32;
constexpr auto kTanh = dnnl::algorithm::eltwise_tanh;
constexpr auto kLeftToRight = dnnl::rnn_direction::unidirectional_left2right;

float* data(const memory& m) { return static_cast<float*>(m.get_data_handle()); }

struct Context {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};

  memory zeros(const memory::desc& desc) {
    memory m(desc, engine);
    std::memset(m.get_data_handle(), 0, desc.get_size());
    return m;
  }
  memory like(const memory::desc& desc, const memory& other) {
    return memory(desc, engine, other.get_data_handle());
  }
  void copy(memory from, memory to) { dnnl::reorder(from, to).execute(stream, from, to); }
};

// W_xh, W_hh, b_h, W_hq, b_q, in plain row-major order.
struct Parameters {
  long V, H;
  memory W_xh, W_hh, b_h, W_hq, b_q;

  Parameters(Context& c, long V, long H)
      : V(V),
        H(H),
        W_xh(c.zeros({{1, 1, V, 1, H}, kFloat, tag::ldigo})),
        W_hh(c.zeros({{1, 1, H, 1, H}, kFloat, tag::ldigo})),
        b_h(c.zeros({{1, 1, 1, H}, kFloat, tag::ldgo})),
        W_hq(c.zeros({{H, V}, kFloat, tag::ab})),
        b_q(c.zeros({{1, V}, kFloat, tag::ab})) {}

  std::vector<const memory*> all() const { return {&W_xh, &W_hh, &b_h, &W_hq, &b_q}; }
  void set(const float* const* values) const {
    for (const memory* m : all()) std::memcpy(data(*m), *values++, m->get_desc().get_size());
  }
  static long size(const memory& m) { return m.get_desc().get_size() / sizeof(float); }
};

// The shapes of one sequence, with the weights in whatever layout the primitive likes best.
struct Layout {
  memory::desc x, h, hs, W_xh, W_hh, b_h, any_xh, any_hh;

  Layout(const Parameters& p, long T, long B)
      : x({T, B, p.V}, kFloat, tag::tnc),
        h({1, 1, B, p.H}, kFloat, tag::ldnc),
        hs({T, B, p.H}, kFloat, tag::tnc),
        W_xh(p.W_xh.get_desc()),
        W_hh(p.W_hh.get_desc()),
        b_h(p.b_h.get_desc()),
        any_xh(W_xh.get_dims(), kFloat, tag::any),
        any_hh(W_hh.get_dims(), kFloat, tag::any) {}

  vanilla_rnn_forward::primitive_desc forward(Context& c, dnnl::prop_kind kind) const {
    return {c.engine, kind, kTanh, kLeftToRight, x, h, any_xh, any_hh, b_h, hs, h};
  }
};

// Ids to logits over T steps; keeps hs, and the workspace if it is to be differentiated.
struct Forward {
  Context& c;
  const Parameters& p;
  long T, B;
  Layout layout;
  vanilla_rnn_forward::primitive_desc desc;
  vanilla_rnn_forward layer;
  memory x, h, h_last, hs, workspace, packed_xh, packed_hh;
  memory hs_rows, logits;
  matmul readout;

  Forward(Context& c, const Parameters& p, long T, long B, dnnl::prop_kind kind)
      : c(c),
        p(p),
        T(T),
        B(B),
        layout(p, T, B),
        desc(layout.forward(c, kind)),
        layer(desc),
        x(c.zeros(layout.x)),
        h(c.zeros(layout.h)),
        h_last(c.zeros(layout.h)),
        hs(c.zeros(layout.hs)),
        workspace(c.zeros(desc.workspace_desc())),
        packed_xh(c.zeros(desc.weights_layer_desc())),
        packed_hh(c.zeros(desc.weights_iter_desc())),
        hs_rows(c.like({{T * B, p.H}, kFloat, tag::ab}, hs)),
        logits(c.zeros({{T * B, p.V}, kFloat, tag::ab})),
        readout(matmul::primitive_desc(c.engine, hs_rows.get_desc(), p.W_hq.get_desc(),
                                       p.b_q.get_desc(), logits.get_desc())) {}

  void pack() {
    c.copy(p.W_xh, packed_xh);
    c.copy(p.W_hh, packed_hh);
  }
  void forget() { std::memset(data(h), 0, B * p.H * sizeof(float)); }

  void run(const int64_t* ids) {
    std::memset(data(x), 0, T * B * p.V * sizeof(float));
    for (long i = 0; i < T * B; i++) data(x)[i * p.V + ids[i]] = 1;
    layer.execute(c.stream, {{DNNL_ARG_SRC_LAYER, x},
                             {DNNL_ARG_SRC_ITER, h},
                             {DNNL_ARG_WEIGHTS_LAYER, packed_xh},
                             {DNNL_ARG_WEIGHTS_ITER, packed_hh},
                             {DNNL_ARG_BIAS, p.b_h},
                             {DNNL_ARG_DST_LAYER, hs},
                             {DNNL_ARG_DST_ITER, h_last},
                             {DNNL_ARG_WORKSPACE, workspace}});
    readout.execute(c.stream, {{DNNL_ARG_SRC, hs_rows},
                               {DNNL_ARG_WEIGHTS, p.W_hq},
                               {DNNL_ARG_BIAS, p.b_q},
                               {DNNL_ARG_DST, logits}});
    c.stream.wait();
  }
};

// Mean cross-entropy of `rows` rows of logits; their gradient too if d_logits is given.
double cross_entropy(long rows, long V, const float* logits, const int64_t* targets,
                     float* d_logits, float* d_bias) {
  double loss = 0;
  std::vector<float> e(V);
  if (d_logits) std::fill(d_bias, d_bias + V, 0.f);
  for (long i = 0; i < rows; i++) {
    const float* row = logits + i * V;
    float top = *std::max_element(row, row + V), sum = 0;
    for (long v = 0; v < V; v++) e[v] = std::exp(row[v] - top);
    for (long v = 0; v < V; v++) sum += e[v];
    loss += std::log(sum) + top - row[targets[i]];
    if (!d_logits) continue;
    float* d = d_logits + i * V;
    for (long v = 0; v < V; v++) d[v] = e[v] / (sum * rows);
    d[targets[i]] -= 1.f / rows;
    for (long v = 0; v < V; v++) d_bias[v] += d[v];
  }
  return loss / rows;
}

struct Backward {
  Context& c;
  Forward& f;
  Parameters grads;
  vanilla_rnn_backward::primitive_desc desc;
  vanilla_rnn_backward layer;
  memory packed_xh, packed_hh, d_x, d_h, d_h_last, d_hs, d_hs_rows, d_logits, W_hq_T, hs_T;
  matmul into_hs, into_W_hq;

  Backward(Context& c, Forward& f)
      : c(c),
        f(f),
        grads(c, f.p.V, f.p.H),
        desc(describe()),
        layer(desc),
        packed_xh(c.zeros(desc.weights_layer_desc())),
        packed_hh(c.zeros(desc.weights_iter_desc())),
        d_x(c.zeros(f.layout.x)),
        d_h(c.zeros(f.layout.h)),
        d_h_last(c.zeros(f.layout.h)),
        d_hs(c.zeros(f.layout.hs)),
        d_hs_rows(c.like(f.hs_rows.get_desc(), d_hs)),
        d_logits(c.zeros(f.logits.get_desc())),
        W_hq_T(c.like({{f.p.V, f.p.H}, kFloat, tag::ba}, f.p.W_hq)),
        hs_T(c.like({{f.p.H, f.T * f.B}, kFloat, tag::ba}, f.hs)),
        into_hs(matmul::primitive_desc(c.engine, d_logits.get_desc(), W_hq_T.get_desc(),
                                       d_hs_rows.get_desc())),
        into_W_hq(matmul::primitive_desc(c.engine, hs_T.get_desc(), d_logits.get_desc(),
                                         grads.W_hq.get_desc())) {}

  vanilla_rnn_backward::primitive_desc describe() {
    const Layout& l = f.layout;
    return {c.engine, dnnl::prop_kind::backward,
            kTanh,    kLeftToRight,
            l.x,      l.h,
            l.any_xh, l.any_hh,
            l.b_h,    l.hs,
            l.h,      l.x,
            l.h,      l.W_xh,
            l.W_hh,   l.b_h,
            l.hs,     l.h,
            f.desc};
  }

  // Fills `grads` and returns the loss; f.run() comes before.
  double run(const int64_t* targets) {
    double loss =
        cross_entropy(f.T * f.B, f.p.V, data(f.logits), targets, data(d_logits), data(grads.b_q));
    c.copy(f.p.W_xh, packed_xh);
    c.copy(f.p.W_hh, packed_hh);
    into_hs.execute(
        c.stream,
        {{DNNL_ARG_SRC, d_logits}, {DNNL_ARG_WEIGHTS, W_hq_T}, {DNNL_ARG_DST, d_hs_rows}});
    into_W_hq.execute(
        c.stream, {{DNNL_ARG_SRC, hs_T}, {DNNL_ARG_WEIGHTS, d_logits}, {DNNL_ARG_DST, grads.W_hq}});
    // The primitive adds to what is there.
    for (const memory* m : {&grads.W_xh, &grads.W_hh, &grads.b_h})
      std::memset(data(*m), 0, m->get_desc().get_size());
    layer.execute(c.stream, {{DNNL_ARG_SRC_LAYER, f.x},
                             {DNNL_ARG_SRC_ITER, f.h},
                             {DNNL_ARG_WEIGHTS_LAYER, packed_xh},
                             {DNNL_ARG_WEIGHTS_ITER, packed_hh},
                             {DNNL_ARG_BIAS, f.p.b_h},
                             {DNNL_ARG_DST_LAYER, f.hs},
                             {DNNL_ARG_DST_ITER, f.h_last},
                             {DNNL_ARG_WORKSPACE, f.workspace},
                             {DNNL_ARG_DIFF_SRC_LAYER, d_x},
                             {DNNL_ARG_DIFF_SRC_ITER, d_h},
                             {DNNL_ARG_DIFF_WEIGHTS_LAYER, grads.W_xh},
                             {DNNL_ARG_DIFF_WEIGHTS_ITER, grads.W_hh},
                             {DNNL_ARG_DIFF_BIAS, grads.b_h},
                             {DNNL_ARG_DIFF_DST_LAYER, d_hs},
                             {DNNL_ARG_DIFF_DST_ITER, d_h_last}});
    c.stream.wait();
    return loss;
  }
};

void clip_and_descend(const Parameters& p, const Parameters& grads, float clip, float rate) {
  auto params = p.all(), slopes = grads.all();
  double squares = 0;
  for (const memory* g : slopes) {
    const float* x = data(*g);
    const long size = Parameters::size(*g);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < size; i++) sum += x[i] * x[i];
    squares += sum;
  }
  float scale = rate * std::min(1.0, clip / std::sqrt(squares));
  for (size_t k = 0; k < params.size(); k++) {
    float* w = data(*params[k]);
    const float* g = data(*slopes[k]);
    const long size = Parameters::size(*params[k]);
    for (long i = 0; i < size; i++) w[i] -= scale * g[i];
  }
}

struct Network {
  Context context;
  Parameters trained, fixed;
  Forward training, inference, single;
  Backward backward;

  Network(long V, long H, long T, long B, const float* const* values)
      : trained(context, V, H),
        fixed(context, V, H),
        training(context, trained, T, B, dnnl::prop_kind::forward_training),
        inference(context, fixed, T, B, dnnl::prop_kind::forward_inference),
        single(context, fixed, 1, 1, dnnl::prop_kind::forward_inference),
        backward(context, training) {
    fixed.set(values);
    trained.set(values);
    inference.pack();
    single.pack();
    context.stream.wait();
  }
};

std::string failure;

template <class Work>
double guarded(Work work) {
  try {
    return work();
  } catch (const std::exception& error) {
    failure = error.what();
    return NAN;
  }
}

}  // namespace

// Every function returns NaN where it fails; network_failure() then says why.
extern "C" {

const char* network_failure() { return failure.c_str(); }

void network_version(int* parts) {
  const dnnl_version_t* v = dnnl_version();
  parts[0] = v->major, parts[1] = v->minor, parts[2] = v->patch;
}

void* network_create(long V, long H, long T, long B, const float* const* values) {
  Network* network = nullptr;
  guarded([&] { return network = new Network(V, H, T, B, values), 0.; });
  return network;
}

void network_params(Network* n, float* const* values) {
  for (int k = 0; k < 5; k++)
    std::memcpy(values[k], data(*n->trained.all()[k]), n->trained.all()[k]->get_desc().get_size());
}

void network_reset(Network* n) {
  std::vector<const float*> values;
  for (const memory* m : n->fixed.all()) values.push_back(data(*m));
  n->trained.set(values.data());
}

void network_begin(Network* n) { n->training.forget(); }

double network_train(Network* n, const int64_t* X, const int64_t* Y, float clip, float rate) {
  return guarded([&] {
    n->training.pack();
    n->training.run(X);
    double loss = n->backward.run(Y);
    clip_and_descend(n->trained, n->backward.grads, clip, rate);
    std::memcpy(data(n->training.h), data(n->training.h_last),
                n->training.B * n->trained.H * sizeof(float));
    return loss;
  });
}

double network_forward(Network* n, const int64_t* X, const int64_t* Y) {
  return guarded([&] {
    Forward& f = n->inference;
    f.run(X);
    return cross_entropy(f.T * f.B, f.p.V, data(f.logits), Y, nullptr, nullptr);
  });
}

double network_generate(Network* n, int64_t id, long count, int64_t* ids) {
  return guarded([&] {
    Forward& f = n->single;
    f.forget();
    for (long i = 0; i < count; i++) {
      f.run(&id);
      std::swap(f.h, f.h_last);
      id = std::max_element(data(f.logits), data(f.logits) + f.p.V) - data(f.logits);
      ids[i] = id;
    }
    return 0.;
  });
}
}
