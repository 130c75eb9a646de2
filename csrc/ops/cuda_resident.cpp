// The recurrence in one launch for all steps, by a kernel that keeps W_hh on the chip; where there
// is none, step by step (cuda_streamed.cpp).
#include "cuda/device/params.h"
#include "cuda/host/side_stream.h"
#include "ops/cuda_options.h"
#include "ops/cuda_recurrence.h"

namespace rnnfast::cuda {

namespace {

// The kernel for a pass, of which there are `launches` at the same time; null where there is none:
// float64, large H.
template <class Pass>
std::shared_ptr<const Plan> plan_of(const Call& call, const char* operation, const Pass& pass,
                                    int64_t V, int launches) {
  const int bits = 8 * real_bytes(pass.hs.dtype());
  return plan_for({operation, pass.B, pass.H, V, bits, pass.cell, has_options(pass.options),
                   call.device(), launches},
                  call.stream());
}
std::shared_ptr<const Plan> plan_of(const Call& call, const Forward& f, int launches) {
  return plan_of(call, "rnn_forward", f, f.ids ? f.V : 0, launches);
}
std::shared_ptr<const Plan> plan_of(const Call& call, const Backward& b, int launches) {
  return plan_of(call, "rnn_backward", b, 0, launches);
}

float* floats(const std::optional<Tensor>& tensor, int64_t first) {
  return tensor ? tensor->data<float>() + first : nullptr;
}

// The time to which a kernel's arrays point and the way to the next: those of the steps that are
// taken, but for kernels that know options, which find a step's time themselves.
template <class Pass>
Order order_of_arrays(const Pass& pass) {
  return has_options(pass.options) ? Order{0, 1} : pass.steps();
}

// One pass by a kernel for all steps. It keeps the kernel's scratch, so that a pass on another
// stream gets none that is still in use.
class Launch {
 public:
  Launch(const Call& call, const Plan& plan, void* stream)
      : call_(call), plan_(plan), stream_(stream) {
    if (plan.scratch_bytes > 0)
      scratch_ = call.empty({plan.scratch_bytes}, aoti_torch_dtype_uint8());
  }

  void operator()(const Forward& f) const {
    const Order times = order_of_arrays(f);
    const int64_t first = f.at(times.first);
    RnnForwardParams params{};
    params.V = f.V;
    if (f.ids) {
      const Tensor& ids = *f.ids;
      params.ids = ids.data<const long long>() + times.first * ids.stride(0);
      params.ids_stride_t = times.way * ids.stride(0);
      params.ids_stride_b = ids.stride(ids.dim() - 1);
    }
    params.x = f.x.data<float>() + (f.ids ? 0 : first);
    params.b_h = floats(f.b_h, f.bias());
    params.h0 = f.h0.data<float>() + f.state();
    params.hs = f.hs.data<float>() + first;
    params.h_last = f.h_last.data<float>() + f.state();
    set_options(params.options, f);
    launch_with(params, f);
  }

  void operator()(const Backward& b) const {
    const int64_t first = b.at(order_of_arrays(b).first);
    RnnBackwardParams params{};
    params.grad_hs = floats(b.grad_hs, first);
    params.grad_h_last = floats(b.grad_h_last, b.state());
    params.hs = b.hs.data<float>() + first;
    params.dz = b.dz.data<float>() + first;
    params.grad_h0 = b.grad_h0 != nullptr ? b.grad_h0->data<float>() + b.state() : nullptr;
    set_options(params.options, b);
    if (b.options.leak) params.hs = floats(b.options.saved, first);
    if (b.grad_leak != nullptr) {
      params.options.before = b.before->data<float>() + first;
      params.options.grad_leak = b.grad_leak->data<float>() + b.state();
    }
    launch_with(params, b);
  }

 private:
  template <class Pass>
  void set_options(RecurrenceOptionsParams& params, const Pass& pass) const {
    if (!has_options(pass.options)) return;
    params = params_of(pass.options, pass, pass.steps());
    params.leak = floats(pass.options.leak, pass.bias());
    params.saved = floats(pass.options.saved, pass.at(0));
  }

  // Of Forward or Backward, whose own arrays are in the parameters already.
  template <class Params, class Pass>
  void launch_with(Params& params, const Pass& pass) const {
    params.T = pass.T;
    params.B = pass.B;
    params.H = pass.H;
    params.W_hh = pass.W_hh.template data<float>() + pass.weights();
    params.row = pass.row();
    params.step = order_of_arrays(pass).way * pass.B * pass.row();
    params.rows = plan_.rows;
    params.wait_limit = kWaitLimit;
    params.error = call_.error();
    if (scratch_) params.scratch = scratch_->data<unsigned char>();
    launch(plan_.unit.c_str(), plan_.name.c_str(), plan_.options, plan_.geometry, &params,
           call_.device(), stream_);
  }

  const Call& call_;
  const Plan& plan_;
  void* stream_;
  std::optional<Tensor> scratch_;
};

void run_by_steps(const Call& call, const Forward& f) { forward_by_steps(call, f); }
void run_by_steps(const Call& call, const Backward& b) { backward_by_steps(call, b); }

template <class Pass>
void run_one(const Call& call, const Pass& pass) {
  if (const auto plan = plan_of(call, pass, 1)) {
    Launch(call, *plan, call.stream())(pass);
  } else {
    run_by_steps(call, pass);
  }
}

template <class Pass>
void run_both(const Call& call, const Pass& first, const Pass& second) {
  if (const auto plan = plan_of(call, first, 2)) {
    const SideStream side(call.device(), call.stream());
    const Launch here(call, *plan, call.stream()), beside(call, *plan, side.stream());
    here(first);
    beside(second);
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
