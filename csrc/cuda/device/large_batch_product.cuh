// The product of a step on the tensor cores: out^T = M^T h^T, with M^T from registers.
//
// A factor is one float16 number, which has the 11 bits of TF32, or the sum of two, which has 22:
// then all four products of halves are added, the small ones first. A power of two for each column
// of M brings its largest weight near 2^14, so that only weights below 2^-16 of it lose bits. h has
// such factors too (large_batch_state.cuh).
//
// Each of the four warpgroups has a quarter of k. A tensor core cuts its sum off where float32
// rounds, so a chain of sums ends with a slice of h, and float32 adds up slices and warpgroups.
#pragma once

#include "large_batch_exchange.cuh"

namespace rnnfast::cuda {

class Product {
 public:
  RF_DEVICE Product(const Sequence& p, int block_column, int rows)
      : rows_(rows),
        group_(static_cast<int>(threadIdx.x >> 7)),
        first_(static_cast<int>(threadIdx.x >> 5 & 3) * 16 +
               static_cast<int>(threadIdx.x & 31) / 4),
        lane_q_(static_cast<int>(threadIdx.x & 3)) {
    find_maxima(p, block_column);
    load(p, block_column);
  }

  // Partial sums of h_s M for all rows, into shared memory. A barrier of the block comes next.
  RF_DEVICE void multiply(const State& state, Exchange& exchange, int s) const {
    float sums[kSums][2] = {};
#pragma unroll
    for (int j = 0; j < kSources; ++j) {
      int source = group_ * kSources + j;
      // No address of low halves is kept from step to step: W_hh fills the registers.
      if constexpr (kBuffers == 1) source = keep_in_register(source);
      exchange.wait(s, source);
      const unsigned char* slice = state.slice(s, source);
      float chain[kTile / 2] = {};  // which the first product does, but without it ptxas spills
      multiply_slice(state, slice, source, j, chain);
      add_slice(chain, state.factors(slice), sums);
    }
    write_partials(sums);
  }

  // The sums of two columns of a row, from 2 * lane on.
  RF_DEVICE float2 sum(int row) const {
    const float* from = partials(0) + row * kStride + 2 * (threadIdx.x & 31);
    float2 sum = *reinterpret_cast<const float2*>(from);
#pragma unroll
    for (int i = 1; i < LargeBatchShape::kGroups; ++i) {
      const float2 part = *reinterpret_cast<const float2*>(from + i * rows_ * kStride);
      sum = make_float2(sum.x + part.x, sum.y + part.y);
    }
    const int column = 2 * (threadIdx.x & 31);
    return make_float2(sum.x * column_scale(column).down, sum.y * column_scale(column + 1).down);
  }

 private:
  static constexpr int kStride = kShape.partials_stride();
  static constexpr bool kLowInShared = kShape.low_in_shared();
  static constexpr bool kLowInRegisters = kHalves == 2 && !kLowInShared;
  static constexpr int kSums = kTile / 4 / kHalves;
  static constexpr int kSteps = kSources * kStepsOfSource;

  RF_DEVICE static unsigned* maxima() {
    return reinterpret_cast<unsigned*>(dynamic_shared() + kShape.maxima_at());
  }
  RF_DEVICE static Scale column_scale(int column) { return Scale(maxima()[column]); }
  RF_DEVICE float* partials(int group) const {
    return reinterpret_cast<float*>(dynamic_shared() + kShape.partials_at()) +
           group * rows_ * kStride;
  }
  RF_DEVICE static unsigned char* low_weights(int k) {  // of the unit of 8 k
    return dynamic_shared() + kShape.low_at() + k / 8 * (kColumns * 16);
  }

  // The largest of each column.
  RF_DEVICE static void find_maxima(const Sequence& p, int block_column) {
    if (threadIdx.x < kColumns) maxima()[threadIdx.x] = 0;
    __syncthreads();
    const int thread = threadIdx.x, warp = thread / 32;
    constexpr bool kAlongK = kBackward;  // neighbours read neighbours
    const int first_k = kAlongK ? thread % 32 : thread / kColumns;
    const int next_k = kAlongK ? 32 : kThreads / kColumns;
    for (int column = kAlongK ? warp : thread % kColumns;
         column < kColumns && block_column + column < p.H; column += kAlongK ? kWarps : kColumns) {
      unsigned largest = 0;
#pragma unroll 8
      for (int k = first_k; k < p.H; k += next_k) {
        largest = max(largest, finite_magnitude(weight(p, k, block_column + column)));
      }
      atomicMax(&maxima()[column], largest);
    }
    __syncthreads();
  }

  RF_DEVICE void load(const Sequence& p, int block_column) {
    const float up[2] = {column_scale(first_).up, column_scale(first_ + 8).up};
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      if (i % 2 == 0) __syncthreads();  // or ptxas reads all of them first, and spills
      const int k = keep_in_register((group_ * kSteps + i) * 16 + 2 * lane_q_);
#pragma unroll
      for (int a = 0; a < 4; ++a) {
        const int column = first_ + a % 2 * 8, first_k = k + a / 2 * 8;
        const Halves halves(two_weights(p, first_k, block_column + column, up[a % 2]));
        high_[i][a] = halves.high;
        if constexpr (kLowInRegisters) low_[i][a] = halves.low;
        if constexpr (kLowInShared) {
          reinterpret_cast<unsigned*>(low_weights(first_k) + column * 16)[lane_q_] = halves.low;
        }
      }
    }
    if constexpr (kLowInShared) fence_async();
  }

  RF_DEVICE static float2 two_weights(const Sequence& p, int k, int column, float up) {
    float2 w = make_float2(0.f, 0.f);
    if (column < p.H && k < p.H) w.x = weight(p, k, column) * up;
    if (column < p.H && k + 1 < p.H) w.y = weight(p, k + 1, column) * up;
    return w;
  }

  // The products with a slice, the group's j-th.
  RF_DEVICE void multiply_slice(const State& state, const unsigned char* slice, int source, int j,
                                float (&chain)[kTile / 2]) const {
    multiply_fence();
    if constexpr (kHalves == 2) {
#pragma unroll
      for (int i = 0; i < kStepsOfSource; ++i) {
        const CoreMatrices h = state.matrix(slice, i);
        if constexpr (kLowInShared) {
          const CoreMatrices low(low_weights(source * kColumns + i * 16), kColumns * 16);
          multiply_async(chain, low, h, state.matrix_rows(), i == 0);
        } else {
          multiply_async(chain, low_[j * kStepsOfSource + i], h, state.matrix_rows(), i == 0);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kStepsOfSource; ++i) {
      multiply_async(chain, high_[j * kStepsOfSource + i], state.matrix(slice, i),
                     state.matrix_rows(), kHalves == 1 && i == 0);
    }
    multiply_wait(chain);
  }

  // A thread has two columns; of a row one sum each, or of two halves of h both, side by side.
  RF_DEVICE int row(int i) const {
    return kHalves == 2 ? i * 4 + lane_q_ : i / 2 * 8 + 2 * lane_q_ + i % 2;
  }

  RF_DEVICE void add_slice(const float (&chain)[kTile / 2], const float* factors,
                           float (&sums)[kSums][2]) const {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      const float factor = factors[min(row(i), anew(rows_) - 1)];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float* at = kHalves == 2 ? chain + 4 * i + 2 * c : chain + i / 2 * 4 + 2 * c + i % 2;
        sums[i][c] = fmaf(kHalves == 2 ? at[0] + at[1] : at[0], factor, sums[i][c]);
      }
    }
  }

  RF_DEVICE void write_partials(const float (&sums)[kSums][2]) const {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      if (row(i) >= rows_) continue;
      float* to = partials(anew(group_)) + row(i) * kStride + first_;
      to[0] = sums[i][0];
      to[8] = sums[i][1];
    }
  }

  int rows_, group_, first_, lane_q_;
  unsigned high_[kSteps][4], low_[kLowInRegisters ? kSteps : 1][4];
};

}  // namespace rnnfast::cuda
