// What the parts of recurrence.cu share: the variant, its loads of weights, the activation.
#pragma once

#include "number_math.cuh"
#include "recurrence_shape.h"
#include "sequence.cuh"

namespace rnnfast::cuda {

constexpr RecurrenceShape kShape{
    .hp = RF_HP,
    .cluster = RF_CLUSTER,
    .warps = RF_WARPS,
    .rows = RF_ROWS,
    .smem_chunks = RF_SMEM_CHUNKS,
    .product = RF_PRODUCT,
    .backward = RF_BACKWARD != 0,
};
static_assert(kShape.is_valid(), "no such variant: see recurrence_shape.h");

constexpr bool kBackward = RF_BACKWARD != 0;
constexpr int kHp = RF_HP, kCluster = RF_CLUSTER, kWarps = RF_WARPS, kRows = RF_ROWS;
constexpr int kThreads = kShape.threads();
constexpr int kWarpColumns = kShape.warp_columns();
constexpr int kLaneColumns = kShape.lane_columns();
constexpr int kStride = kShape.h_stride();
constexpr int kOutputs = kShape.outputs();

// M[k .. k+3][column] for kColumns columns that lie `apart` from each other: one chunk of a thread.
// W_hh is read along its rows: along k where M is a transpose, else across columns.
template <int kColumns>
RF_DEVICE void load_chunk(const Sequence& p, int k, int column, int apart,
                          float4 (&chunk)[kColumns]) {
  const bool as_float4 = has_float4_rows(p.W_hh, p.H);
  if (kBackward || kColumns % 4 != 0) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int j = column + c * apart;
      float4 w = make_float4(0.f, 0.f, 0.f, 0.f);
      if (j < p.H) {
        if (kBackward) {
          w = load4(p.W_hh + static_cast<long long>(j) * p.H, k, p.H, as_float4);
        } else {
          const float* at = p.W_hh + static_cast<long long>(k) * p.H + j;
          if (k + 0 < p.H) w.x = at[0];
          if (k + 1 < p.H) w.y = at[p.H];
          if (k + 2 < p.H) w.z = at[2ll * p.H];
          if (k + 3 < p.H) w.w = at[3ll * p.H];
        }
      }
      chunk[c] = w;
    }
  } else {
#pragma unroll
    for (int c = 0; c < kColumns; c += 4) {
      float4 row[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        row[e] = make_float4(0.f, 0.f, 0.f, 0.f);
        if (k + e < p.H) {
          row[e] = load4(p.W_hh + static_cast<long long>(k + e) * p.H, column + c, p.H, as_float4);
        }
      }
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
