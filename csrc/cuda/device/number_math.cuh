// The equations of csrc/cells/ on one unit.
#pragma once

#include "cells/cells.h"
#include "ptx.cuh"

namespace rnnfast::cuda {

template <class T>
struct NumberMath {
  using Real = T;
  using Value = T;
  static RNNFAST_CELL float tanh(float z) { return tanhf(z); }
  static RNNFAST_CELL double tanh(double z) { return ::tanh(z); }
};

// float32 with a tanh of 1.5 units in the last place that has no branch: 64 cycles where tanhf
// takes 70 on one side of its branch, and more where a warp has lanes on both.
struct BranchFreeMath : NumberMath<float> {
  // Below 0.8 z + z^3 P(z^2), P fitted to least relative error; else +-(1 - 2 / (1 + e^|2z|)). Both
  // are always computed. NaN takes the second one and stays NaN.
  static RNNFAST_CELL float tanh(float z) {
    const float e = approximate_exp2(fabsf(z * 2.88539008f));
    const float sign = __int_as_float((__float_as_int(z) & 0x80000000) | 0x3f800000);
    const float large = fmaf(-2.f * sign, approximate_reciprocal(e + 1.f), sign);
    const float t = z * z;
    float p = fmaf(1.572888228e-3f, t, -7.388861850e-3f);
    p = fmaf(p, t, 2.128966711e-2f);
    p = fmaf(p, t, -5.384847149e-2f);
    p = fmaf(p, t, 1.333217323e-1f);
    p = fmaf(p, t, -3.333329558e-1f);
    const float small = keep_in_register(fmaf(p * t, z, z));  // or it were made a branch
    return fabsf(z) < 0.8f ? small : large;
  }
};

}  // namespace rnnfast::cuda
