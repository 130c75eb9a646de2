#include "cuda_options.h"

#include <algorithm>

#include "torch/checks.h"

namespace rnnfast::cuda {

bool has_options(const RecurrenceOptions& options) {
  return options.batch_sizes || options.resets || options.leak;
}

void prepare(const Call& call, RecurrenceOptions& options) {
  call.require_here(options.resets, "resets", options.leak, "leak", options.saved, "saved");
  call.make_all_contiguous(options.resets, options.leak);
}

std::vector<int64_t> starts_of(const std::optional<Tensor>& batch_sizes) {
  if (!batch_sizes) return {};
  const auto* sizes = batch_sizes->data<const int64_t>();
  std::vector<int64_t> starts = {0};
  for (int64_t t = 0; t < batch_sizes->size(0); ++t) {
    starts.push_back(starts.back() + sizes[t * batch_sizes->stride(0)]);
  }
  return starts;
}

std::optional<Tensor> steps_on_device(const Call& call, const Direction& d) {
  if (d.starts == nullptr) return std::nullopt;
  if (is_capturing(call.stream())) {
    fail("batch_sizes is given inside the capture of a CUDA graph, whose replays cannot copy it ",
         "to the device; it must be None there");
  }
  const int32_t dtype = aoti_torch_dtype_int64();
  const Tensor values = empty({d.T + d.B}, dtype);
  auto* starts = values.data<int64_t>();
  auto* lengths = std::copy_n(d.starts, d.T, starts);
  for (int64_t n = 0, length = d.T; n < d.B; ++n) {
    while (d.rows(length - 1) <= n) --length;
    lengths[n] = length;
  }
  Tensor on_device = call.empty({d.T + d.B}, dtype);
  copy_without_waiting(on_device, values);
  return on_device;
}

RecurrenceOptionsParams params_of(const RecurrenceOptions& options, const Direction& d,
                                  const Order& order, const std::optional<Tensor>& steps) {
  RecurrenceOptionsParams params{};
  params.first = order.first;
  params.way = order.way;
  if (steps) {
    params.starts = steps->data<const long long>();
    params.lengths = params.starts + d.T;
  }
  if (options.resets) params.resets = options.resets->data<const unsigned char>();
  params.resets_to_h0 = options.resets_to_h0;
  return params;
}

void find_states_before(const Call& call, const Direction& d, const Tensor& h0, const Tensor& hs,
                        const RecurrenceOptions& options, const std::optional<Tensor>& steps,
                        const Tensor& before) {
  StatesBeforeParams params{};
  params.T = d.T;
  params.B = d.B;
  params.H = d.H;
  params.row = d.row();
  params.h0 = address(h0, d.state());
  params.hs = address(hs, d.at(0));
  params.before = address(before, d.at(0));
  params.options = params_of(options, d, order(d.T, d.reverse), steps);
  call.launch_over(d.T * d.B * d.H, "states_before", "states_before", real_option(hs.dtype()),
                   params);
}

}  // namespace rnnfast::cuda
