// Generation on CUDA tensors: one launch, of the variant that choose_decode.py names.
#include <string>
#include <utility>

#include "cuda/device/params.h"
#include "ops/cuda_recurrence.h"
#include "ops/recurrence_arguments.h"
#include "torch/aten.h"

namespace rnnfast::cuda {

namespace {

// As the kernel takes them: float64, whatever they were made in. It checks their range itself.
std::optional<Tensor> wide(const Call& call, const std::optional<Tensor>& uniforms, int64_t steps,
                           int64_t B) {
  if (!uniforms) return std::nullopt;
  call.require(*uniforms, "uniforms", require_real(*uniforms, "uniforms"), "[steps, B]",
               {steps, B});
  Tensor result = call.empty({steps, B}, aoti_torch_dtype_float64());
  copy(result, *uniforms);
  return result;
}

// All arguments, checked and contiguous; B > 0.
struct Decode {
  int64_t B, H, V, steps;
  const Tensor &first, &W_xh, &W_hh;
  const std::optional<Tensor>& b_h;
  const Tensor &W_hq, &b_q, &h0;
  double temperature;
  const std::optional<Tensor>& uniforms;
  int cell;
  const Tensor &ids, &h_last;
};

void in_one_launch(const Call& call, const Plan& plan, const Decode& d) {
  DecodeParams params{};
  params.B = d.B;
  params.H = d.H;
  params.V = d.V;
  params.steps = d.steps;
  params.first = d.first.data<const long long>();
  params.W_xh = d.W_xh.data<float>();
  params.W_hh = d.W_hh.data<float>();
  params.b_h = d.b_h->data<float>();
  params.W_hq = d.W_hq.data<float>();
  params.b_q = d.b_q.data<float>();
  params.h0 = d.h0.data<float>();
  params.temperature = d.temperature;
  params.uniforms = d.uniforms ? d.uniforms->data<const double>() : nullptr;
  params.ids = d.ids.data<long long>();
  params.h_last = d.h_last.data<float>();
  params.wait_limit = kWaitLimit;
  params.error = call.error();
  launch(plan.unit.c_str(), plan.name.c_str(), plan.options, plan.geometry, &params, call.device(),
         call.stream());
}

// float64, or so many classes that no block has room for their logits: two products and two kernels
// per step.
void step_by_step(const Call& call, const Decode& d) {
  const int32_t dtype = d.W_xh.dtype();
  const std::string options = real_option(dtype);
  const Direction one{1, d.B, d.H};
  const Tensor hs = call.empty({1, d.B, d.H}, dtype), logits = call.empty({d.B, d.V}, dtype);
  copy(d.h_last, d.h0);
  for (int64_t step = 0; step < d.steps; ++step) {
    const std::optional<Tensor> ids =
        step == 0 ? matrix(d.first, 1, d.B) : matrix(d.ids, 1, d.B, (step - 1) * d.B);
    forward_by_steps(call, {one, d.V, d.W_xh, ids, d.W_hh, d.b_h, d.h_last, d.cell, hs, d.h_last});
    multiply(d.h_last, d.W_hq, logits);
    ChooseParams params{};
    params.B = d.B;
    params.V = d.V;
    params.bias = d.b_q.data<void>();
    params.logits = logits.data<void>();
    params.temperature = d.temperature;
    params.uniforms = d.uniforms ? d.uniforms->data<const double>() + step * d.B : nullptr;
    params.ids = d.ids.data<long long>() + step * d.B;
    params.error = call.error();
    call.launch_over(32 * d.B, "next_id", "next_id", options, params);
  }
}

}  // namespace

std::tuple<Tensor, Tensor> decode(Tensor first, Tensor W_xh, Tensor W_hh, Tensor b_h, Tensor W_hq,
                                  Tensor b_q, Tensor h0, int64_t steps, double temperature,
                                  std::optional<Tensor> uniforms, int64_t cell) {
  const Call call(W_xh, "W_xh");
  const int32_t dtype = require_real(W_xh, "W_xh");
  require_rank(first, "first", 1, "[B]");
  require_rank(W_xh, "W_xh", 2, "[V, H]");
  const int64_t B = first.size(0), V = W_xh.size(0), H = W_xh.size(1);
  require_at_least(V, "V, the number of classes,", 1);
  require_at_least(H, "H, the number of hidden units,", 1);
  require_at_least(steps, "steps", 0);
  call.require(first, "first", aoti_torch_dtype_int64(), "[B]", {B});
  call.require(W_hh, "W_hh", dtype, "[H, H]", {H, H});
  call.require(b_h, "b_h", dtype, "[H]", {H});
  call.require(W_hq, "W_hq", dtype, "[H, V]", {H, V});
  call.require(b_q, "b_q", dtype, "[V]", {V});
  call.require(h0, "h0", dtype, "[B, H]", {B, H});
  if (uniforms && !(temperature > 0)) {
    fail("temperature is ", temperature, "; it must be above 0 where uniforms are given");
  }
  uniforms = wide(call, uniforms, steps, B);
  make_all_contiguous(first, W_xh, W_hh, b_h, W_hq, b_q, h0);

  Tensor ids = call.empty({steps, B}, aoti_torch_dtype_int64());
  Tensor h_last = call.empty({B, H}, dtype);
  if (B > 0) {
    const std::optional<Tensor> bias = std::move(b_h);
    const Decode d{B,    H,   V,  steps,       first,    W_xh,          W_hh, bias,
                   W_hq, b_q, h0, temperature, uniforms, cell_of(cell), ids,  h_last};
    const int bits = 8 * real_bytes(dtype);
    if (const auto plan =
            plan_for({"decode", B, H, V, bits, static_cast<int>(cell), false, call.device()},
                     call.stream())) {
      in_one_launch(call, *plan, d);
    } else {
      step_by_step(call, d);
    }
  }
  return {std::move(ids), std::move(h_last)};
}

}  // namespace rnnfast::cuda
