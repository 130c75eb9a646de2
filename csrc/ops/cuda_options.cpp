#include "cuda_options.h"

#include <algorithm>
#include <utility>

#include "torch/checks.h"

namespace rnnfast::cuda {

bool has_options(const RecurrenceOptions& options) {
  return options.batch_sizes || options.resets || options.leak;
}

void prepare(const Call& call, RecurrenceOptions& options) {
  call.require_here(options.resets, "resets", options.leak, "leak", options.saved, "saved");
  make_all_contiguous(options.resets, options.leak, options.saved);
}

namespace {

Tensor written_on_device(const Call& call, const std::vector<int64_t>& values) {
  const auto count = static_cast<int64_t>(values.size());
  Tensor on_device = call.empty({count}, aoti_torch_dtype_int64());
  for (int64_t first = 0; first < count; first += kMostValues) {
    WriteValuesParams params{};
    params.to = on_device.data<long long>() + first;
    params.count = static_cast<int>(std::min<int64_t>(count - first, kMostValues));
    std::copy_n(values.begin() + first, params.count, params.values);
    call.launch_over(params.count, "write_values", "write_values", "", params);
  }
  return on_device;
}

}  // namespace

std::optional<Lengths> lengths_of(const Call& call, const RecurrenceSizes& n,
                                  const std::optional<Tensor>& batch_sizes) {
  if (!batch_sizes) return std::nullopt;
  const auto* sizes = batch_sizes->data<const int64_t>();
  const int64_t stride = batch_sizes->stride(0);
  std::vector<int64_t> starts, lengths;
  for (int64_t t = 0, start = 0; t < n.T; start += sizes[t++ * stride]) starts.push_back(start);
  for (int64_t row = 0, length = n.T; row < n.B; ++row) {
    while (sizes[(length - 1) * stride] <= row) --length;
    lengths.push_back(length);
  }
  std::vector<int64_t> both = starts;
  both.insert(both.end(), lengths.begin(), lengths.end());
  starts.push_back(n.N);
  return Lengths{std::move(starts), written_on_device(call, both)};
}

RecurrenceOptionsParams params_of(const RecurrenceOptions& options, const Direction& d,
                                  const Order& order) {
  RecurrenceOptionsParams params{};
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
