// The cells by their codes, which are the operators' argument `cell`; rnnfast/cells has the same.
#pragma once

#include "cells/activation.h"

namespace rnnfast::cells {

enum Code : int { kTanh = 0, kRelu = 1 };

// The activation of a cell that is known at compile time, as in a CUDA kernel.
template <int code>
struct ActivationOf;
template <>
struct ActivationOf<kTanh> {
  using type = Tanh;
};
template <>
struct ActivationOf<kRelu> {
  using type = Relu;
};

// Calls f.operator()<Activation>() for a cell that is known at run time.
template <class F>
RNNFAST_CELL void with_activation(int code, const F& f) {
  if (code == kRelu) {
    f.template operator()<Relu>();
  } else {
    f.template operator()<Tanh>();
  }
}

}  // namespace rnnfast::cells
