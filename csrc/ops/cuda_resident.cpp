// The recurrence in one launch for all steps, by a kernel that keeps W_hh on the chip; where there
// is none, step by step (cuda_streamed.cpp).
#include "cuda/device/params.h"
#include "cuda/host/side_stream.h"
#include "ops/cuda_recurrence.h"

namespace rnnfast::cuda {

namespace {

// The kernel for a pass, or null where there is none: float64, large H.
std::shared_ptr<const Plan> plan_of(const Call& call, const char* operation, const Tensor& hs,
                                    int cell, const Direction& d, int64_t V) {
  return plan_for({operation, d.B, d.H, V, 8 * real_bytes(hs.dtype()), cell, call.device()},
                  call.stream());
}
std::shared_ptr<const Plan> plan_of(const Call& call, const Forward& f) {
  return plan_of(call, "rnn_forward", f.hs, f.cell, f, f.ids ? f.V : 0);
}
std::shared_ptr<const Plan> plan_of(const Call& call, const Backward& b) {
  return plan_of(call, "rnn_backward", b.hs, b.cell, b, 0);
}

const float* floats(const std::optional<Tensor>& tensor, int64_t first) {
  return tensor ? tensor->data<float>() + first : nullptr;
}

// Of Forward or Backward, whose arrays are in the parameters already.
template <class Params, class Pass>
void launch_with(const Call& call, const Plan& plan, Params& params, const Pass& pass,
                 void* stream) {
  params.T = pass.T;
  params.B = pass.B;
  params.H = pass.H;
  params.W_hh = pass.W_hh.template data<float>() + pass.weights();
  params.row = pass.row();
  params.step = pass.steps().way * pass.B * pass.row();
  params.rows = plan.rows;
  params.wait_limit = kWaitLimit;
  params.error = call.error();
  launch(plan.unit.c_str(), plan.name.c_str(), plan.options, plan.geometry, &params, call.device(),
         stream);
}

void run(const Call& call, const Plan& plan, const Forward& f, void* stream) {
  const Order steps = f.steps();
  const int64_t first = f.at(steps.first);
  RnnForwardParams params{};
  params.V = f.V;
  if (f.ids) {
    params.ids = f.ids->data<const long long>() + steps.first * f.ids->stride(0);
    params.ids_stride_t = steps.way * f.ids->stride(0);
    params.ids_stride_b = f.ids->stride(1);
  }
  params.x = f.x.data<float>() + (f.ids ? 0 : first);
  params.b_h = floats(f.b_h, f.bias());
  params.h0 = f.h0.data<float>() + f.state();
  params.hs = f.hs.data<float>() + first;
  params.h_last = f.h_last.data<float>() + f.state();
  launch_with(call, plan, params, f, stream);
}

void run(const Call& call, const Plan& plan, const Backward& b, void* stream) {
  const int64_t first = b.at(b.steps().first);
  RnnBackwardParams params{};
  params.grad_hs = floats(b.grad_hs, first);
  params.grad_h_last = floats(b.grad_h_last, b.state());
  params.hs = b.hs.data<float>() + first;
  params.dz = b.dz.data<float>() + first;
  params.grad_h0 = b.grad_h0 != nullptr ? b.grad_h0->data<float>() + b.state() : nullptr;
  launch_with(call, plan, params, b, stream);
}

void run_by_steps(const Call& call, const Forward& f) { forward_by_steps(call, f); }
void run_by_steps(const Call& call, const Backward& b) { backward_by_steps(call, b); }

template <class Pass>
void run_one(const Call& call, const Pass& pass) {
  if (const auto plan = plan_of(call, pass)) {
    run(call, *plan, pass, call.stream());
  } else {
    run_by_steps(call, pass);
  }
}

template <class Pass>
void run_both(const Call& call, const Pass& first, const Pass& second) {
  if (const auto plan = plan_of(call, first)) {
    const SideStream side(call.device(), call.stream());
    run(call, *plan, first, call.stream());
    run(call, *plan, second, side.stream());
    side.join();
  } else {
    run_by_steps(call, first);
    run_by_steps(call, second);
  }
}

}  // namespace

void forward(const Call& call, const Forward& f) { run_one(call, f); }
void backward(const Call& call, const Backward& b) { run_one(call, b); }

void forward(const Call& call, const Forward& first, const Forward& second) {
  run_both(call, first, second);
}
void backward(const Call& call, const Backward& first, const Backward& second) {
  run_both(call, first, second);
}

}  // namespace rnnfast::cuda
