// The product of a step on the fp32 units: the lanes of a warp share the sums over k.
#pragma once

#include "cluster_shape.h"
#include "options.cuh"

namespace rnnfast::cuda {

constexpr ClusterShape kShape{RF_HP, RF_CLUSTER, RF_ROWS, RF_SMEM_CHUNKS, RF_BACKWARD != 0, kLeaky};
static_assert(kShape.is_valid(), "no such variant: see cluster_shape.h");

constexpr bool kBackward = RF_BACKWARD != 0;
constexpr int kHp = RF_HP, kCluster = RF_CLUSTER, kRows = RF_ROWS;
constexpr int kColumns = kShape.columns(), kThreads = kShape.threads(), kLeastBlocks = 1;
constexpr int kWarpColumns = ClusterShape::kWarpColumns;

using Activation = cells::ActivationOf<RF_CELL>::type;
using Math = BranchFreeMath;
using CourseHere = Course<kRows, kBackward>;
using UnitHere = Unit<Activation, Math, kBackward>;

// The output that a lane ends up with: a column of the warp's 8 and a row. With fewer than four
// rows several lanes have copies of it; the first of them is its owner.
struct Output {
  int row, column, warp_column;  // in the cluster; of H; where the warp's columns begin
  bool is_owner;

  RF_DEVICE explicit Output(int rank) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    row = kRows == 1 ? 0 : lane / 8 % kRows;
    warp_column = rank * kColumns + warp * kWarpColumns;
    column = warp_column + lane % 8;
    is_owner = lane < 8 * kRows;
  }
};

class Product {
 public:
  RF_DEVICE Product(const Sequence& p, const Output& output) : row_(output.row) {
#pragma unroll 1
    for (int i = 0; i < RF_SMEM_CHUNKS; ++i) {
#pragma unroll
      for (int c = 0; c < kWarpColumns; ++c) *in_tail(i, c) = load(p, output, kHeldChunks + i, c);
    }
#pragma unroll
    for (int i = 0; i < kHeldChunks; ++i) {
#pragma unroll
      for (int c = 0; c < kWarpColumns; ++c) held_[i][c] = load(p, output, i, c);
    }
  }

  // This lane's output of h M.
  RF_DEVICE float multiply(const float* h) const {
    float sums[kRows][kWarpColumns] = {};
    h += 4 * (threadIdx.x & 31);
#pragma unroll
    for (int i = 0; i < kShape.chunks(); ++i) {
      if (i >= kHeldChunks) keep_order();  // or ptxas reads all of them first, and spills
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 a = *reinterpret_cast<const float4*>(h + (r ^ row_) * kHp + i * kChunk);
#pragma unroll
        for (int c = 0; c < kWarpColumns; ++c) {
          const float4 w =
              i < kHeldChunks ? held_[i < kHeldChunks ? i : 0][c] : *in_tail(i - kHeldChunks, c);
          sums[r][c] = fmaf(a.x, w.x, sums[r][c]);
          sums[r][c] = fmaf(a.y, w.y, sums[r][c]);
          sums[r][c] = fmaf(a.z, w.z, sums[r][c]);
          sums[r][c] = fmaf(a.w, w.w, sums[r][c]);
        }
      }
    }
    return reduced(sums);
  }

 private:
  static constexpr int kChunk = ClusterShape::kChunk;
  static constexpr int kHeldChunks = kShape.chunks() - RF_SMEM_CHUNKS;

  // Slot c of a lane is for the column c ^ (its own column), slot r for the row r ^ (its own row):
  // what a lane keeps then lies in slot 0 and what it gives away in the others, on every lane, and
  // the exchange needs no selects. Each turn halves the sums of a lane.
  RF_DEVICE static float reduced(float (&sums)[kRows][kWarpColumns]) {
#pragma unroll
    for (int half = kRows / 2; half >= 1; half /= 2) {
#pragma unroll
      for (int r = 0; r < half; ++r) {
#pragma unroll
        for (int c = 0; c < kWarpColumns; ++c) {
          sums[r][c] += __shfl_xor_sync(kAllLanes, sums[r + half][c], half * kWarpColumns);
        }
      }
    }
#pragma unroll
    for (int half = kWarpColumns / 2; half >= 1; half /= 2) {
#pragma unroll
      for (int c = 0; c < half; ++c) {
        sums[0][c] += __shfl_xor_sync(kAllLanes, sums[0][c + half], half);
      }
    }
#pragma unroll
    for (int bit = kWarpColumns * kRows; bit < 32; bit *= 2) {
      sums[0][0] += __shfl_xor_sync(kAllLanes, sums[0][0], bit);
    }
    return sums[0][0];
  }

  // M at four k of a chunk, in the column of slot c. W_hh is read along k where M is its transpose.
  RF_DEVICE static float4 load(const Sequence& p, const Output& output, int chunk, int c) {
    const int k = chunk * kChunk + 4 * static_cast<int>(threadIdx.x & 31);
    const int column = output.warp_column + (c ^ (output.column % kWarpColumns));
    float4 w = make_float4(0.f, 0.f, 0.f, 0.f);
    if (column >= p.H) return w;
    if (kBackward) return load4(p.W_hh + column * p.H, k, p.H, has_float4_rows(p.W_hh, p.H));
    const float* at = p.W_hh + k * p.H + column;  // H^2 is far below 2^31
    if (k + 0 < p.H) w.x = at[0];
    if (k + 1 < p.H) w.y = at[p.H];
    if (k + 2 < p.H) w.z = at[2 * p.H];
    if (k + 3 < p.H) w.w = at[3 * p.H];
    return w;
  }

  RF_DEVICE static float4* in_tail(int i, int c) {
    return reinterpret_cast<float4*>(dynamic_shared() + kShape.weights_at()) +
           (i * kWarpColumns + c) * kThreads + threadIdx.x;
  }

  int row_;
  float4 held_[kHeldChunks > 0 ? kHeldChunks : 1][kWarpColumns];
};

}  // namespace rnnfast::cuda
