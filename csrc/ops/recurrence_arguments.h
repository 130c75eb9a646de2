// What the operators of the recurrence require of their arguments, on any device.
#pragma once

#include <optional>

#include "cells/cells.h"
#include "torch/abi.h"
#include "torch/checks.h"

namespace rnnfast {

struct RecurrenceSizes {
  int64_t T, B, H, V;  // V: rows of the table; unused without ids
  int32_t dtype;
};

// The cell's code as the kernels take it.
inline int cell_of(int64_t code) {
  if (code == cells::kTanh || code == cells::kRelu) return static_cast<int>(code);
  fail("cell is ", code, "; it must be 0 (tanh) or 1 (relu)");
}

inline void require_weights(const RecurrenceSizes& n, const Tensor& W_hh,
                            const std::optional<Tensor>& b_h, const Tensor& h0) {
  require_at_least(n.T, "T, the number of steps,", 1);
  require_at_least(n.H, "H, the number of hidden units,", 1);
  require(W_hh, "W_hh", n.dtype, "[H, H]", {n.H, n.H});
  require(b_h, "b_h", n.dtype, "[H]", {n.H});
  require(h0, "h0", n.dtype, "[B, H]", {n.B, n.H});
}

// Of a forward call, whose arguments fit, but for the values of ids.
inline RecurrenceSizes forward_sizes(const Tensor& x, const std::optional<Tensor>& ids,
                                     const Tensor& W_hh, const std::optional<Tensor>& b_h,
                                     const Tensor& h0, int32_t dtype) {
  if (ids) {
    require_rank(x, "x", 2, "[V, H]");
    require_rank(*ids, "ids", 2, "[T, B]");
  } else {
    require_rank(x, "x", 3, "[T, B, H]");
  }
  const Tensor& steps = ids ? *ids : x;
  const int64_t T = steps.size(0), B = steps.size(1);
  require(ids, "ids", aoti_torch_dtype_int64(), "[T, B]", {T, B});
  const RecurrenceSizes n{T, B, x.size(x.dim() - 1), x.size(0), dtype};
  require_weights(n, W_hh, b_h, h0);
  return n;
}

// Of a backward call, likewise.
inline RecurrenceSizes backward_sizes(const std::optional<Tensor>& grad_hs,
                                      const std::optional<Tensor>& grad_h_last, const Tensor& hs,
                                      const std::optional<Tensor>& ids, int64_t V,
                                      const Tensor& W_hh, const Tensor& h0) {
  const int32_t dtype = require_real(hs, "hs");
  require_rank(hs, "hs", 3, "[T, B, H]");
  require_at_least(V, "V", 0);
  const RecurrenceSizes n{hs.size(0), hs.size(1), hs.size(2), V, dtype};
  require_weights(n, W_hh, std::nullopt, h0);
  require(grad_hs, "grad_hs", dtype, "[T, B, H]", {n.T, n.B, n.H});
  require(grad_h_last, "grad_h_last", dtype, "[B, H]", {n.B, n.H});
  require(ids, "ids", aoti_torch_dtype_int64(), "[T, B]", {n.T, n.B});
  return n;
}

}  // namespace rnnfast
