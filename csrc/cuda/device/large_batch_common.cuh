// What the parts of large_batch.cu share: the variant, the problem, and numbers as float16.
#pragma once

#include "large_batch_ptx.cuh"
#include "large_batch_shape.h"
#include "number_math.cuh"
#include "sequence.cuh"

namespace rnnfast::cuda {

constexpr LargeBatchShape kShape{RF_HP, RF_CLUSTER, RF_ROWS, RF_PRODUCT, RF_BUFFERS, RF_MULTICASTS};
static_assert(kShape.is_valid(), "no such variant: see large_batch_shape.h");

constexpr bool kBackward = RF_BACKWARD != 0;
constexpr int kHp = RF_HP, kCluster = RF_CLUSTER, kBuffers = RF_BUFFERS;
constexpr int kHalves = kShape.halves(), kTile = kShape.tile();
constexpr int kColumns = LargeBatchShape::kColumns;
constexpr int kThreads = LargeBatchShape::kThreads, kWarps = LargeBatchShape::kWarps;
constexpr int kLeastBlocks = 1;
constexpr int kSources = kShape.sources();
constexpr int kStepsOfSource = kColumns / 16;  // the tensor cores' own k

using Activation = cells::ActivationOf<RF_CELL>::type;
using Math = BranchFreeMath;
constexpr bool kBounded = !kBackward && RF_CELL == cells::kTanh;  // what is sent is at most 1

// What follows from a value is computed anew, where W_hh leaves no registers to keep it.
RF_DEVICE int anew(int value) { return kShape.multicasts ? keep_in_register(value) : value; }

// M[k][column]. H^2 is far below 2^31.
RF_DEVICE float weight(const Sequence& p, int k, int column) {
  return kBackward ? p.W_hh[column * p.H + k] : p.W_hh[k * p.H + column];
}

RF_DEVICE bool is_finite(float x) { return fabsf(x) <= 3.402823466e38f; }

// The bits of |x|, which are ordered as the values are; 0 where x is not finite, so that infinity
// takes no bits from the numbers beside it.
RF_DEVICE unsigned finite_magnitude(float x) {
  return is_finite(x) ? __float_as_uint(x) & 0x7fffffffu : 0;
}

// A power of two that brings numbers to 2^14 at most, where float16 has all its bits and room for
// many products, and its inverse. `largest` is the largest of their finite magnitudes.
struct Scale {
  float up, down;
  RF_DEVICE explicit Scale(unsigned largest) {
    const unsigned exponent = max(largest >> 23, 14u);  // below, `down` would be subnormal
    up = __uint_as_float((267 - exponent) << 23);
    down = __uint_as_float((exponent - 13) << 23);
  }
};

// Two floats as float16: high + low has 22 bits of each. low is 0 where high is not finite.
struct Halves {
  unsigned high, low;
  RF_DEVICE explicit Halves(float2 v) : high(to_float16(v)) {
    const float2 rounded = to_floats(high);
    low = to_float16(make_float2(is_finite(rounded.x) ? v.x - rounded.x : 0.f,
                                 is_finite(rounded.y) ? v.y - rounded.y : 0.f));
  }
};

}  // namespace rnnfast::cuda
