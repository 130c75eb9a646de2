// The recurrence step by step on a GPU, where W_hh does not fit on the chip: a matrix product of
// torch's and a kernel of cuda/device/streamed.cu for each step.
#include <string>

#include "cuda/device/streamed_params.h"
#include "ops/cuda_recurrence.h"
#include "torch/aten.h"

namespace rnnfast::cuda {

namespace {

std::string options_for(const Tensor& tensor, int cell) {
  return real_option(tensor.dtype()) + " -DRF_CELL=" + std::to_string(cell);
}

}  // namespace

void forward_by_steps(const Call& call, const Forward& f) {
  const std::string options = options_for(f.hs, f.cell);
  const Tensor W_hh = f.weights_of(f.W_hh);
  const Order steps = f.steps();
  for (int64_t s = 0; s < f.T; ++s) {
    const int64_t t = steps.at(s);
    const Tensor before = s == 0 ? f.state_of(f.h0) : f.rows_of(f.hs, steps.at(s - 1), f.B);
    multiply(before, W_hh, f.rows_of(f.hs, t, f.B));
    StepForwardParams params{};
    params.B = f.B;
    params.H = f.H;
    params.V = f.V;
    params.row = f.row();
    if (f.ids) {
      params.ids = f.ids->data<const long long>() + t * f.ids->stride(0);
      params.ids_stride = f.ids->stride(1);
    }
    params.x = address(f.x, f.ids ? 0 : f.at(t));
    params.b_h = f.b_h ? address(*f.b_h, f.bias()) : nullptr;
    params.h = address(f.hs, f.at(t));
    params.h_last = s == f.T - 1 ? address(f.h_last, f.state()) : nullptr;
    params.error = call.error();
    call.launch_over(f.B * f.H, "streamed", "step_forward", options, params);
  }
}

void backward_by_steps(const Call& call, const Backward& b) {
  const std::string options = options_for(b.hs, b.cell);
  const Tensor transpose = transposed(b.weights_of(b.W_hh));
  const Order steps = b.steps();
  for (int64_t s = 0; s < b.T; ++s) {
    const int64_t t = steps.at(s);
    StepBackwardParams params{};
    params.B = b.B;
    params.H = b.H;
    params.row = b.row();
    params.grad = b.grad_hs ? address(*b.grad_hs, b.at(t)) : nullptr;
    params.h = address(b.hs, b.at(t));
    params.dz = address(b.dz, b.at(t));
    if (s > 0) {
      multiply(b.rows_of(b.dz, steps.at(s - 1), b.B), transpose, b.rows_of(b.dz, t, b.B));
      params.carry = params.dz;
      params.carry_row = b.row();
    } else if (b.grad_h_last) {
      params.carry = address(*b.grad_h_last, b.state());
      params.carry_row = b.H;
    }
    call.launch_over(b.B * b.H, "streamed", "step_backward", options, params);
  }
  if (b.grad_h0 != nullptr) {
    multiply(b.rows_of(b.dz, steps.at(b.T - 1), b.B), transpose, b.state_of(*b.grad_h0));
  }
}

}  // namespace rnnfast::cuda
