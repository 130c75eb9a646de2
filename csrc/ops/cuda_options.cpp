#include "cuda_options.h"

#include "torch/checks.h"

namespace rnnfast::cuda {

bool has_options(const RecurrenceOptions& options) {
  return options.batch_sizes || options.resets || options.leak;
}

void prepare(const Call& call, RecurrenceOptions& options) {
  call.require_here(options.resets, "resets", options.leak, "leak", options.saved, "saved");
  call.make_all_contiguous(options.resets, options.leak);
}

std::optional<Lengths> lengths_of(const Call& call, const RecurrenceSizes& n,
                                  const std::optional<Tensor>& batch_sizes) {
  if (!batch_sizes) return std::nullopt;
  if (is_capturing(call.stream())) {
    fail("batch_sizes is given inside the capture of a CUDA graph, whose replays cannot copy it ",
         "to the device; it must be None there");
  }
  const int32_t dtype = aoti_torch_dtype_int64();
  const Tensor values = empty({n.T + n.B}, dtype);
  auto* starts = values.data<int64_t>();
  auto* lengths = starts + n.T;
  const auto* sizes = batch_sizes->data<const int64_t>();
  const int64_t stride = batch_sizes->stride(0);
  for (int64_t t = 0, start = 0; t < n.T; start += sizes[t++ * stride]) starts[t] = start;
  for (int64_t row = 0, length = n.T; row < n.B; ++row) {
    while (sizes[(length - 1) * stride] <= row) --length;
    lengths[row] = length;
  }
  Lengths result{{starts, starts + n.T}, call.empty({n.T + n.B}, dtype)};
  result.starts.push_back(n.N);
  copy_without_waiting(result.on_device, values);
  return result;
}

RecurrenceOptionsParams params_of(const RecurrenceOptions& options, const Direction& d,
                                  const Order& order) {
  RecurrenceOptionsParams params{};
  params.first = order.first;
  params.way = order.way;
  if (d.lengths != nullptr) {
    params.starts = d.lengths->on_device.data<const long long>();
    params.lengths = params.starts + d.T;
  }
  if (options.resets) params.resets = options.resets->data<const unsigned char>();
  params.resets_to_h0 = options.resets_to_h0;
  return params;
}

void find_states_before(const Call& call, const Direction& d, const Tensor& h0, const Tensor& hs,
                        const RecurrenceOptions& options, const Tensor& before) {
  StatesBeforeParams params{};
  params.T = d.T;
  params.B = d.B;
  params.H = d.H;
  params.row = d.row();
  params.h0 = address(h0, d.state());
  params.hs = address(hs, d.at(0));
  params.before = address(before, d.at(0));
  params.options = params_of(options, d, order(d.T, d.reverse));
  call.launch_over(d.T * d.B * d.H, "states_before", "states_before", real_option(hs.dtype()),
                   params);
}

}  // namespace rnnfast::cuda
