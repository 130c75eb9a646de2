// The operators on CUDA tensors: checks, outputs, and which kernels run.
//
// Nothing here waits for the device. Ids are checked by the kernels that use them, which leave a
// code in the device's error word; the next call reads it (cuda/host/launch.h).
#include "ops/cuda_recurrence.h"

#include <string>
#include <utility>
#include <vector>

#include "cuda/device/params.h"
#include "cuda/host/training_choice.h"
#include "cuda_gradients.h"
#include "cuda_options.h"
#include "cuda_part_sums.h"
#include "cuda_sums.h"
#include "ops/recurrence_arguments.h"
#include "ops/schemas.h"
#include "torch/aten.h"
#include "torch/checks.h"

namespace rnnfast::cuda {

namespace {

std::vector<Direction> directions_of(const RecurrenceSizes& n, const RecurrenceOptions& options,
                                     const std::optional<Lengths>& lengths) {
  std::vector<Direction> directions;
  for (int64_t i = 0; i < n.directions; ++i) {
    directions.push_back(
        {n.T, n.B, n.H, options.reverse || i == 1, i, n.directions, lengths ? &*lengths : nullptr});
  }
  return directions;
}

std::tuple<Tensor, Tensor, Tensor> rnn(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                                       std::optional<Tensor> b_h, Tensor h0, int64_t cell,
                                       RecurrenceOptions options, double noise, int64_t,
                                       bool saves) {
  if (noise != 0) fail("noise is ", noise, "; it must be 0 on CUDA, where torch draws it");
  const Call call(x, "x");
  const int32_t dtype = require_real(x, "x");
  const int code = any_cell_of(cell);
  const RecurrenceSizes n = forward_sizes(x, ids, W_hh, b_h, h0, dtype, options);
  require_options(n, code, options);
  if (ids) require_at_least(n.V, "V, the number of rows of x,", 1);
  call.require_here(ids, "ids", W_hh, "W_hh", b_h, "b_h", h0, "h0");
  prepare(call, options);
  if (options.transposed) W_hh = rnnfast::transposed(W_hh);
  make_all_contiguous(x, W_hh, b_h, h0);

  Tensor hs = call.empty(n.array(), dtype), h_last = call.empty(n.state(), dtype);
  if (saves && options.leak) options.saved = call.empty(n.array(), dtype);
  const std::optional<Lengths> lengths = lengths_of(call, n, options.batch_sizes);
  const std::vector<Direction> directions = directions_of(n, options, lengths);
  const auto pass = [&](int64_t index) -> Forward {
    return {directions[index], n.V, x, ids, W_hh, b_h, h0, code, hs, h_last, options};
  };
  if (n.B > 0 && n.directions == 1) forward(call, pass(0));
  if (n.B > 0 && n.directions == 2) forward(call, pass(0), pass(1));
  Tensor saved = options.saved ? std::move(*options.saved) : call.empty({0}, dtype);
  return {std::move(hs), std::move(h_last), std::move(saved)};
}

// What a backward call makes. Those that are not wanted have 0 elements.
struct LayerGradients {
  LayerGradients(const Call& call, const RecurrenceSizes& n, bool has_ids, bool has_leak,
                 const Needs& needs)
      : dz(call.empty(n.array(), n.dtype)),
        W_hh(if_wanted(call, needs.W_hh, n.W_hh(), n.dtype)),
        b_h(if_wanted(call, needs.b_h, n.b_h(), n.dtype)),
        h0(if_wanted(call, needs.h0, n.state(), n.dtype)),
        table(if_wanted(call, has_ids, {"[V, H]", {n.V, n.H}}, n.dtype)),
        leak(if_wanted(call, has_leak, n.b_h(), n.dtype)),
        leak_of_rows(if_wanted(call, has_leak, n.state(), n.dtype)) {}

  Tensor dz, W_hh, b_h, h0, table, leak;
  Tensor leak_of_rows;  // [B, H]

 private:
  static Tensor if_wanted(const Call& call, bool wanted, const Shape& shape, int32_t dtype) {
    return wanted ? call.empty(shape, dtype) : call.empty({0}, dtype);
  }
};

// Those of the weights, the table and the leak, from what the passes have left.
void sum_over_steps(const Call& call, const RecurrenceSizes& n,
                    const std::vector<Direction>& directions, const States& states,
                    const std::optional<Tensor>& ids, const Needs& needs, bool transposed,
                    const LayerGradients& grads) {
  PartSums parts(call, n.dtype);
  Gradients gradients(call, n.N, n.dtype, parts);
  RowSumJobs sums(call, n.dtype);
  for (const Direction& its : directions) {
    if (needs.W_hh) gradients.add_recurrence(its, states, grads.dz, transposed, grads.W_hh);
    if (grads.leak.numel() > 0) {
      sums.add(its.state_of(grads.leak_of_rows), n.B, n.H, its.bias_of(grads.leak));
    }
  }
  if (ids) {
    const Tensor classes = n.is_ragged ? view(*ids, {n.N, 1}, {ids->stride(0), 1}) : same(*ids);
    if (has_few_classes(n.V)) {
      gradients.add_table(grads.dz, classes, grads.table);
    } else {
      sums.add(grads.dz, n.H, classes, n.V, grads.table);
    }
  }
  if (needs.b_h) gradients.add_sum(grads.dz, grads.b_h);
  sums.run();
  gradients.run();
  parts.run(false);
}

// The states before all steps, where they are wanted and not h0 and hs shifted by a step.
std::optional<Tensor> states_before(const Call& call, const RecurrenceSizes& n,
                                    const std::vector<Direction>& directions, const Tensor& h0,
                                    const Tensor& hs, bool are_wanted,
                                    const RecurrenceOptions& options) {
  if (!are_wanted || !has_options(options)) return std::nullopt;
  Tensor before = call.empty(n.array(), n.dtype);
  for (const Direction& its : directions) {
    find_states_before(call, its, h0, hs, options, before);
  }
  return before;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> rnn_backward(
    std::optional<Tensor> grad_hs, std::optional<Tensor> grad_h_last, Tensor hs,
    std::optional<Tensor> ids, int64_t V, Tensor W_hh, Tensor h0, int64_t cell, Needs needs,
    RecurrenceOptions options, std::optional<Tensor> saved, bool need_leak) {
  const Call call(hs, "hs");
  const int code = any_cell_of(cell);
  const RecurrenceSizes n = backward_sizes(grad_hs, grad_h_last, hs, ids, V, W_hh, h0, options);
  options.saved = std::move(saved);
  require_options(n, code, options);
  require_saved(n, options);
  if (ids) require_at_least(V, "V", 1);
  call.require_here(grad_hs, "grad_hs", grad_h_last, "grad_h_last");
  call.require_here(ids, "ids", W_hh, "W_hh", h0, "h0");
  prepare(call, options);
  if (options.transposed) W_hh = rnnfast::transposed(W_hh);
  make_all_contiguous(grad_hs, grad_h_last, hs, W_hh, h0);

  const bool has_leak = need_leak && options.leak;
  LayerGradients grads(call, n, ids.has_value(), has_leak, needs);
  if (n.B == 0) {
    for (const Tensor* grad : {&grads.W_hh, &grads.b_h, &grads.table, &grads.leak}) {
      fill_zero(*grad);
    }
  } else {
    const std::optional<Lengths> lengths = lengths_of(call, n, options.batch_sizes);
    const std::vector<Direction> directions = directions_of(n, options, lengths);
    const std::optional<Tensor> before =
        states_before(call, n, directions, h0, hs, needs.W_hh || has_leak, options);
    const States states{h0, hs, before ? &*before : nullptr};
    const auto pass = [&](int64_t index) -> Backward {
      const Tensor* grad_h0 = needs.h0 ? &grads.h0 : nullptr;
      return {directions[index],
              grad_hs,
              grad_h_last,
              hs,
              W_hh,
              h0,
              code,
              grads.dz,
              grad_h0,
              options,
              states.before,
              has_leak ? &grads.leak_of_rows : nullptr};
    };
    if (n.directions == 1) {
      backward(call, pass(0));
    } else {
      backward(call, pass(0), pass(1));
    }
    sum_over_steps(call, n, directions, states, ids, needs, options.transposed, grads);
  }
  return {std::move(ids ? grads.table : grads.dz), std::move(grads.W_hh), std::move(grads.b_h),
          std::move(grads.h0), std::move(grads.leak)};
}

void implement(Library library) {
  library.impl<rnn>("rnn")
      .impl<plain_rnn<rnn>>("rnn.plain")
      .impl<rnn_backward>("rnn_backward")
      .impl<plain_rnn_backward<rnn_backward>>("rnn_backward.plain")
      .impl<rnn_cross_entropy>("rnn_cross_entropy")
      .impl<train_steps>("train_steps_")
      .impl<clip_grads>("clip_grads_")
      .impl<decode>("decode");
}

struct Registration {
  Registration() { implement(Library::implement("rnnfast", "CUDA")); }
} const registration;

}  // namespace

}  // namespace rnnfast::cuda

// The same operators for CPU tensors as rnnfast_emulated::*, for a driver that runs kernels on the
// CPU: the tests' own. Once in a process.
extern "C" __attribute__((visibility("default"))) void rnnfast_cuda_emulate() {
  static const bool once = [] {
    rnnfast::define_operators("rnnfast_emulated");
    rnnfast::cuda::implement(rnnfast::Library::implement("rnnfast_emulated", "CPU"));
    return true;
  }();
  static_cast<void>(once);
}
