// Runs every kernel without torch, for AddressSanitizer and ThreadSanitizer to watch: odd sizes,
// buffers of exactly the size that a kernel may touch, several workers on real threads, and two
// callers at once. Exits with 1 where a result is not that of the plain loops in naive.h.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "buffer.h"
#include "check.h"
#include "kernels.h"
#include "meeting.h"
#include "naive.h"
#include "options.h"
#include "runs.h"
#include "threads.h"

namespace rnnfast {
namespace {

using naive::Sizes;
using naive::Values;

class Case {
 public:
  Case(const Sizes& n, unsigned seed) : n(n), random_(seed) {
    const double scale = (n.relu ? 0.6 : 1.0) / std::sqrt(static_cast<double>(n.H));
    W_xh = uniform(n.V * n.H, 1);
    W_hh = uniform(n.H * n.H, 1.7 * scale);
    b_h = uniform(n.H, 0.3);
    W_hq = uniform(n.H * n.V, 2 * scale);
    b_q = uniform(n.V, 0.3);
    h0 = uniform(n.B * n.H, 1);
    ids = classes(n.T * n.B);
    targets = classes(n.T * n.B);
  }

  void run() {
    run_as<float>(kernels().f32);
    run_as<double>(kernels().f64);
    clip<float>();
    clip<double>();
    descend<float>();
    descend<double>();
  }

 private:
  // In (-scale, scale), and the same number in either type.
  Values uniform(int64_t count, double scale) {
    std::uniform_real_distribution<double> distribution(-scale, scale);
    Values values(count);
    for (double& value : values) value = static_cast<float>(distribution(random_));
    return values;
  }

  std::vector<int64_t> classes(int64_t count) {
    std::vector<int64_t> values(count);
    for (int64_t& value : values) value = static_cast<int64_t>(random_() % n.V);
    return values;
  }

  // [T, B] as [B, T]: ids come with any strides.
  Buffer<int64_t> transposed(const std::vector<int64_t>& classes) const {
    Buffer<int64_t> out(n.T * n.B);
    for (int64_t i = 0; i < n.T * n.B; ++i) out.data()[i % n.B * n.T + i / n.B] = classes[i];
    return out;
  }

  template <class Real>
  void expect(const std::string& name, const Buffer<Real>& got, const Values& want,
              double allowed = kTolerance<Real>) const {
    rnnfast::expect(n, name, got, want, allowed);
  }
  template <class Real>
  void fail(const std::string& name, double error) const {
    rnnfast::fail<Real>(n, name, error);
  }

  static constexpr double kBf16Tolerance = 0.1;

  template <class Real>
  void run_as(const KernelsOf<Real>& kernels) {
    layer(kernels, true);
    layer(kernels, false);
    if (n.B > 0) train(kernels);
    for (const bool sampled : {false, true}) {
      generate(kernels.decode, kTolerance<Real>, sampled);
      if constexpr (sizeof(Real) == 4) {
        generate(rnnfast::kernels().decode_bf16, kBf16Tolerance, sampled);
      }
    }
  }

  // Sizes, cell, and ids of `transposed`.
  template <class Args>
  void fill(Args& args, const int64_t* ids) const {
    args.T = n.T, args.B = n.B, args.H = n.H, args.V = n.V, args.cell = n.relu;
    args.ids = ids, args.ids_stride_t = 1, args.ids_stride_b = n.T;
  }

  // Forward and backward. Without ids the optional arguments are left out too.
  template <class Real>
  void layer(const KernelsOf<Real>& kernels, bool with_ids) {
    const Values x = with_ids ? W_xh : uniform(n.T * n.B * n.H, 1);
    const Values bias = with_ids ? b_h : Values(n.H);
    const Values hs = naive::forward(n, with_ids ? naive::gather(n, W_xh, ids) : x, W_hh, bias, h0);
    Buffer<int64_t> ids_in = transposed(ids);
    Buffer<Real> x_in(x), W_in(W_hh), b_in(b_h), h0_in(h0), hs_out(hs.size()), last(h0.size());
    RnnForwardArgs<Real> args{};
    fill(args, with_ids ? ids_in.data() : nullptr);
    args.x = x_in.data(), args.W_hh = W_in.data(), args.h0 = h0_in.data();
    if (with_ids) args.b_h = b_in.data();
    args.hs = hs_out.data(), args.h_last = last.data();
    kernels.rnn_forward(args);
    expect("hs", hs_out, hs);
    expect("h_last", last, Values(hs.end() - n.B * n.H, hs.end()));
    if constexpr (sizeof(Real) == 4) {
      rnnfast::kernels().rnn_forward_bf16(args);
      expect("hs of bf16", hs_out, hs, kBf16Tolerance);
      expect("h_last of bf16", last, Values(hs.end() - n.B * n.H, hs.end()), kBf16Tolerance);
    }

    Values grad_hs = with_ids ? uniform(hs.size(), 1) : Values(hs.size());
    const Values grad_last = uniform(h0.size(), 1);
    Buffer<Real> hs_in(hs), grad_hs_in(grad_hs), grad_last_in(grad_last), grad_x(x.size()),
        grad_W(W_hh.size()), grad_b(n.H), grad_h0(h0.size());
    RnnBackwardArgs<Real> backward{};
    fill(backward, with_ids ? ids_in.data() : nullptr);
    backward.grad_h_last = grad_last_in.data(), backward.hs = hs_in.data();
    backward.W_hh = W_in.data(), backward.h0 = h0_in.data();
    backward.grad_x = grad_x.data(), backward.grad_W_hh = grad_W.data();
    if (with_ids) {
      backward.grad_hs = grad_hs_in.data(), backward.grad_b_h = grad_b.data();
      backward.grad_h0 = grad_h0.data();
    }
    kernels.rnn_backward(backward);
    const Values rounded(hs_in.data(), hs_in.data() + hs.size());
    naive::Gradients want = naive::backward(n, grad_hs, grad_last, rounded, W_hh, h0);
    expect("grad_W_hh", grad_W, want.W_hh);
    if (!with_ids) return expect("grad_x", grad_x, want.dz);
    Values table(W_xh.size());
    naive::scatter(n, want.dz, ids, table);
    expect("grad_table", grad_x, table);
    expect("grad_b_h", grad_b, want.b_h);
    expect("grad_h0", grad_h0, want.h0);

    Buffer<Real> W_hq_in(W_hq), b_q_in(b_q), logits(n.T * n.B * n.V);
    args.classes = n.V, args.W_hq = W_hq_in.data(), args.b_q = b_q_in.data();
    args.logits = logits.data();
    kernels.rnn_forward(args);
    expect("hs of a readout", hs_out, hs);
    expect("logits", logits, naive::read_out(n, hs, W_hq, b_q));

    const Values grad_logits = uniform(logits.size(), 1);
    Buffer<Real> grad_logits_in(grad_logits), grad_W_hq(W_hq.size()), grad_b_q(n.V);
    backward.classes = n.V, backward.grad_logits = grad_logits_in.data();
    backward.W_hq = W_hq_in.data();
    backward.grad_W_hq = grad_W_hq.data(), backward.grad_b_q = grad_b_q.data();
    kernels.rnn_backward(backward);
    const int64_t tokens = n.T * n.B;
    Values want_W_hq(W_hq.size()), want_b_q(n.V);
    naive::add_product(grad_logits.data(), false, W_hq.data(), true, tokens, n.V, n.H,
                       grad_hs.data());
    naive::add_product(rounded.data(), true, grad_logits.data(), false, n.H, tokens, n.V,
                       want_W_hq.data());
    naive::add_column_sums(grad_logits.data(), tokens, n.V, want_b_q.data());
    want = naive::backward(n, grad_hs, grad_last, rounded, W_hh, h0);
    expect("grad_W_hh under a readout", grad_W, want.W_hh);
    expect("grad_h0 under a readout", grad_h0, want.h0);
    expect("grad_W_hq", grad_W_hq, want_W_hq);
    expect("grad_b_q", grad_b_q, want_b_q);
  }

  struct Loss {
    double value = 0;
    std::vector<Values> gradients;  // of W_xh, W_hh, b_h, W_hq, b_q, h0
    Values h_last;
  };

  Loss loss() const {
    const Values hs = naive::forward(n, naive::gather(n, W_xh, ids), W_hh, b_h, h0);
    Values dlogits = naive::read_out(n, hs, W_hq, b_q);
    naive::softmax(n.V, dlogits);
    const int64_t tokens = n.T * n.B;
    Loss out;
    for (int64_t i = 0; i < tokens; ++i) {
      out.value -= std::log(dlogits[i * n.V + targets[i]]) / tokens;
      dlogits[i * n.V + targets[i]] -= 1;
    }
    for (double& value : dlogits) value /= tokens;
    Values grad_hs(hs.size()), grad_W_xh(W_xh.size()), grad_W_hq(W_hq.size()), grad_b_q(n.V);
    naive::add_product(dlogits.data(), false, W_hq.data(), true, tokens, n.V, n.H, grad_hs.data());
    naive::add_product(hs.data(), true, dlogits.data(), false, n.H, tokens, n.V, grad_W_hq.data());
    naive::add_column_sums(dlogits.data(), tokens, n.V, grad_b_q.data());
    const auto layer = naive::backward(n, grad_hs, Values(h0.size()), hs, W_hh, h0);
    naive::scatter(n, layer.dz, ids, grad_W_xh);
    out.gradients = {grad_W_xh, layer.W_hh, layer.b_h, grad_W_hq, grad_b_q, layer.h0};
    out.h_last.assign(hs.end() - n.B * n.H, hs.end());
    return out;
  }

  // The loss alone, with its gradients, and the whole step.
  template <class Real>
  void train(const KernelsOf<Real>& kernels) {
    const Loss want = loss();
    const std::vector<Values> values = {W_xh, W_hh, b_h, W_hq, b_q, h0};
    std::vector<Buffer<Real>> params, grads;
    for (const Values& value : values) {
      params.emplace_back(value);
      grads.emplace_back(static_cast<int64_t>(value.size()));
    }
    Buffer<int64_t> ids_in = transposed(ids), targets_in = transposed(targets);
    Buffer<double> loss_out(1);
    Buffer<Real> last(h0.size());
    CrossEntropyArgs<Real> args{};
    fill(args, ids_in.data());
    args.targets = targets_in.data(), args.targets_stride_t = 1, args.targets_stride_b = n.T;
    args.W_xh = params[0].data(), args.W_hh = params[1].data(), args.b_h = params[2].data();
    args.W_hq = params[3].data(), args.b_q = params[4].data(), args.h0 = params[5].data();
    args.loss = loss_out.data(), args.h_last = last.data();

    kernels.rnn_cross_entropy(args);
    expect("loss alone", rounded<Real>(loss_out), {want.value});
    expect("h_last of the loss", last, want.h_last);

    args.grad_W_xh = grads[0].data(), args.grad_W_hh = grads[1].data();
    args.grad_b_h = grads[2].data(), args.grad_W_hq = grads[3].data();
    args.grad_b_q = grads[4].data(), args.grad_h0 = grads[5].data();
    const char* names[] = {"W_xh", "W_hh", "b_h", "W_hq", "b_q", "h0"};
    for (const bool adds : {false, true}) {  // to the gradients of before, but h0's
      args.adds_gradients = adds;
      kernels.rnn_cross_entropy(args);
      expect("loss", rounded<Real>(loss_out), {want.value});
      for (int i = 0; i < 6; ++i) {
        Values sum = want.gradients[i];
        for (double& each : sum) each *= adds && i < 5 ? 2 : 1;
        expect(std::string("loss's gradient of ") + names[i], grads[i], sum);
      }
    }

    const double lr = 0.5, max_norm = 0.01;
    args.adds_gradients = false, args.grad_h0 = nullptr, args.h_last = params[5].data();
    kernels.train_step({args, params[0].data(), params[1].data(), params[2].data(),
                        params[3].data(), params[4].data(), lr, max_norm, true});
    double squares = 0;
    for (int i = 0; i < 5; ++i) {
      for (const double value : want.gradients[i]) squares += value * value;
    }
    const double factor = std::min(1.0, max_norm / std::sqrt(squares));
    for (int i = 0; i < 5; ++i) {
      Values moved = values[i];
      for (size_t k = 0; k < moved.size(); ++k) moved[k] -= lr * factor * want.gradients[i][k];
      expect(std::string("the step's ") + names[i], params[i], moved);
    }
    expect("h of the step", params[5], want.h_last);
  }

  template <class Real>
  static Buffer<Real> rounded(const Buffer<double>& value) {
    return Buffer<Real>(std::vector<double>{value[0]});
  }

  template <class Real>
  void generate(void (*decode)(const DecodeArgs<Real>&), double allowed, bool sampled) {
    const int64_t steps = n.T;
    const double temperature = 0.7;
    std::vector<int64_t> first = classes(n.B);
    Values uniforms = uniform(steps * n.B, 0.5);
    for (double& u : uniforms) u += 0.5;
    Buffer<int64_t> first_in(first), chosen(steps * n.B);
    Buffer<double> uniforms_in(uniforms);
    Buffer<Real> W_xh_in(W_xh), W_hh_in(W_hh), b_h_in(b_h), W_hq_in(W_hq), b_q_in(b_q), h0_in(h0),
        last(h0.size());
    decode({n.B, n.H, n.V, steps, first_in.data(), W_xh_in.data(), W_hh_in.data(), b_h_in.data(),
            W_hq_in.data(), b_q_in.data(), h0_in.data(), temperature,
            sampled ? uniforms_in.data() : nullptr, n.relu, chosen.data(), last.data()});
    // Along the path that was chosen, as rounding may break a tie either way.
    std::vector<int64_t> inputs = first;
    for (int64_t i = 0; i < chosen.size(); ++i) {
      if (chosen[i] < 0 || chosen[i] >= n.V) return fail<Real>("a chosen id", chosen[i]);
      if (i < (steps - 1) * n.B) inputs.push_back(chosen[i]);
    }
    const Values hs = naive::forward(n, naive::gather(n, W_xh, inputs), W_hh, b_h, h0);
    expect("h_last of decode", last, Values(hs.end() - n.B * n.H, hs.end()), allowed);
    Values logits = naive::read_out(n, hs, W_hq, b_q);
    if (sampled) {
      for (double& logit : logits) logit /= temperature;
      naive::softmax(n.V, logits);
    }
    for (int64_t i = 0; i < chosen.size(); ++i) {
      const double* row = logits.data() + i * n.V;
      double error = *std::max_element(row, row + n.V) - row[chosen[i]];
      if (sampled) {
        double below = 0;
        for (int64_t v = 0; v < chosen[i]; ++v) below += row[v];
        error = std::max(below - uniforms[i], uniforms[i] - below - row[chosen[i]]);
      }
      if (!(error <= 10 * allowed)) fail<Real>("choice", error);
    }
  }

  // A matrix with a stride, a large vector, an empty one.
  template <class Real>
  void clip() {
    const Values matrix = uniform(n.H * n.V * 3, 1), large = uniform(n.B * 8192 + 1, 1);
    Buffer<Real> matrix_in(matrix), large_in(large);
    std::vector<GradientSpan> spans = {{large_in.data(), large_in.size(), 1, sizeof(Real) == 8},
                                       {matrix_in.data(), 0, 1, sizeof(Real) == 8}};
    Values scaled = matrix, scaled_large = large;
    double squares = 0, norm = 0;
    for (const double value : large) squares += value * value;
    for (int64_t row = 0; row < n.H; ++row) {  // every third column
      const int64_t count = n.V, begin = row * 3 * n.V;
      spans.push_back({matrix_in.data() + begin, count, 3, sizeof(Real) == 8});
      for (int64_t v = 0; v < count; ++v) squares += matrix[begin + 3 * v] * matrix[begin + 3 * v];
    }
    const double factor = 0.5 / std::sqrt(squares);
    for (double& value : scaled_large) value *= factor;
    for (size_t i = 0; i < scaled.size(); i += 3) scaled[i] *= factor;
    kernels().clip_grads(
        {spans.data(), static_cast<int64_t>(spans.size()), false, 0.5, true, &norm});
    if (!(std::abs(norm * factor - 0.5) <= 1e-9)) fail<Real>("norm", norm);
    expect("clipped large", large_in, scaled_large);
    expect("clipped matrix", matrix_in, scaled);
  }

  // A large parameter and an empty one.
  template <class Real>
  void descend() {
    const Values param = uniform(n.B * 8192 + 1, 1), grad = uniform(n.B * 8192 + 1, 1);
    Buffer<Real> param_in(param), grad_in(grad);
    const SgdSpan spans[] = {{param_in.data(), grad_in.data(), 0, sizeof(Real) == 8},
                             {param_in.data(), grad_in.data(), param_in.size(), sizeof(Real) == 8}};
    kernels().sgd({spans, 2, false, 0.25});
    Values moved = param;
    for (size_t i = 0; i < moved.size(); ++i) moved[i] -= 0.25 * grad[i];
    expect("parameter", param_in, moved);
    expect("gradient after the step", grad_in, Values(grad.size()));
  }

  const Sizes n;
  std::minstd_rand random_;
  Values W_xh, W_hh, b_h, W_hq, b_q, h0;
  std::vector<int64_t> ids, targets;
};

}  // namespace
}  // namespace rnnfast

int main() {
  using namespace rnnfast;
  set_thread_pool(kPool);
  for (const int64_t crew : {2, 3, 5}) {
    workers = threads = crew;
    if (!everyone_meets(crew)) failed = true, std::printf("a team of %d did not meet\n", int(crew));
  }
  const std::vector<Run> runs = all_runs();
  // Two callers that take turns at the list, so that kernels of different sizes run side by side.
  const auto every_second = [&](size_t first) {
    for (size_t i = first; i < runs.size(); i += 2) {
      workers = runs[i].workers, threads = runs[i].threads;
      Case(runs[i].sizes, static_cast<unsigned>(i + 1)).run();
      // Few runs are so large that several workers share a step: these meet more of the options.
      const unsigned draws = runs[i].sizes.H > 100 ? 16 : 4;
      for (unsigned draw = 0; draw < draws; ++draw) {
        OptionsCase(runs[i].sizes, static_cast<unsigned>(16 * i + 1) + draw).run();
      }
    }
  };
  std::thread second(every_second, 1);
  every_second(0);
  second.join();
  std::printf("%s: %zu cases\n", kernels().isa, runs.size());
  return failed ? 1 : 0;
}
