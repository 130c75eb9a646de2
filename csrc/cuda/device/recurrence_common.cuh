// What the parts of recurrence.cu share: the variant, its loads of weights, the activation.
#pragma once

#include "number_math.cuh"
#include "recurrence_shape.h"
#include "sequence.cuh"

namespace rnnfast::cuda {

constexpr RecurrenceShape kShape{RF_HP,   RF_CLUSTER,     RF_WARPS,
                                 RF_ROWS, RF_SMEM_CHUNKS, RF_BACKWARD != 0};
static_assert(kShape.is_valid(), "no such variant: see recurrence_shape.h");

constexpr bool kBackward = RF_BACKWARD != 0;
constexpr int kHp = RF_HP, kCluster = RF_CLUSTER, kRows = RF_ROWS;
constexpr int kThreads = kShape.threads(), kLeastBlocks = 1;
constexpr int kWarpColumns = kShape.warp_columns();
constexpr int kOutputs = kShape.outputs();

// M[k .. k+3] of a warp's columns, from `column` on: one chunk of a thread. W_hh is read along its
// rows: along k where M is a transpose, else across columns.
RF_DEVICE void load_chunk(const Sequence& p, int k, int column, float4 (&chunk)[kWarpColumns]) {
  const bool as_float4 = has_float4_rows(p.W_hh, p.H);
#pragma unroll
  for (int c = 0; c < kWarpColumns; c += 4) {
    float4 row[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int from = kBackward ? column + c + e : k + e;
      row[e] = make_float4(0.f, 0.f, 0.f, 0.f);
      if (from < p.H) {
        row[e] = load4(p.W_hh + static_cast<long long>(from) * p.H, kBackward ? k : column + c, p.H,
                       as_float4);
      }
    }
    if (kBackward) {
#pragma unroll
      for (int e = 0; e < 4; ++e) chunk[c + e] = row[e];
    } else {
      chunk[c] = make_float4(row[0].x, row[1].x, row[2].x, row[3].x);
      chunk[c + 1] = make_float4(row[0].y, row[1].y, row[2].y, row[3].y);
      chunk[c + 2] = make_float4(row[0].z, row[1].z, row[2].z, row[3].z);
      chunk[c + 3] = make_float4(row[0].w, row[1].w, row[2].w, row[3].w);
    }
  }
}

using Activation = cells::ActivationOf<RF_CELL>::type;
using Math = NumberMath<float>;

}  // namespace rnnfast::cuda
