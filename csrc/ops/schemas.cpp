// The operators' schemas and registration; clipping, SGD and generation.
#include "ops/schemas.h"

#include <string>
#include <tuple>
#include <vector>

#include "gradients.h"
#include "kernels.h"
#include "ops/recurrence_arguments.h"
#include "torch/arguments.h"
#include "torch/checks.h"

namespace rnnfast {

namespace {

Tensor clip_grads(std::vector<Tensor> grads, double max_norm, bool d2l) {
  const GradientSpans spans(grads);
  double norm;
  kernels().clip_grads({
      .spans = spans.spans.data(),
      .num_spans = static_cast<int64_t>(spans.spans.size()),
      .shares_memory = spans.share_memory(),
      .max_norm = max_norm,
      .d2l = d2l,
      .norm = &norm,
  });
  Tensor result = empty({}, grads[0].dtype());
  with_real(result.dtype(), [&]<class Real>() { *result.data<Real>() = static_cast<Real>(norm); });
  return result;
}

// A parameter and its gradient as the kernel takes them.
void require_pair(const Tensor& param, const Tensor& grad, size_t position) {
  bool same = is_real(param) && param.dtype() == grad.dtype() && param.dim() == grad.dim();
  for (int64_t d = 0; same && d < param.dim(); ++d) same = param.size(d) == grad.size(d);
  if (same && param.is_contiguous() && grad.is_contiguous()) return;
  fail("params[", position, "] is ", describe(param), ", grads[", position, "] is ", describe(grad),
       "; they must be contiguous, of one shape, and both float32 or float64");
}

void sgd(std::vector<Tensor> params, std::vector<Tensor> grads, double step) {
  if (params.size() != grads.size()) {
    fail("params has ", params.size(), " tensors and grads ", grads.size(), "; as many are needed");
  }
  std::vector<SgdSpan> spans;
  std::vector<Extent> extents;
  for (size_t i = 0; i < params.size(); ++i) {
    require_pair(params[i], grads[i], i);
    spans.push_back({params[i].data<char>(), grads[i].data<char>(), params[i].numel(),
                     params[i].dtype() == aoti_torch_dtype_float64()});
    extents.push_back(extent_of(params[i]));
    extents.push_back(extent_of(grads[i]));
  }
  kernels().sgd({
      .spans = spans.data(),
      .num_spans = static_cast<int64_t>(spans.size()),
      .shares_memory = overlap(std::move(extents)),
      .step = step,
  });
}

// Uniform numbers as the kernel takes them: float64, whatever they were made in.
std::optional<Tensor> checked_uniforms(const std::optional<Tensor>& uniforms, int64_t steps,
                                       int64_t B) {
  if (!uniforms) return std::nullopt;
  require(*uniforms, "uniforms", require_real(*uniforms, "uniforms"), "[steps, B]", {steps, B});
  Tensor wide = empty({steps, B}, aoti_torch_dtype_float64());
  copy(wide, *uniforms);
  const auto* values = wide.data<const double>();
  for (int64_t i = 0; i < steps * B; ++i) {
    if (values[i] >= 0 && values[i] < 1) continue;
    fail("uniforms[", i / B, ", ", i % B, "] is ", values[i], "; it must be in [0, 1)");
  }
  return wide;
}

// kRounds: the operator whose products are of bfloat16; its tensors are float32.
template <bool kRounds>
std::tuple<Tensor, Tensor> decode(Tensor first, Tensor W_xh, Tensor W_hh, Tensor b_h, Tensor W_hq,
                                  Tensor b_q, Tensor h0, int64_t steps, double temperature,
                                  std::optional<Tensor> uniforms, int64_t cell) {
  const int32_t dtype = kRounds ? require_float(W_xh, "W_xh") : require_real(W_xh, "W_xh");
  require_rank(first, "first", 1, "[B]");
  require_rank(W_xh, "W_xh", 2, "[V, H]");
  const int64_t B = first.size(0), V = W_xh.size(0), H = W_xh.size(1);
  require_at_least(H, "H, the number of hidden units,", 1);
  require_at_least(steps, "steps", 0);
  require(first, "first", aoti_torch_dtype_int64(), "[B]", {B});
  require(W_hh, "W_hh", dtype, "[H, H]", {H, H});
  require(b_h, "b_h", dtype, "[H]", {H});
  require(W_hq, "W_hq", dtype, "[H, V]", {H, V});
  require(b_q, "b_q", dtype, "[V]", {V});
  require(h0, "h0", dtype, "[B, H]", {B, H});
  require_classes(first, "first", V);
  if (uniforms && !(temperature > 0)) {
    fail("temperature is ", temperature, "; it must be above 0 where uniforms are given");
  }
  uniforms = checked_uniforms(uniforms, steps, B);
  make_all_contiguous(first, W_xh, W_hh, b_h, W_hq, b_q, h0);

  Tensor ids = empty({steps, B}, aoti_torch_dtype_int64()), h_last = empty({B, H}, dtype);
  with_real(dtype, [&]<class Real>() {
    kernel_of<kRounds>(&KernelsOf<Real>::decode, &Kernels::decode_bf16)({
        .B = B,
        .H = H,
        .V = V,
        .steps = steps,
        .first = first.data<int64_t>(),
        .W_xh = W_xh.data<Real>(),
        .W_hh = W_hh.data<Real>(),
        .b_h = b_h.data<Real>(),
        .W_hq = W_hq.data<Real>(),
        .b_q = b_q.data<Real>(),
        .h0 = h0.data<Real>(),
        .temperature = temperature,
        .uniforms = data_or_null<double>(uniforms),
        .cell = cell_of(cell),
        .ids = ids.data<int64_t>(),
        .h_last = h_last.data<Real>(),
    });
  });
  return {std::move(ids), std::move(h_last)};
}

std::string build_info() {
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
  return compiler + "; instruction sets: " + built_instruction_sets() + "; runs " + kernels().isa;
}

// torch's own threads: torch.set_num_threads holds, and no second pool competes for the cores.
const ThreadPool kTorchThreads = {
    [](int64_t tasks, void (*body)(int64_t, int64_t, void*), void* context) {
      check_call(torch_parallel_for(0, tasks, 1, body, context), "run a parallel loop");
    },
    []() -> int64_t {
      uint32_t threads;
      check_call(torch_get_num_threads(&threads), "say how many threads it uses");
      return threads;
    }};

}  // namespace

Library define_operators(const char* name_space) {
  Library library = Library::define(name_space);
  library
      .def(
          "rnn(Tensor x, Tensor? ids, Tensor W_hh, Tensor? b_h, Tensor h0, int cell, "
          "bool transposed=False, bool reverse=False, Tensor? batch_sizes=None, "
          "Tensor? resets=None, bool resets_to_h0=False, Tensor? leak=None, "
          "float noise=0.0, int seed=0, bool saves=False) -> (Tensor hs, Tensor h_last, Tensor "
          "saved)")
      .def(
          "rnn.plain(Tensor x, Tensor? ids, Tensor W_hh, Tensor? b_h, Tensor h0, int cell, "
          "bool transposed=False) -> (Tensor hs, Tensor h_last)")
      .def(
          "rnn_backward(Tensor? grad_hs, Tensor? grad_h_last, Tensor hs, Tensor? ids, int V, "
          "Tensor W_hh, Tensor h0, int cell, bool need_W_hh, bool need_b_h, bool need_h0, "
          "bool transposed=False, bool reverse=False, Tensor? batch_sizes=None, "
          "Tensor? resets=None, bool resets_to_h0=False, Tensor? leak=None, Tensor? saved=None, "
          "bool need_leak=False) -> (Tensor grad_x, Tensor grad_W_hh, Tensor grad_b_h, Tensor "
          "grad_h0, "
          "Tensor grad_leak)")
      .def(
          "rnn_backward.plain(Tensor? grad_hs, Tensor? grad_h_last, Tensor hs, Tensor? ids, int V, "
          "Tensor W_hh, Tensor h0, int cell, bool need_W_hh, bool need_b_h, bool need_h0, "
          "bool transposed=False) "
          "-> (Tensor grad_x, Tensor grad_W_hh, Tensor grad_b_h, Tensor grad_h0)")
      .def(
          "rnn_logits(Tensor x, Tensor? ids, Tensor W_hh, Tensor? b_h, Tensor W_hq, Tensor b_q, "
          "Tensor h0, int cell) -> (Tensor logits, Tensor h_last, Tensor hs)")
      .def(
          "rnn_logits_backward(Tensor grad_logits, Tensor? grad_h_last, Tensor? grad_hs, "
          "Tensor hs, Tensor? ids, int V, Tensor W_hh, Tensor W_hq, Tensor h0, int cell, "
          "bool need_W_hh, bool need_b_h, bool need_h0) -> (Tensor grad_x, Tensor grad_W_hh, "
          "Tensor grad_b_h, Tensor grad_h0, Tensor grad_W_hq, Tensor grad_b_q)")
      .def("clip_grads_(Tensor(a!)[] grads, float max_norm, bool d2l) -> Tensor")
      .def("sgd_(Tensor(a!)[] params, Tensor(b!)[] grads, float step) -> ()")
      .def(
          "decode(Tensor first, Tensor W_xh, Tensor W_hh, Tensor b_h, Tensor W_hq, Tensor b_q, "
          "Tensor h0, int steps, float temperature, Tensor? uniforms, int cell) "
          "-> (Tensor ids, Tensor h_last)")
      .def(
          "rnn_cross_entropy(Tensor ids, Tensor targets, Tensor W_xh, Tensor W_hh, Tensor b_h, "
          "Tensor W_hq, Tensor b_q, Tensor h0, int cell, bool need_grads, bool need_h0) "
          "-> (Tensor loss, Tensor h_last, Tensor grad_W_xh, Tensor grad_W_hh, Tensor grad_b_h, "
          "Tensor grad_W_hq, Tensor grad_b_q, Tensor grad_h0)")
      .def(
          "rnn_cross_entropy_grads_(Tensor ids, Tensor targets, Tensor[] params, "
          "Tensor(a!)[] grads, Tensor h0, int cell) -> (Tensor loss, Tensor h_last)")
      .def(
          "train_steps_(Tensor[] ids, Tensor[] targets, Tensor(a!)[] params, Tensor(b!)[] grads, "
          "Tensor(c!) h, float lr, float max_norm, int cell, bool keep_grads, bool steps_first) "
          "-> Tensor")
      .def(
          "rnn_bf16(Tensor x, Tensor? ids, Tensor W_hh, Tensor? b_h, Tensor h0, int cell) "
          "-> (Tensor hs, Tensor h_last)")
      .def(
          "decode_bf16(Tensor first, Tensor W_xh, Tensor W_hh, Tensor b_h, Tensor W_hq, "
          "Tensor b_q, Tensor h0, int steps, float temperature, Tensor? uniforms, int cell) "
          "-> (Tensor ids, Tensor h_last)")
      .def("_build_info() -> str");
  return library;
}

namespace {

struct Registration {
  Registration() {
    set_thread_pool(kTorchThreads);
    define_operators("rnnfast");
    Library::implement("rnnfast", "CPU")
        .impl<rnn>("rnn")
        .impl<rnn_plain>("rnn.plain")
        .impl<rnn_bf16>("rnn_bf16")
        .impl<rnn_backward>("rnn_backward")
        .impl<rnn_backward_plain>("rnn_backward.plain")
        .impl<rnn_logits>("rnn_logits")
        .impl<rnn_logits_backward>("rnn_logits_backward")
        .impl<clip_grads>("clip_grads_")
        .impl<sgd>("sgd_")
        .impl<decode<false>>("decode")
        .impl<decode<true>>("decode_bf16")
        .impl<rnn_cross_entropy>("rnn_cross_entropy")
        .impl<rnn_cross_entropy_grads>("rnn_cross_entropy_grads_")
        .impl<train_steps>("train_steps_");
    Library::implement("rnnfast", "CompositeExplicitAutograd").impl<build_info>("_build_info");
  }
} const registration;

}  // namespace

}  // namespace rnnfast
