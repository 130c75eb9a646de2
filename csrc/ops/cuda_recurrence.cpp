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

// An output that may not be wanted: then 0 elements.
Tensor wanted_or_empty(const Call& call, bool wanted, std::initializer_list<int64_t> sizes,
                       int32_t dtype) {
  return wanted ? call.empty(sizes, dtype) : call.empty({0}, dtype);
}

// The variant that keeps W_hh on the chip, or null where there is none: float64, large H. V: rows
// of the table that ids choose from, 0 without ids.
std::shared_ptr<const Plan> resident_plan(const Call& call, const char* operation, const Tensor& hs,
                                          int cell, int64_t V) {
  return plan_for(
      {operation, hs.size(1), hs.size(2), V, 8 * real_bytes(hs.dtype()), cell, call.device()},
      call.stream());
}

// Of Forward or Backward, whose arrays are in the parameters already.
template <class Params, class Arguments>
void launch_plan(const Call& call, const Plan& plan, Params& params, const Arguments& of) {
  params.T = of.T;
  params.B = of.B;
  params.H = of.H;
  params.W_hh = of.W_hh.template data<float>();
  params.step = of.steps().way * of.B * of.H;
  params.rows = plan.rows;
  params.wait_limit = kWaitLimit;
  params.error = call.error();
  launch(plan.unit.c_str(), plan.name.c_str(), plan.options, plan.geometry, &params, call.device(),
         call.stream());
}

void forward_resident(const Call& call, const Plan& plan, const Forward& f) {
  const Order steps = f.steps();
  const int64_t first = steps.first * f.B * f.H;
  RnnForwardParams params{};
  params.V = f.V;
  if (f.ids) {
    params.ids = f.ids->data<const long long>() + steps.first * f.ids->stride(0);
    params.ids_stride_t = steps.way * f.ids->stride(0);
    params.ids_stride_b = f.ids->stride(1);
  }
  params.x = f.x.data<float>() + (f.ids ? 0 : first);
  params.b_h = f.b_h ? f.b_h->data<float>() : nullptr;
  params.h0 = f.h0.data<float>();
  params.hs = f.hs.data<float>() + first;
  params.h_last = f.h_last.data<float>();
  launch_plan(call, plan, params, f);
}

void backward_resident(const Call& call, const Plan& plan, const Backward& b) {
  const int64_t first = b.steps().first * b.B * b.H;
  RnnBackwardParams params{};
  params.grad_hs = b.grad_hs ? b.grad_hs->data<float>() + first : nullptr;
  params.grad_h_last = b.grad_h_last ? b.grad_h_last->data<float>() : nullptr;
  params.hs = b.hs.data<float>() + first;
  params.dz = b.dz.data<float>() + first;
  params.grad_h0 = b.grad_h0 != nullptr ? b.grad_h0->data<float>() : nullptr;
  launch_plan(call, plan, params, b);
}

}  // namespace

void forward(const Call& call, const Forward& f) {
  if (const auto plan = resident_plan(call, "rnn_forward", f.hs, f.cell, f.ids ? f.V : 0)) {
    forward_resident(call, *plan, f);
  } else {
    forward_by_steps(call, f);
  }
}

void backward(const Call& call, const Backward& b) {
  if (const auto plan = resident_plan(call, "rnn_backward", b.hs, b.cell, 0)) {
    backward_resident(call, *plan, b);
  } else {
    backward_by_steps(call, b);
  }
}

namespace {

// Of the options these kernels know reverse. Transposed weights are copied for them.
void require_known(const RecurrenceOptions& options) {
  if (options.batch_sizes) fail("batch_sizes is given; on CUDA it must be None");
  if (options.resets) fail("resets is given; on CUDA it must be None");
  if (options.leak) fail("leak is given; on CUDA it must be None");
}

// One direction's part of arrays that have both: [T, B, 2 H], and weights and states [2, ...].
class Direction {
 public:
  Direction(const RecurrenceSizes& n, int64_t index) : n_(n), index_(index) {}

  Tensor steps(const Tensor& both) const {
    return view(both, {n_.T, n_.B, n_.H}, {2 * n_.B * n_.H, 2 * n_.H, 1}, index_ * n_.H);
  }
  Tensor weights(const Tensor& both) const {
    return matrix(both, n_.H, n_.H, index_ * n_.H * n_.H);
  }
  Tensor bias(const Tensor& both) const { return view(both, {n_.H}, {1}, index_ * n_.H); }
  Tensor state(const Tensor& both) const { return matrix(both, n_.B, n_.H, index_ * n_.B * n_.H); }

  RecurrenceOptions options(const RecurrenceOptions& both) const {
    RecurrenceOptions one;
    one.transposed = both.transposed;
    one.reverse = index_ == 1;
    return one;
  }

 private:
  const RecurrenceSizes& n_;
  int64_t index_;
};

// Both directions of a layer, one after the other, each on a copy of its part.
std::tuple<Tensor, Tensor> rnn_both(const Call& call, const RecurrenceSizes& n, Tensor x,
                                    Tensor W_hh, std::optional<Tensor> b_h, Tensor h0, int64_t cell,
                                    const RecurrenceOptions& options);

std::tuple<Tensor, Tensor> rnn(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                               std::optional<Tensor> b_h, Tensor h0, int64_t cell,
                               RecurrenceOptions options) {
  const Call call(x, "x");
  require_known(options);
  const int32_t dtype = require_real(x, "x");
  const RecurrenceSizes n = forward_sizes(x, ids, W_hh, b_h, h0, dtype);
  const int64_t T = n.T, B = n.B, H = n.H, V = n.V;
  if (ids) require_at_least(V, "V, the number of rows of x,", 1);
  call.require_here(ids, "ids", W_hh, "W_hh", b_h, "b_h", h0, "h0");
  if (n.directions == 2) {
    return rnn_both(call, n, std::move(x), std::move(W_hh), std::move(b_h), std::move(h0), cell,
                    options);
  }
  if (options.transposed) W_hh = rnnfast::transposed(W_hh);
  call.make_all_contiguous(x, W_hh, b_h, h0);

  Tensor hs = call.empty({T, B, H}, dtype), h_last = call.empty({B, H}, dtype);
  if (B > 0) {
    const Forward arguments{
        T, B, H, V, x, ids, W_hh, b_h, h0, cell_of(cell), hs, h_last, options.reverse};
    forward(call, arguments);
  }
  return {std::move(hs), std::move(h_last)};
}

std::tuple<Tensor, Tensor> rnn_both(const Call& call, const RecurrenceSizes& n, Tensor x,
                                    Tensor W_hh, std::optional<Tensor> b_h, Tensor h0, int64_t cell,
                                    const RecurrenceOptions& options) {
  call.make_all_contiguous(x, W_hh, b_h, h0);
  Tensor hs = call.empty({n.T, n.B, 2 * n.H}, n.dtype), h_last = call.empty({2, n.B, n.H}, n.dtype);
  for (int64_t i = 0; i < 2; ++i) {
    const Direction one(n, i);
    std::optional<Tensor> bias;
    if (b_h) bias = one.bias(*b_h);
    const auto [its_hs, its_h_last] =
        cuda::rnn(one.steps(x), std::nullopt, one.weights(W_hh), std::move(bias), one.state(h0),
                  cell, one.options(options));
    copy(one.steps(hs), its_hs);
    copy(one.state(h_last), its_h_last);
  }
  return {std::move(hs), std::move(h_last)};
}

using FiveTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

FiveTensors backward_both(const Call& call, const RecurrenceSizes& n, std::optional<Tensor> grad_hs,
                          std::optional<Tensor> grad_h_last, Tensor hs, Tensor W_hh, Tensor h0,
                          int64_t cell, const Needs& needs, const RecurrenceOptions& options);

FiveTensors rnn_backward(std::optional<Tensor> grad_hs, std::optional<Tensor> grad_h_last,
                         Tensor hs, std::optional<Tensor> ids, int64_t V, Tensor W_hh, Tensor h0,
                         int64_t cell, Needs needs, RecurrenceOptions options) {
  const Call call(hs, "hs");
  require_known(options);
  const RecurrenceSizes n = backward_sizes(grad_hs, grad_h_last, hs, ids, V, W_hh, h0);
  const int64_t T = n.T, B = n.B, H = n.H;
  const int32_t dtype = n.dtype;
  if (ids) require_at_least(V, "V", 1);
  call.require_here(grad_hs, "grad_hs", grad_h_last, "grad_h_last");
  call.require_here(ids, "ids", W_hh, "W_hh", h0, "h0");
  if (n.directions == 2) {
    return backward_both(call, n, std::move(grad_hs), std::move(grad_h_last), std::move(hs),
                         std::move(W_hh), std::move(h0), cell, needs, options);
  }
  if (options.transposed) W_hh = rnnfast::transposed(W_hh);
  call.make_all_contiguous(grad_hs, grad_h_last, hs, W_hh, h0);

  Tensor dz = call.empty({T, B, H}, dtype);
  Tensor grad_W_hh = wanted_or_empty(call, needs.W_hh, {H, H}, dtype);
  Tensor grad_b_h = wanted_or_empty(call, needs.b_h, {H}, dtype);
  Tensor grad_h0 = wanted_or_empty(call, needs.h0, {B, H}, dtype);
  Tensor grad_table = wanted_or_empty(call, ids.has_value(), {V, H}, dtype);
  if (B > 0) {
    const Backward arguments{T,
                             B,
                             H,
                             grad_hs,
                             grad_h_last,
                             hs,
                             W_hh,
                             h0,
                             cell_of(cell),
                             dz,
                             needs.h0 ? &grad_h0 : nullptr,
                             options.reverse};
    backward(call, arguments);
    PartSums parts(call, dtype);
    Gradients gradients(call, T * B, dtype, parts);
    if (needs.W_hh) gradients.add_recurrence(h0, hs, dz, options, grad_W_hh);
    const bool sums_table = ids && has_few_classes(V);
    if (ids && !sums_table) {
      RowSumJobs table(call, dtype);
      table.add(dz, H, *ids, V, grad_table);
      table.run();
    }
    if (sums_table) gradients.add_table(dz, *ids, grad_table);
    if (needs.b_h) gradients.add_sum(dz, grad_b_h);
    gradients.run();
    parts.run(false);
  } else {
    for (const Tensor* grad : {&grad_W_hh, &grad_b_h, &grad_table}) fill_zero(*grad);
  }
  return {std::move(ids ? grad_table : dz), std::move(grad_W_hh), std::move(grad_b_h),
          std::move(grad_h0), call.empty({0}, dtype)};
}

FiveTensors backward_both(const Call& call, const RecurrenceSizes& n, std::optional<Tensor> grad_hs,
                          std::optional<Tensor> grad_h_last, Tensor hs, Tensor W_hh, Tensor h0,
                          int64_t cell, const Needs& needs, const RecurrenceOptions& options) {
  call.make_all_contiguous(grad_hs, grad_h_last, hs, W_hh, h0);
  Tensor grad_x = call.empty({n.T, n.B, 2 * n.H}, n.dtype);
  Tensor grad_W_hh = wanted_or_empty(call, needs.W_hh, {2, n.H, n.H}, n.dtype);
  Tensor grad_b_h = wanted_or_empty(call, needs.b_h, {2, n.H}, n.dtype);
  Tensor grad_h0 = wanted_or_empty(call, needs.h0, {2, n.B, n.H}, n.dtype);
  for (int64_t i = 0; i < 2; ++i) {
    const Direction one(n, i);
    std::optional<Tensor> its_grad_hs, its_grad_h_last;
    if (grad_hs) its_grad_hs = one.steps(*grad_hs);
    if (grad_h_last) its_grad_h_last = one.state(*grad_h_last);
    const auto [x, W, b, h, leak] = cuda::rnn_backward(
        std::move(its_grad_hs), std::move(its_grad_h_last), one.steps(hs), std::nullopt, 0,
        one.weights(W_hh), one.state(h0), cell, needs, one.options(options));
    copy(one.steps(grad_x), x);
    if (needs.W_hh) copy(one.weights(grad_W_hh), W);
    if (needs.b_h) copy(one.bias(grad_b_h), b);
    if (needs.h0) copy(one.state(grad_h0), h);
  }
  return {std::move(grad_x), std::move(grad_W_hh), std::move(grad_b_h), std::move(grad_h0),
          call.empty({0}, n.dtype)};
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
