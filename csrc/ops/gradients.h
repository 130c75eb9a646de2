// A list of gradients as the clip kernel takes it: any dtype of ours, any strides.
#pragma once

#include <vector>

#include "kernels.h"
#include "torch/abi.h"
#include "torch/checks.h"
#include "torch/extents.h"

namespace rnnfast {

// A gradient that can be scaled in place.
inline void require_scalable(const Tensor& grad, size_t position) {
  if (!is_real(grad)) {
    fail("grads[", position, "] is ", describe(grad), "; it must be float32 or float64");
  }
  if (grad.numel() == 0) return;
  for (int64_t d = 0; d < grad.dim(); ++d) {
    if (grad.size(d) > 1 && grad.stride(d) == 0) {
      fail("grads[", position, "] is expanded: several of its elements are one place in memory, ",
           "which cannot be scaled in place; pass a clone");
    }
  }
}

struct GradientSpans {
  explicit GradientSpans(const std::vector<Tensor>& grads) {
    for (size_t i = 0; i < grads.size(); ++i) append(grads[i], i);
  }

  bool share_memory() const { return overlap(extents); }

  std::vector<GradientSpan> spans;
  std::vector<Extent> extents;  // of each gradient

 private:
  void append(const Tensor& grad, size_t position) {
    require_scalable(grad, position);
    if (grad.numel() == 0) return;
    const bool is_double = grad.dtype() == aoti_torch_dtype_float64();
    const int64_t bytes = is_double ? 8 : 4;
    auto* data = grad.data<char>();
    extents.push_back(extent_of(grad));
    if (grad.is_contiguous()) {
      spans.push_back({data, grad.numel(), 1, is_double});
    } else {
      append_rows(grad, data, bytes);
    }
  }

  // One span for each row along the dimension of the smallest stride.
  void append_rows(const Tensor& grad, char* data, int64_t bytes) {
    const int64_t row_dim = dim_of_smallest_stride(grad), row = grad.size(row_dim);
    for (int64_t r = 0; r < grad.numel() / row; ++r) {
      int64_t rest = r, offset = 0;
      for (int64_t d = grad.dim() - 1; d >= 0; --d) {
        if (d == row_dim) continue;
        offset += rest % grad.size(d) * grad.stride(d);
        rest /= grad.size(d);
      }
      spans.push_back({data + offset * bytes, row, grad.stride(row_dim), bytes == 8});
    }
  }

  static int64_t dim_of_smallest_stride(const Tensor& grad) {
    int64_t best = 0;
    for (int64_t d = 1; d < grad.dim(); ++d) {
      if (grad.size(d) == 1) continue;
      if (grad.size(best) == 1 || grad.stride(d) < grad.stride(best)) best = d;
    }
    return best;
  }
};

}  // namespace rnnfast
