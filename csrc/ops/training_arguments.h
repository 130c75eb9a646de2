// What the operators that train require of their arguments, on any device.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "torch/abi.h"
#include "torch/checks.h"
#include "torch/extents.h"

namespace rnnfast {

// W_xh, W_hh, b_h, W_hq, b_q.
using Params = std::array<const Tensor*, 5>;

inline Params five_of(const std::vector<Tensor>& tensors, const char* name) {
  if (tensors.size() != 5) {
    fail(name, " has ", tensors.size(), " tensors; it must have 5: W_xh, W_hh, b_h, W_hq, b_q");
  }
  return {&tensors[0], &tensors[1], &tensors[2], &tensors[3], &tensors[4]};
}

struct Sizes {
  int64_t T, B, H, V;
  int32_t dtype;
};

inline Sizes sizes_of(const Tensor& ids, const Tensor& W_xh, Axes axes = Axes::kStepsFirst) {
  const int32_t dtype = require_real(W_xh, "W_xh");
  require_rank(W_xh, "W_xh", 2, "[V, H]");
  const bool steps_first = axes == Axes::kStepsFirst;
  require_rank(ids, "ids", 2, steps_first ? "[T, B]" : "[B, T]");
  const int64_t T = ids.size(steps_first ? 0 : 1), B = ids.size(steps_first ? 1 : 0);
  const Sizes n{T, B, W_xh.size(1), W_xh.size(0), dtype};
  require_at_least(n.T, "T, the number of steps,", 1);
  require_at_least(n.B, "B, the number of sequences,", 1);
  require_at_least(n.H, "H, the number of hidden units,", 1);
  return n;
}

// `of` says whose they are: "", "params: " or "grads: ".
inline void require_params(const Sizes& n, const std::string& of, const Params& params) {
  require(*params[0], (of + "W_xh").c_str(), n.dtype, "[V, H]", {n.V, n.H});
  require(*params[1], (of + "W_hh").c_str(), n.dtype, "[H, H]", {n.H, n.H});
  require(*params[2], (of + "b_h").c_str(), n.dtype, "[H]", {n.H});
  require(*params[3], (of + "W_hq").c_str(), n.dtype, "[H, V]", {n.H, n.V});
  require(*params[4], (of + "b_q").c_str(), n.dtype, "[V]", {n.V});
}

// A minibatch is an element of each list.
inline void require_pairs(const std::vector<Tensor>& ids, const std::vector<Tensor>& targets) {
  if (!ids.empty() && ids.size() == targets.size()) return;
  fail("ids has ", ids.size(), " tensors and targets ", targets.size(),
       "; they must have as many, and at least 1");
}

// What is changed in place must be plain memory of its own.
inline void require_plain(const std::vector<const Tensor*>& changed) {
  std::vector<Extent> extents;
  for (const Tensor* tensor : changed) {
    if (!tensor->is_contiguous()) {
      fail("a ", describe(*tensor), " among params, grads and h is not contiguous; it must be");
    }
    extents.push_back(extent_of(*tensor));
  }
  if (overlap(extents)) fail("two of params, grads and h share memory; they must not");
}

}  // namespace rnnfast
