// The cells by their codes, which are the operators' argument `cell`; rnnfast/cells has the same.
#pragma once

#include "cells/activation.h"
#include "cells/leaky.h"
#include "cells/plain.h"

namespace rnnfast::cells {

enum Code : int { kTanh = 0, kRelu = 1, kLeakyTanh = 2, kLeakyRelu = 3 };
constexpr int kNumCells = 4;

constexpr bool is_leaky(int code) { return code == kLeakyTanh || code == kLeakyRelu; }

// The activation of a cell that is known at compile time, as in a CUDA kernel.
template <int code>
struct ActivationOf {
  using type = Tanh;
};
template <>
struct ActivationOf<kRelu> {
  using type = Relu;
};
template <>
struct ActivationOf<kLeakyRelu> {
  using type = Relu;
};

// Calls f.operator()<Activation>() for a cell that is known at run time.
template <class F>
RNNFAST_CELL void with_activation(int code, const F& f) {
  if (code == kRelu || code == kLeakyRelu) {
    f.template operator()<Relu>();
  } else {
    f.template operator()<Tanh>();
  }
}

// The same for what a cell makes of act(z_t).
template <class F>
RNNFAST_CELL void with_update(int code, const F& f) {
  if (is_leaky(code)) {
    f.template operator()<Leaky>();
  } else {
    f.template operator()<Plain>();
  }
}

// How many arrays [T, B, H] the forward pass saves for the way back.
inline int num_saved(int code) { return is_leaky(code) ? Leaky::kSaved : Plain::kSaved; }

}  // namespace rnnfast::cells
