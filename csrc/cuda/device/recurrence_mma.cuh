// The product of a step on the tensor cores: W^T from registers, the batch as n = 8.
#pragma once

#include "recurrence_common.cuh"

namespace rnnfast::cuda {

// Multiplies h [rows, k] by M [k, columns] as out^T = M^T h^T, in tiles of 16 columns by 8 rows.
//
// A warp has one tile of columns and one part of k; the parts' sums meet in shared memory. In a
// chunk of 16 k, lane 4g + q has k = 4q .. 4q+3 of the columns g and g + 8 (its fragments of M^T)
// and of row g (its fragments of h^T, one float4). The order of k inside a chunk differs from the
// instruction's own, in both factors alike, which changes nothing in the sum.
class MmaProduct {
 public:
  RF_DEVICE MmaProduct(const Sequence& p, float4* tail, float* partials, int warp, int lane,
                       int block_column)
      : tail_(tail), partials_(partials), lane_(lane), warp_(warp) {
    const int tile = warp % kShape.column_tiles();
    part_ = warp / kShape.column_tiles();
    column_ = tile * 16 + lane / 4;
    k_ = part_ * (kHp / kShape.k_parts()) + lane % 4 * 4;
#pragma unroll 1
    for (int i = 0; i < RF_SMEM_CHUNKS; ++i) {
      float4 chunk[2];
      load(p, kRegisterChunks + i, block_column, chunk);
#pragma unroll
      for (int c = 0; c < 2; ++c) *in_tail(i, c) = chunk[c];
    }
#pragma unroll
    for (int i = 0; i < kRegisterChunks; ++i) load(p, i, block_column, held_[i]);
  }

  RF_DEVICE int h_offset() const { return lane_ / 4 * kStride + k_; }

  RF_DEVICE void multiply(const float* h, float (&outputs)[kOutputs]) {
    float sums[kTiles][kChains][4] = {};
#pragma unroll
    for (int i = 0; i < kShape.chunks(); ++i) {
      if (i >= kRegisterChunks) keep_order();  // or ptxas reads all of them first, and spills
      float4 w[2];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        w[c] = i < kRegisterChunks ? held_[i < kRegisterChunks ? i : 0][c]
                                   : *in_tail(i - kRegisterChunks, c);
      }
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const float4 a = *reinterpret_cast<const float4*>(h + n * 8 * kStride + i * 16);
        add(w, a, sums[n]);
      }
    }
    write_partials(sums);
    __syncthreads();  // also: all warps have read h, before any of them sends the next
    read_partials(outputs);
    turn_ ^= 1;
  }

 private:
  static constexpr int kRegisterChunks = kShape.register_chunks();
  static constexpr int kTiles = kRows / 8;
  static constexpr int kPartFloats = kRows * kShape.partials_stride();

  RF_DEVICE void load(const Sequence& p, int chunk, int block_column, float4 (&w)[2]) const {
    load_chunk<2>(p, k_ + chunk * 16, block_column + column_, 8, w);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      w[c] = make_float4(round_to_tf32(w[c].x), round_to_tf32(w[c].y), round_to_tf32(w[c].z),
                         round_to_tf32(w[c].w));
    }
  }

  RF_DEVICE float4* in_tail(int i, int c) const {
    return tail_ + (i * 2 + c) * kThreads + threadIdx.x;
  }

  // A chunk's products, added to chains of sums that do not wait for each other. Two tiles of rows
  // are two chains already.
  static constexpr int kChains = kTiles == 1 ? 2 : 1;

  RF_DEVICE static void add(const float4 (&w)[2], float4 a, float (&sums)[kChains][4]) {
    mma_tf32(sums[0], w[0].x, w[1].x, w[0].y, w[1].y, a.x, a.y);
    mma_tf32(sums[kChains - 1], w[0].z, w[1].z, w[0].w, w[1].w, a.z, a.w);
  }

  RF_DEVICE float* partials(int part) const {
    return partials_ + (turn_ * kShape.k_parts() + part) * kPartFloats;
  }

  // Lane 4g + q has the sums of the columns g, g + 8 and the rows 2q, 2q + 1.
  RF_DEVICE void write_partials(const float (&sums)[kTiles][kChains][4]) const {
    constexpr int kRowStride = kShape.partials_stride();
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      float* at = partials(part_) + (n * 8 + lane_ % 4 * 2) * kRowStride + column_;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float sum = sums[n][0][i];
#pragma unroll
        for (int c = 1; c < kChains; ++c) sum += sums[n][c][i];
        at[i % 2 * kRowStride + i / 2 * 8] = sum;
      }
    }
  }

  // The outputs of this lane: kOutputs columns of the warp's kWarpColumns, of one row. Two turns of
  // partial sums suffice: who writes those after next has passed the barrier of the next, which
  // every warp enters when it has read these.
  RF_DEVICE void read_partials(float (&outputs)[kOutputs]) const {
    const int first = lane_ * kOutputs;
    const int row = first / kWarpColumns, column = warp_ * kWarpColumns + first % kWarpColumns;
#pragma unroll
    for (int part = 0; part < kShape.k_parts(); ++part) {
      const float* at = partials(part) + row * kShape.partials_stride() + column;
#pragma unroll
      for (int j = 0; j < kOutputs; ++j) outputs[j] = part == 0 ? at[j] : outputs[j] + at[j];
    }
  }

  float4* tail_;
  float* partials_;
  int lane_, warp_, part_, column_, k_, turn_ = 0;
  float4 held_[kRegisterChunks > 0 ? kRegisterChunks : 1][2];
};

using Product = MmaProduct;

}  // namespace rnnfast::cuda
