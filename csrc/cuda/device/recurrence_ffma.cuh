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
  for (int bit = kOwners; bit < kShape.k_lanes(); bit <<= 1) {
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) values[j] += __shfl_xor_sync(kAllLanes, values[j], bit);
  }
}

class FfmaProduct {
 public:
  // Loads this thread's weights; `tail` is the shared memory for those that registers do not hold.
  RF_DEVICE FfmaProduct(const Sequence& p, FourWeights* tail, float*, int warp, int lane,
                        int block_column)
      : p_(p),
        tail_(tail),
        lane_(lane),
        k_(lane % kShape.k_lanes() * 4),
        has_float4_rows_(has_float4_rows(p.W_hh, p.H)) {
    column_ = block_column + warp * kWarpColumns + lane / kShape.k_lanes() * kLaneColumns;
#pragma unroll 1
    for (int i = 0; i < RF_SMEM_CHUNKS; ++i) {
      FourWeights chunk[kLaneColumns];
      load(kRegisterChunks + i, chunk);
#pragma unroll
      for (int c = 0; c < kLaneColumns; ++c) *in_tail(i, c) = chunk[c];
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
      for (int r = 0; r < kRows; ++r) add_row(four(h, r, i), held_[i], sums + r * kLaneColumns);
    }
#pragma unroll
    for (int i = 0; i < RF_SMEM_CHUNKS; ++i) {
      const auto read = [&](int c, float4(&w)[1]) { w[0] = unpack(*in_tail(i, c)); };
      add_columns<1>(h, kRegisterChunks + i, read, sums);
    }
#pragma unroll
    for (int i = kShape.chunks() - RF_STREAM_CHUNKS; i < kShape.chunks(); ++i) {
      const auto read = [&](int c, float4(&w)[kBatch]) { read_streamed(i, c, w); };
      add_columns<kBatch>(h, i, read, sums);
    }
    reduce(sums, lane_);
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) outputs[j] = sums[j];
  }

 private:
  static constexpr int kRegisterChunks = kShape.register_chunks();
  static constexpr int kBatch = 4;  // columns that are streamed at once

  RF_DEVICE static float4 four(const float* h, int row, int chunk) {
    return *reinterpret_cast<const float4*>(h + row * kStride + chunk * kShape.k_lanes() * 4);
  }

  // Column by column within each k, so that no sum waits for the one before it.
  RF_DEVICE static void add_row(float4 a, const FourWeights (&chunk)[kLaneColumns], float* sums) {
#pragma unroll
    for (int c = 0; c < kLaneColumns; ++c) sums[c] = fmaf(a.x, unpack(chunk[c]).x, sums[c]);
#pragma unroll
    for (int c = 0; c < kLaneColumns; ++c) sums[c] = fmaf(a.y, unpack(chunk[c]).y, sums[c]);
#pragma unroll
    for (int c = 0; c < kLaneColumns; ++c) sums[c] = fmaf(a.z, unpack(chunk[c]).z, sums[c]);
#pragma unroll
    for (int c = 0; c < kLaneColumns; ++c) sums[c] = fmaf(a.w, unpack(chunk[c]).w, sums[c]);
  }

  // Weights that must be read, kAtOnce columns at a time: each read serves all rows of the group.
  // keep_order() stops ptxas from moving all reads to the front, for which there are no registers.
  template <int kAtOnce, class Read>
  RF_DEVICE static void add_columns(const float* h, int chunk, Read read, float* sums) {
    keep_order();
    float4 a[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) a[r] = four(h, r, chunk);
#pragma unroll
    for (int first = 0; first < kLaneColumns; first += kAtOnce) {
      if (kAtOnce > 1) keep_order();
      float4 w[kAtOnce];
      read(first, w);
#pragma unroll
      for (int c = 0; c < kAtOnce; ++c) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          float& sum = sums[r * kLaneColumns + first + c];
          sum = fmaf(a[r].x, w[c].x, sum);
          sum = fmaf(a[r].y, w[c].y, sum);
          sum = fmaf(a[r].z, w[c].z, sum);
          sum = fmaf(a[r].w, w[c].w, sum);
        }
      }
    }
  }

  RF_DEVICE int first_k(int chunk) const { return chunk * kShape.k_lanes() * 4 + k_; }

  RF_DEVICE void load(int chunk, FourWeights (&weights)[kLaneColumns]) const {
    load_chunk<kLaneColumns>(p_, first_k(chunk), column_, 1, weights);
  }

  RF_DEVICE FourWeights* in_tail(int i, int c) const {
    return tail_ + (i * kLaneColumns + c) * kThreads + threadIdx.x;
  }

  // From the L2 cache. With 8 warps, 4 columns on their way for each lane are 16 KB, the product of
  // 64 bytes a clock and 250 clocks that it takes (modelled). What columns beyond H get is never
  // used, so they read the last one's; k beyond H gets 0.
  RF_DEVICE void read_streamed(int chunk, int first, float4 (&w)[kBatch]) const {
    const int k = first_k(chunk);
    int at[kBatch];  // less than 31 bits: what is streamed is a few times what a block holds
#pragma unroll
    for (int c = 0; c < kBatch; ++c) at[c] = min(column_ + first + c, p_.H - 1) * p_.H + k;
    if (has_float4_rows_) {
#pragma unroll
      for (int c = 0; c < kBatch; ++c) w[c] = read_float4_if(k < p_.H, p_.W_hh + at[c]);
    } else {
#pragma unroll
      for (int c = 0; c < kBatch; ++c) {
        w[c].x = read_float_if(k + 0 < p_.H, p_.W_hh + at[c]);
        w[c].y = read_float_if(k + 1 < p_.H, p_.W_hh + at[c] + 1);
        w[c].z = read_float_if(k + 2 < p_.H, p_.W_hh + at[c] + 2);
        w[c].w = read_float_if(k + 3 < p_.H, p_.W_hh + at[c] + 3);
      }
    }
  }

  const Sequence& p_;
  FourWeights* tail_;
  int lane_, k_, column_;
  bool has_float4_rows_;
  FourWeights held_[kRegisterChunks > 0 ? kRegisterChunks : 1][kLaneColumns];
};

using Product = FfmaProduct;

}  // namespace rnnfast::cuda
