// The operators on CUDA tensors: checks, outputs, and which kernels run.
//
// Nothing here waits for the device. Ids are checked by the kernels that use them, which leave a
// code in the device's error word; the next call reads it (cuda/launch.h).
#include "ops/cuda_recurrence.h"

#include <string>
#include <utility>

#include "cuda/device/params.h"
#include "cuda/host/training_choice.h"
#include "cuda_gradients.h"
#include "cuda_part_sums.h"
#include "cuda_sums.h"
#include "ops/recurrence_arguments.h"
#include "ops/schemas.h"
#include "torch/aten.h"
#include "torch/checks.h"

namespace rnnfast::cuda {

namespace {

// Of the options these kernels know reverse. Transposed weights are copied for them.
void require_known(const RecurrenceOptions& options) {
  if (options.batch_sizes) fail("batch_sizes is given; on CUDA it must be None");
  if (options.resets) fail("resets is given; on CUDA it must be None");
  if (options.leak) fail("leak is given; on CUDA it must be None");
}

Direction direction_of(const RecurrenceSizes& n, const RecurrenceOptions& options, int64_t index) {
  return {n.T, n.B, n.H, options.reverse || index == 1, index, n.directions};
}

std::tuple<Tensor, Tensor> rnn(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                               std::optional<Tensor> b_h, Tensor h0, int64_t cell,
                               RecurrenceOptions options) {
  const Call call(x, "x");
  require_known(options);
  const int32_t dtype = require_real(x, "x");
  const RecurrenceSizes n = forward_sizes(x, ids, W_hh, b_h, h0, dtype);
  if (ids) require_at_least(n.V, "V, the number of rows of x,", 1);
  call.require_here(ids, "ids", W_hh, "W_hh", b_h, "b_h", h0, "h0");
  if (options.transposed) W_hh = rnnfast::transposed(W_hh);
  call.make_all_contiguous(x, W_hh, b_h, h0);

  Tensor hs = call.empty(n.array(), dtype), h_last = call.empty(n.state(), dtype);
  const auto pass = [&](int64_t index) -> Forward {
    const Direction its = direction_of(n, options, index);
    return {its, n.V, x, ids, W_hh, b_h, h0, cell_of(cell), hs, h_last};
  };
  if (n.B > 0 && n.directions == 1) forward(call, pass(0));
  if (n.B > 0 && n.directions == 2) forward(call, pass(0), pass(1));
  return {std::move(hs), std::move(h_last)};
}

// What a backward call makes. Those that are not wanted have 0 elements.
struct LayerGradients {
  LayerGradients(const Call& call, const RecurrenceSizes& n, bool has_ids, const Needs& needs)
      : dz(call.empty(n.array(), n.dtype)),
        W_hh(if_wanted(call, needs.W_hh, n.W_hh(), n.dtype)),
        b_h(if_wanted(call, needs.b_h, n.b_h(), n.dtype)),
        h0(if_wanted(call, needs.h0, n.state(), n.dtype)),
        table(if_wanted(call, has_ids, {"[V, H]", {n.V, n.H}}, n.dtype)) {}

  Tensor dz, W_hh, b_h, h0, table;

 private:
  static Tensor if_wanted(const Call& call, bool wanted, const Shape& shape, int32_t dtype) {
    return wanted ? call.empty(shape, dtype) : call.empty({0}, dtype);
  }
};

// Those of the weights and the table, from dz.
void sum_over_steps(const Call& call, const RecurrenceSizes& n, const Tensor& h0, const Tensor& hs,
                    const std::optional<Tensor>& ids, const Needs& needs,
                    const RecurrenceOptions& options, const LayerGradients& grads) {
  PartSums parts(call, n.dtype);
  Gradients gradients(call, n.N, n.dtype, parts);
  for (int64_t i = 0; needs.W_hh && i < n.directions; ++i) {
    const Direction its = direction_of(n, options, i);
    gradients.add_recurrence(its, h0, hs, grads.dz, options.transposed, grads.W_hh);
  }
  const bool sums_table = ids && has_few_classes(n.V);
  if (ids && !sums_table) {
    RowSumJobs table(call, n.dtype);
    table.add(grads.dz, n.H, *ids, n.V, grads.table);
    table.run();
  }
  if (sums_table) gradients.add_table(grads.dz, *ids, grads.table);
  if (needs.b_h) gradients.add_sum(grads.dz, grads.b_h);
  gradients.run();
  parts.run(false);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> rnn_backward(
    std::optional<Tensor> grad_hs, std::optional<Tensor> grad_h_last, Tensor hs,
    std::optional<Tensor> ids, int64_t V, Tensor W_hh, Tensor h0, int64_t cell, Needs needs,
    RecurrenceOptions options) {
  const Call call(hs, "hs");
  require_known(options);
  const RecurrenceSizes n = backward_sizes(grad_hs, grad_h_last, hs, ids, V, W_hh, h0);
  if (ids) require_at_least(V, "V", 1);
  call.require_here(grad_hs, "grad_hs", grad_h_last, "grad_h_last");
  call.require_here(ids, "ids", W_hh, "W_hh", h0, "h0");
  if (options.transposed) W_hh = rnnfast::transposed(W_hh);
  call.make_all_contiguous(grad_hs, grad_h_last, hs, W_hh, h0);

  LayerGradients grads(call, n, ids.has_value(), needs);
  const auto pass = [&](int64_t index) -> Backward {
    const Direction its = direction_of(n, options, index);
    const Tensor* grad_h0 = needs.h0 ? &grads.h0 : nullptr;
    return {its, grad_hs, grad_h_last, hs, W_hh, h0, cell_of(cell), grads.dz, grad_h0};
  };
  if (n.B == 0) {
    for (const Tensor* grad : {&grads.W_hh, &grads.b_h, &grads.table}) fill_zero(*grad);
  } else if (n.directions == 1) {
    backward(call, pass(0));
  } else {
    backward(call, pass(0), pass(1));
  }
  if (n.B > 0) sum_over_steps(call, n, h0, hs, ids, needs, options, grads);
  return {std::move(ids ? grads.table : grads.dz), std::move(grads.W_hh), std::move(grads.b_h),
          std::move(grads.h0), call.empty({0}, n.dtype)};
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
