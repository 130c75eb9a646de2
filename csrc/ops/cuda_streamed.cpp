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

// The address of an element, counted from the first of a float32 or float64 tensor.
void* address(const Tensor& tensor, int64_t element) {
  const int64_t bytes = tensor.dtype() == aoti_torch_dtype_float64() ? 8 : 4;
  return tensor.data<char>() + element * bytes;
}

}  // namespace

void forward_by_steps(const Call& call, const Forward& f) {
  const int64_t step = f.B * f.H;
  const std::string options = options_for(f.hs, f.cell);
  const Tensor W_hh = matrix(f.W_hh, f.H, f.H);
  const Order steps = f.steps();
  for (int64_t s = 0; s < f.T; ++s) {
    const int64_t t = steps.at(s);
    const Tensor before =
        s == 0 ? matrix(f.h0, f.B, f.H) : matrix(f.hs, f.B, f.H, steps.at(s - 1) * step);
    multiply(before, W_hh, matrix(f.hs, f.B, f.H, t * step));
    StepForwardParams params{};
    params.B = f.B;
    params.H = f.H;
    params.V = f.V;
    if (f.ids) {
      params.ids = f.ids->data<const long long>() + t * f.ids->stride(0);
      params.ids_stride = f.ids->stride(1);
    }
    params.x = address(f.x, f.ids ? 0 : t * step);
    params.b_h = f.b_h ? f.b_h->data<void>() : nullptr;
    params.h = address(f.hs, t * step);
    params.h_last = s == f.T - 1 ? f.h_last.data<void>() : nullptr;
    params.error = call.error();
    call.launch_over(step, "streamed", "step_forward", options, params);
  }
}

void backward_by_steps(const Call& call, const Backward& b) {
  const int64_t step = b.B * b.H;
  const std::string options = options_for(b.hs, b.cell);
  const Tensor W_hh = matrix(b.W_hh, b.H, b.H), transpose = transposed(W_hh);
  const Order steps = b.steps();
  for (int64_t s = 0; s < b.T; ++s) {
    const int64_t t = steps.at(s);
    StepBackwardParams params{};
    params.count = step;
    params.grad = b.grad_hs ? address(*b.grad_hs, t * step) : nullptr;
    params.h = address(b.hs, t * step);
    params.dz = address(b.dz, t * step);
    if (s > 0) {
      const Tensor after = matrix(b.dz, b.B, b.H, steps.at(s - 1) * step);
      multiply(after, transpose, matrix(b.dz, b.B, b.H, t * step));
      params.carry = params.dz;
    } else if (b.grad_h_last) {
      params.carry = b.grad_h_last->data<void>();
    }
    call.launch_over(step, "streamed", "step_backward", options, params);
  }
  if (b.grad_h0 != nullptr) {
    multiply(matrix(b.dz, b.B, b.H, steps.at(b.T - 1) * step), transpose, *b.grad_h0);
  }
}

}  // namespace rnnfast::cuda
