// Where tensors lie in memory, and whether they share some of it.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "torch/abi.h"

namespace rnnfast {

using Extent = std::pair<const char*, const char*>;  // from the first byte to behind the last

// Of a float32 or float64 tensor with any strides.
inline Extent extent_of(const Tensor& tensor) {
  const int64_t bytes = tensor.dtype() == aoti_torch_dtype_float64() ? 8 : 4;
  const auto* data = tensor.data<const char>();
  int64_t last = 0;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) == 0) return {data, data};
    last += (tensor.size(d) - 1) * tensor.stride(d);
  }
  return {data, data + (last + 1) * bytes};
}

inline bool overlap(std::vector<Extent> extents) {
  std::sort(extents.begin(), extents.end());
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].first < extents[i - 1].second) return true;
  }
  return false;
}

}  // namespace rnnfast
