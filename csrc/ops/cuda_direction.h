// One direction of a call: the order of its steps, and its part of the arrays that both share.
#pragma once

#include <cstdint>
#include <vector>

#include "torch/aten.h"

namespace rnnfast::cuda {

// The times of T steps in the order in which a pass takes them.
struct Order {
  int64_t first, way;  // the time of the first step; 1, or -1 backwards through time
  int64_t at(int64_t step) const { return first + way * step; }
};
inline Order order(int64_t T, bool backwards) { return backwards ? Order{T - 1, -1} : Order{0, 1}; }

// Of sequences that differ in length.
struct Lengths {
  std::vector<int64_t> starts;  // [T + 1]: the row of x, hs, ... where a time begins, and N
  Tensor on_device;             // starts [T], then the lengths [B]
};

// Both directions lie side by side in each row of x, hs, ... [T, B, count * H], and one behind the
// other in W_hh [count, H, H], b_h [count, H] and states [count, B, H].
struct Direction {
  int64_t T, B, H;
  bool reverse = false;  // step t follows step t + 1
  int64_t index = 0, count = 1;
  const Lengths* lengths = nullptr;  // null: every sequence has T steps

  // How many rows a time has, and those of the times before it.
  int64_t start(int64_t t) const { return lengths == nullptr ? t * B : lengths->starts[t]; }
  int64_t rows(int64_t t) const { return start(t + 1) - start(t); }

  // Elements from one row of x, hs, ... to the next, and from the first element to ours at time t.
  int64_t row() const { return count * H; }
  int64_t at(int64_t t) const { return start(t) * row() + index * H; }

  // Elements from the first one to ours.
  int64_t weights() const { return index * H * H; }
  int64_t bias() const { return index * H; }
  int64_t state() const { return index * B * H; }

  // `count` rows of x, hs, ... from time t on: [count, H].
  Tensor rows_of(const Tensor& steps, int64_t t, int64_t count) const {
    return view(steps, {count, H}, {row(), 1}, at(t));
  }
  Tensor weights_of(const Tensor& W_hh) const { return matrix(W_hh, H, H, weights()); }
  Tensor bias_of(const Tensor& biases) const { return view(biases, {H}, {1}, bias()); }
  Tensor state_of(const Tensor& states) const { return matrix(states, B, H, state()); }
};

}  // namespace rnnfast::cuda
