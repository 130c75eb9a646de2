// The product of a step on the fp32 units: the lanes of a warp share the sum over k.
#pragma once

#include "recurrence_common.cuh"

namespace rnnfast::cuda {

// Adds up `values` over the lanes that share the sum over k. Lane l ends with the kOutputs values
// from (l % owners) * kOutputs on.
//
// Each exchange halves the values of a lane and doubles the lanes they are spread over: for V
// values V/2 + V/4 + ... shuffles instead of 5 V.
RF_DEVICE void reduce(float (&values)[kShape.sums()], int lane) {
  constexpr int kSums = kShape.sums(), kOwners = kShape.owners();
  int left = kSums;
#pragma unroll
  for (int bit = kOwners / 2; bit >= 1; bit >>= 1) {
    const bool upper = lane & bit;
    left >>= 1;
#pragma unroll
    for (int j = 0; j < kSums / 2; ++j) {
      if (j < left) {
        const float keep = upper ? values[j + left] : values[j];
        const float give = upper ? values[j] : values[j + left];
        values[j] = keep + __shfl_xor_sync(kAllLanes, give, bit);
      }
    }
  }
#pragma unroll
  for (int bit = kOwners; bit < 32; bit <<= 1) {
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) values[j] += __shfl_xor_sync(kAllLanes, values[j], bit);
  }
}

class Product {
 public:
  // Loads this thread's weights; `tail` is the shared memory for those that registers do not hold.
  RF_DEVICE Product(const Sequence& p, float4* tail, int warp, int lane, int block_column)
      : p_(p), tail_(tail), lane_(lane), k_(lane * 4) {
    column_ = block_column + warp * kWarpColumns;
#pragma unroll 1
    for (int i = 0; i < RF_SMEM_CHUNKS; ++i) {
      float4 chunk[kWarpColumns];
      load(kRegisterChunks + i, chunk);
#pragma unroll
      for (int c = 0; c < kWarpColumns; ++c) *in_tail(i, c) = chunk[c];
    }
#pragma unroll
    for (int i = 0; i < kRegisterChunks; ++i) load(i, held_[i]);
  }

  // Where this lane begins to read a row of h.
  RF_DEVICE int h_offset() const { return k_; }

  // This lane's kOutputs sums of h M; h points to row 0 of the group, at h_offset().
  RF_DEVICE void multiply(const float* h, float (&outputs)[kOutputs]) {
    float sums[kShape.sums()];
#pragma unroll
    for (int i = 0; i < kShape.sums(); ++i) sums[i] = 0.f;
#pragma unroll
    for (int i = 0; i < kRegisterChunks; ++i) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) add_row(four(h, r, i), held_[i], sums + r * kWarpColumns);
    }
#pragma unroll
    for (int i = 0; i < RF_SMEM_CHUNKS; ++i) {
      add_tail(h, i, sums);
    }
    reduce(sums, lane_);
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) outputs[j] = sums[j];
  }

 private:
  static constexpr int kRegisterChunks = kShape.register_chunks();

  RF_DEVICE static float4 four(const float* h, int row, int chunk) {
    return *reinterpret_cast<const float4*>(h + row * kHp + chunk * 128);
  }

  // Column by column within each k, so that no sum waits for the one before it.
  RF_DEVICE static void add_row(float4 a, const float4 (&chunk)[kWarpColumns], float* sums) {
#pragma unroll
    for (int c = 0; c < kWarpColumns; ++c) sums[c] = fmaf(a.x, chunk[c].x, sums[c]);
#pragma unroll
    for (int c = 0; c < kWarpColumns; ++c) sums[c] = fmaf(a.y, chunk[c].y, sums[c]);
#pragma unroll
    for (int c = 0; c < kWarpColumns; ++c) sums[c] = fmaf(a.z, chunk[c].z, sums[c]);
#pragma unroll
    for (int c = 0; c < kWarpColumns; ++c) sums[c] = fmaf(a.w, chunk[c].w, sums[c]);
  }

  // Weights in shared memory: each read serves all rows of the group. keep_order() stops ptxas from
  // moving all reads to the front, for which there are no registers.
  RF_DEVICE void add_tail(const float* h, int i, float* sums) const {
    keep_order();
    float4 a[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) a[r] = four(h, r, kRegisterChunks + i);
#pragma unroll
    for (int c = 0; c < kWarpColumns; ++c) {
      const float4 w = *in_tail(i, c);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float& sum = sums[r * kWarpColumns + c];
        sum = fmaf(a[r].x, w.x, sum);
        sum = fmaf(a[r].y, w.y, sum);
        sum = fmaf(a[r].z, w.z, sum);
        sum = fmaf(a[r].w, w.w, sum);
      }
    }
  }

  RF_DEVICE void load(int chunk, float4 (&weights)[kWarpColumns]) const {
    load_chunk(p_, chunk * 128 + k_, column_, weights);
  }

  RF_DEVICE float4* in_tail(int i, int c) const {
    return tail_ + (i * kWarpColumns + c) * kThreads + threadIdx.x;
  }

  const Sequence& p_;
  float4* tail_;
  int lane_, k_, column_;
  float4 held_[kRegisterChunks > 0 ? kRegisterChunks : 1][kWarpColumns];
};

}  // namespace rnnfast::cuda
