// The recurrence step by step on a GPU, where W_hh does not fit on the chip or no kernel for all
// steps knows the options: a matrix product of torch's and a kernel of cuda/device/streamed.cu for
// each step.
#include <algorithm>
#include <string>

#include "cuda/device/streamed_params.h"
#include "ops/cuda_recurrence.h"
#include "torch/aten.h"

namespace rnnfast::cuda {

namespace {

std::string macros_for(const Tensor& tensor, int cell) {
  return real_option(tensor.dtype()) + " -DRF_CELL=" + std::to_string(cell);
}

const unsigned char* resets_of(const RecurrenceOptions& options, int64_t t, int64_t B) {
  return options.resets ? options.resets->data<const unsigned char>() + t * B : nullptr;
}

void set_ids(StepForwardParams& params, const Forward& f, int64_t t) {
  const Tensor& ids = *f.ids;
  const bool is_ragged = ids.dim() == 1;
  params.ids = ids.data<const long long>() + (is_ragged ? f.start(t) : t) * ids.stride(0);
  params.ids_stride = ids.stride(is_ragged ? 0 : 1);
}

// What is the same in all steps.
StepForwardParams parameters_of(const Call& call, const Forward& f) {
  StepForwardParams params{};
  params.H = f.H;
  params.V = f.V;
  params.row = f.row();
  params.b_h = address(f.b_h, f.bias());
  params.leak = address(f.options.leak, f.bias());
  params.state = address(f.h_last, f.state());
  params.error = call.error();
  return params;
}

StepBackwardParams parameters_of(const Backward& b, const Tensor& product,
                                 const std::optional<Tensor>& beside) {
  StepBackwardParams params{};
  params.H = b.H;
  params.row = b.row();
  params.resets_to_h0 = b.options.resets_to_h0;
  params.grad_h_last = address(b.grad_h_last, b.state());
  params.product = address(product, 0);
  params.beside = address(beside, 0);
  params.leak = address(b.options.leak, b.bias());
  params.grad_leak = address(b.grad_leak, b.state());
  params.grad_h0 = address(b.grad_h0, b.state());
  return params;
}

}  // namespace

void forward_by_steps(const Call& call, const Forward& f) {
  const std::string macros = macros_for(f.hs, f.cell);
  const Tensor W_hh = f.weights_of(f.W_hh), state = f.state_of(f.h_last), h0 = f.state_of(f.h0);
  StepForwardParams params = parameters_of(call, f);
  std::optional<Tensor> start_product;
  if (f.options.resets && f.options.resets_to_h0) {
    start_product = call.empty({f.B, f.H}, f.hs.dtype());
    multiply(h0, W_hh, *start_product);
    params.start = address(h0, 0);
    params.start_product = address(start_product, 0);
  }
  if (state.data<void>() != h0.data<void>()) copy(state, h0);
  const Order steps = f.steps();
  for (int64_t s = 0; s < f.T; ++s) {
    const int64_t t = steps.at(s);
    params.rows = f.rows(t);
    multiply(matrix(state, params.rows, f.H), W_hh, f.rows_of(f.hs, t, params.rows));
    if (f.ids) set_ids(params, f, t);
    params.x = address(f.x, f.ids ? 0 : f.at(t));
    params.resets = resets_of(f.options, t, f.B);
    params.saved = address(f.options.saved, f.at(t));
    params.hs = address(f.hs, f.at(t));
    call.launch_over(params.rows * f.H, "streamed", "step_forward", macros, params);
  }
}

void backward_by_steps(const Call& call, const Backward& b) {
  const std::string macros = macros_for(b.hs, b.cell);
  const Tensor transpose = transposed(b.weights_of(b.W_hh));
  const Tensor product = call.empty({b.B, b.H}, b.hs.dtype());
  std::optional<Tensor> beside;
  if (b.options.leak) beside = call.empty({b.B, b.H}, b.hs.dtype());
  if (b.grad_leak != nullptr) fill_zero(b.state_of(*b.grad_leak));
  if (b.grad_h0 != nullptr) fill_zero(b.state_of(*b.grad_h0));
  const Tensor& activities = b.options.leak ? *b.options.saved : b.hs;
  StepBackwardParams params = parameters_of(b, product, beside);
  const auto launch_step = [&](int64_t rows) {
    params.rows = rows;
    const int64_t most = std::max<int64_t>(rows, params.rows_after);
    call.launch_over(most * b.H, "streamed", "step_backward", macros, params);
  };
  const Order steps = b.steps();
  for (int64_t s = 0; s < b.T; ++s) {
    const int64_t t = steps.at(s), rows = b.rows(t);
    params.grad_hs = address(b.grad_hs, b.at(t));
    params.activity = address(activities, b.at(t));
    params.before = address(b.before, b.at(t));
    params.dz = address(b.dz, b.at(t));
    launch_step(rows);
    if (s == b.T - 1 && b.grad_h0 == nullptr) return;
    multiply(b.rows_of(b.dz, t, rows), transpose, matrix(product, rows, b.H));
    params.rows_after = rows;
    params.resets = resets_of(b.options, t, b.B);
  }
  launch_step(0);  // hands grad_h0 what the first step sends
}

}  // namespace rnnfast::cuda
