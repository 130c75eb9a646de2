// The operators of the layer: the recurrence forward and backward, without and with a readout.
#include <optional>
#include <tuple>
#include <utility>

#include "kernels.h"
#include "ops/recurrence_arguments.h"
#include "ops/schemas.h"
#include "torch/arguments.h"
#include "torch/aten.h"
#include "torch/checks.h"

namespace rnnfast {

namespace {

// The sizes of a call, and its ids and options as the kernels take them.
struct LayerCall : RecurrenceSizes {
  Classes classes;
  RnnOptions options;
  int cell;

  LayerCall(const RecurrenceSizes& sizes, const std::optional<Tensor>& ids, int cell,
            RecurrenceOptions& options)
      : RecurrenceSizes(sizes), cell(cell) {
    require_options(sizes, cell, options);
    if (ids) classes = is_ragged ? Classes(*ids, "ids", V) : Classes(*ids, "ids", T, B, V);
    make_all_contiguous(options.batch_sizes, options.resets, options.leak);
    this->options = {
        .transposed = options.transposed,
        .reverse = options.reverse,
        .batch_sizes = data_or_null<int64_t>(options.batch_sizes),
        .directions = directions,
        .resets = data_or_null<uint8_t>(options.resets),
        .resets_to_h0 = options.resets_to_h0,
        .noise = options.noise,
        .seed = static_cast<uint64_t>(options.seed),
    };
  }

  template <class Args>
  void fill(Args& args) const {
    args.T = T;
    args.B = B;
    args.H = H;
    args.V = V;
    args.ids = classes.values;
    args.ids_stride_t = classes.stride_t;
    args.ids_stride_b = classes.stride_b;
    args.cell = cell;
    args.options = options;
  }
};

template <class Real>
RnnForwardArgs<Real> forward_arguments(const LayerCall& n, const Tensor& x, const Tensor& W_hh,
                                       const std::optional<Tensor>& b_h, const Tensor& h0,
                                       const Tensor& hs, const Tensor& h_last) {
  RnnForwardArgs<Real> args{};
  n.fill(args);
  args.x = x.data<Real>();
  args.W_hh = W_hh.data<Real>();
  args.b_h = data_or_null<Real>(b_h);
  args.h0 = h0.data<Real>();
  args.hs = hs.data<Real>();
  args.h_last = h_last.data<Real>();
  return args;
}

// What reaches the states of a call from outside its steps.
struct StateGradients {
  std::optional<Tensor> hs, h_last;
};

// Of the operators whose kernels run no second direction.
void require_one_direction(const Tensor& W_hh) { require_rank(W_hh, "W_hh", 2, "[H, H]"); }

LayerCall backward_call(StateGradients& grads, const Tensor& hs, const std::optional<Tensor>& ids,
                        int64_t V, const Tensor& W_hh, const Tensor& h0, int cell,
                        RecurrenceOptions& options) {
  const LayerCall n(backward_sizes(grads.hs, grads.h_last, hs, ids, V, W_hh, h0, options), ids,
                    cell, options);
  make_all_contiguous(grads.hs, grads.h_last);
  return n;
}

// The gradients of the recurrence's own arguments.
struct RecurrenceGradients {
  RecurrenceGradients(const LayerCall& n, const std::optional<Tensor>& ids, const Needs& needs)
      : x(ids ? empty({n.V, n.H}, n.dtype) : empty(n.array(), n.dtype)),
        W_hh(needs.W_hh, n.W_hh(), n.dtype),
        b_h(needs.b_h, n.b_h(), n.dtype),
        h0(needs.h0, n.state(), n.dtype) {
    // No sequence: the kernel has no worker that would clear the table's gradient.
    if (n.B == 0 && ids) fill_zero(x);
  }

  template <class Real>
  RnnBackwardArgs<Real> arguments(const LayerCall& n, const StateGradients& grads, const Tensor& hs,
                                  const Tensor& W_hh_value, const Tensor& h0_value) const {
    RnnBackwardArgs<Real> args{};
    n.fill(args);
    args.grad_hs = data_or_null<Real>(grads.hs);
    args.grad_h_last = data_or_null<Real>(grads.h_last);
    args.hs = hs.data<Real>();
    args.W_hh = W_hh_value.data<Real>();
    args.h0 = h0_value.data<Real>();
    args.grad_x = x.data<Real>();
    args.grad_W_hh = W_hh.data<Real>();
    args.grad_b_h = b_h.data<Real>();
    args.grad_h0 = h0.data<Real>();
    return args;
  }

  Tensor x;
  OptionalOutput W_hh, b_h, h0;
};

struct LayerResults {
  Tensor hs, h_last;
  std::optional<Tensor> saved;
};

// Forward. kRounds: with products of bfloat16.
template <bool kRounds>
LayerResults run_forward(Tensor x, const std::optional<Tensor>& ids, Tensor W_hh,
                         std::optional<Tensor> b_h, Tensor h0, int64_t cell,
                         RecurrenceOptions options, bool saves = false) {
  const int32_t dtype = kRounds ? require_float(x, "x") : require_real(x, "x");
  if (kRounds) require_one_direction(W_hh);
  const LayerCall n(forward_sizes(x, ids, W_hh, b_h, h0, dtype, options), ids, any_cell_of(cell),
                    options);
  make_all_contiguous(x, W_hh, b_h, h0);

  LayerResults out{empty(n.array(), dtype), empty(n.state(), dtype), std::nullopt};
  if (saves && options.leak) out.saved = empty(n.array(), dtype);
  with_real(dtype, [&]<class Real>() {
    auto args = forward_arguments<Real>(n, x, W_hh, b_h, h0, out.hs, out.h_last);
    args.leak = data_or_null<Real>(options.leak);
    args.saved = data_or_null<Real>(out.saved);
    kernel_of<kRounds>(&KernelsOf<Real>::rnn_forward, &Kernels::rnn_forward_bf16)(args);
  });
  return out;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> rnn(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                                       std::optional<Tensor> b_h, Tensor h0, int64_t cell,
                                       RecurrenceOptions options, double noise, int64_t seed,
                                       bool saves) {
  options.noise = noise;
  options.seed = seed;
  LayerResults out = run_forward<false>(std::move(x), ids, std::move(W_hh), std::move(b_h),
                                        std::move(h0), cell, std::move(options), saves);
  Tensor saved = out.saved ? std::move(*out.saved) : empty({0}, out.hs.dtype());
  return {std::move(out.hs), std::move(out.h_last), std::move(saved)};
}

std::tuple<Tensor, Tensor> rnn_plain(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                                     std::optional<Tensor> b_h, Tensor h0, int64_t cell,
                                     bool transposed) {
  LayerResults out = run_forward<false>(std::move(x), ids, std::move(W_hh), std::move(b_h),
                                        std::move(h0), cell, {.transposed = transposed});
  return {std::move(out.hs), std::move(out.h_last)};
}

std::tuple<Tensor, Tensor> rnn_bf16(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                                    std::optional<Tensor> b_h, Tensor h0, int64_t cell) {
  LayerResults out = run_forward<true>(std::move(x), ids, std::move(W_hh), std::move(b_h),
                                       std::move(h0), cell, {});
  return {std::move(out.hs), std::move(out.h_last)};
}

std::tuple<Tensor, Tensor, Tensor> rnn_logits(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                                              std::optional<Tensor> b_h, Tensor W_hq, Tensor b_q,
                                              Tensor h0, int64_t cell) {
  const int32_t dtype = require_real(x, "x");
  require_one_direction(W_hh);
  RecurrenceOptions none;
  const LayerCall n(forward_sizes(x, ids, W_hh, b_h, h0, dtype), ids, cell_of(cell), none);
  require_rank(W_hq, "W_hq", 2, "[H, V]");
  const int64_t classes = W_hq.size(1);
  require(W_hq, "W_hq", dtype, "[H, V]", {n.H, classes});
  require(b_q, "b_q", dtype, "[V]", {classes});
  make_all_contiguous(x, W_hh, b_h, W_hq, b_q, h0);

  Tensor logits = empty({n.T * n.B, classes}, dtype);
  Tensor hs = empty(n.array(), dtype), h_last = empty(n.state(), dtype);
  with_real(dtype, [&]<class Real>() {
    auto args = forward_arguments<Real>(n, x, W_hh, b_h, h0, hs, h_last);
    args.classes = classes;
    args.W_hq = W_hq.data<Real>();
    args.b_q = b_q.data<Real>();
    args.logits = logits.data<Real>();
    kernels_of<Real>().rnn_forward(args);
  });
  return {std::move(logits), std::move(h_last), std::move(hs)};
}

namespace {

struct LayerGradients : RecurrenceGradients {
  using RecurrenceGradients::RecurrenceGradients;
  std::optional<Tensor> leak;
};

LayerGradients run_backward(StateGradients grads, Tensor hs, const std::optional<Tensor>& ids,
                            int64_t V, Tensor W_hh, Tensor h0, int64_t cell, const Needs& needs,
                            RecurrenceOptions options, bool need_leak = false) {
  const LayerCall n = backward_call(grads, hs, ids, V, W_hh, h0, any_cell_of(cell), options);
  require_saved(n, options);
  make_all_contiguous(hs, W_hh, h0, options.saved);

  LayerGradients out(n, ids, needs);
  if (need_leak && options.leak) out.leak = empty(n.b_h(), n.dtype);
  with_real(n.dtype, [&]<class Real>() {
    auto args = out.arguments<Real>(n, grads, hs, W_hh, h0);
    args.leak = data_or_null<Real>(options.leak);
    args.saved = data_or_null<Real>(options.saved);
    args.grad_leak = data_or_null<Real>(out.leak);
    kernels_of<Real>().rnn_backward(args);
  });
  return out;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> rnn_backward(
    std::optional<Tensor> grad_hs, std::optional<Tensor> grad_h_last, Tensor hs,
    std::optional<Tensor> ids, int64_t V, Tensor W_hh, Tensor h0, int64_t cell, Needs needs,
    RecurrenceOptions options, std::optional<Tensor> saved, bool need_leak) {
  options.saved = std::move(saved);
  LayerGradients out =
      run_backward({std::move(grad_hs), std::move(grad_h_last)}, std::move(hs), ids, V,
                   std::move(W_hh), std::move(h0), cell, needs, std::move(options), need_leak);
  return {std::move(out.x), std::move(out.W_hh.tensor), std::move(out.b_h.tensor),
          std::move(out.h0.tensor), out.leak ? std::move(*out.leak) : empty({0}, out.x.dtype())};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> rnn_backward_plain(std::optional<Tensor> grad_hs,
                                                              std::optional<Tensor> grad_h_last,
                                                              Tensor hs, std::optional<Tensor> ids,
                                                              int64_t V, Tensor W_hh, Tensor h0,
                                                              int64_t cell, Needs needs,
                                                              bool transposed) {
  LayerGradients out =
      run_backward({std::move(grad_hs), std::move(grad_h_last)}, std::move(hs), ids, V,
                   std::move(W_hh), std::move(h0), cell, needs, {.transposed = transposed});
  return {std::move(out.x), std::move(out.W_hh.tensor), std::move(out.b_h.tensor),
          std::move(out.h0.tensor)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rnn_logits_backward(
    Tensor grad_logits, std::optional<Tensor> grad_h_last, std::optional<Tensor> grad_hs, Tensor hs,
    std::optional<Tensor> ids, int64_t V, Tensor W_hh, Tensor W_hq, Tensor h0, int64_t cell,
    Needs needs) {
  require_one_direction(W_hh);
  StateGradients grads{std::move(grad_hs), std::move(grad_h_last)};
  RecurrenceOptions none;
  const LayerCall n = backward_call(grads, hs, ids, V, W_hh, h0, cell_of(cell), none);
  require_rank(W_hq, "W_hq", 2, "[H, V]");
  const int64_t classes = W_hq.size(1);
  require(W_hq, "W_hq", n.dtype, "[H, V]", {n.H, classes});
  require(grad_logits, "grad_logits", n.dtype, "[T * B, V]", {n.T * n.B, classes});
  make_all_contiguous(grad_logits, hs, W_hh, W_hq, h0);

  RecurrenceGradients out(n, ids, needs);
  Tensor grad_W_hq = empty({n.H, classes}, n.dtype), grad_b_q = empty({classes}, n.dtype);
  with_real(n.dtype, [&]<class Real>() {
    auto args = out.arguments<Real>(n, grads, hs, W_hh, h0);
    args.classes = classes;
    args.grad_logits = grad_logits.data<Real>();
    args.W_hq = W_hq.data<Real>();
    args.grad_W_hq = grad_W_hq.data<Real>();
    args.grad_b_q = grad_b_q.data<Real>();
    kernels_of<Real>().rnn_backward(args);
  });
  return {std::move(out.x),         std::move(out.W_hh.tensor), std::move(out.b_h.tensor),
          std::move(out.h0.tensor), std::move(grad_W_hq),       std::move(grad_b_q)};
}

}  // namespace rnnfast
