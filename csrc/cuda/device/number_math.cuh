// The equations of csrc/cells/ on one unit.
#pragma once

#include "cells/cells.h"

namespace rnnfast::cuda {

template <class T>
struct NumberMath {
  using Real = T;
  using Value = T;
  static RNNFAST_CELL float tanh(float z) { return tanhf(z); }
  static RNNFAST_CELL double tanh(double z) { return ::tanh(z); }
};

}  // namespace rnnfast::cuda
