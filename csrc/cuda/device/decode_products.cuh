// The two products of decode.cu: a row of h times columns of a matrix.
#pragma once

#include "decode_shape.h"
#include "reduce.cuh"

namespace rnnfast::cuda {

constexpr DecodeShape kShape{RF_HP, RF_CLUSTER, RF_WARPS, RF_ROWS, RF_SMEM_CHUNKS};
static_assert(kShape.is_valid(), "no such variant: see decode_shape.h");
constexpr int kRows = RF_ROWS, kThreads = 32 * RF_WARPS;

// out[r][0..3] = rows of h times four columns of a [H, ...] matrix, in every lane. The lanes share
// the k; an address that does not exist is read as 0.
template <class Load>
__device__ __forceinline__ void four_columns(const float* h, int hidden, int H, const Load& load,
                                             float4 (&out)[kRows]) {
  float4 sum[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) sum[r] = make_float4(0, 0, 0, 0);
#pragma unroll 8
  for (int k = threadIdx.x % 32; k < H; k += 32) {
    const float4 w = load(k);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float value = h[r * hidden + k];
      sum[r].x = fmaf(value, w.x, sum[r].x);
      sum[r].y = fmaf(value, w.y, sum[r].y);
      sum[r].z = fmaf(value, w.z, sum[r].z);
      sum[r].w = fmaf(value, w.w, sum[r].w);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    out[r] = make_float4(combine_lanes(sum[r].x, Plus()), combine_lanes(sum[r].y, Plus()),
                         combine_lanes(sum[r].z, Plus()), combine_lanes(sum[r].w, Plus()));
  }
}

// Loads row k, columns [first, first + 4) of a matrix in global memory.
class FourOf {
 public:
  __device__ FourOf(const float* matrix, int columns, int first)
      : at_(matrix + first),
        stride_(columns),
        count_(columns - first),
        whole_(columns % 4 == 0 && reinterpret_cast<unsigned long long>(matrix) % 16 == 0) {}

  __device__ __forceinline__ float4 operator()(long long k) const {
    const float* at = at_ + k * stride_;
    if (count_ <= 0) return make_float4(0, 0, 0, 0);
    if (whole_) return *reinterpret_cast<const float4*>(at);
    return make_float4(at[0], count_ > 1 ? at[1] : 0, count_ > 2 ? at[2] : 0,
                       count_ > 3 ? at[3] : 0);
  }

 private:
  const float* at_;
  long long stride_;
  int count_;
  bool whole_;
};

#if RF_HP > 0

// W_hh held on the chip: each lane has the weights of one column for its share of the k, the last
// RF_SMEM_CHUNKS chunks in shared memory, all others in registers.
class HiddenProduct {
  static constexpr int kLanes = kShape.k_lanes(), kHeld = kShape.register_chunks();

 public:
  // `first`: this block's first column. `tail`: shared memory, [RF_SMEM_CHUNKS, kThreads].
  __device__ __forceinline__ HiddenProduct(const float* W_hh, int H, int first, float4* tail)
      : tail_(tail + threadIdx.x) {
#pragma unroll 1
    for (int i = 0; i < RF_SMEM_CHUNKS; ++i) {
      tail_[i * kThreads] = load(W_hh, H, first + column(), kHeld + i);
    }
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (i % 4 == 0) keep_order();  // else ptxas computes all addresses first, and spills
      held_[i] = load(W_hh, H, first + column(), i);
    }
  }

  // z [rows, columns] = h [rows, RF_HP] times this block's columns of W_hh.
  __device__ __forceinline__ void multiply(const float* h, float* z, int columns) const {
    float4 sum[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) sum[r] = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) add(h, i, held_[i], sum);
#pragma unroll 4
    for (int i = 0; i < RF_SMEM_CHUNKS; ++i) add(h, kHeld + i, tail_[i * kThreads], sum);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float total = (sum[r].x + sum[r].y) + (sum[r].z + sum[r].w);
#pragma unroll
      for (int distance = kLanes / 2; distance > 0; distance /= 2) {
        total += __shfl_xor_sync(kAllLanes, total, distance);
      }
      if (threadIdx.x % kLanes == 0) z[r * columns + column()] = total;
    }
  }

 private:
  __device__ static int column() { return static_cast<int>(threadIdx.x) / kLanes; }
  __device__ static int first_k(int chunk) {
    return (chunk * kLanes + static_cast<int>(threadIdx.x) % kLanes) * 4;
  }

  __device__ __forceinline__ static float4 load(const float* W_hh, int H, int column, int chunk) {
    const int k = first_k(chunk);
    const auto at = [&](int i) {
      return k + i < H && column < H ? W_hh[static_cast<long long>(k + i) * H + column] : 0.0f;
    };
    return make_float4(at(0), at(1), at(2), at(3));
  }

  __device__ __forceinline__ static void add(const float* h, int chunk, float4 w,
                                             float4 (&sum)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float4 value = *reinterpret_cast<const float4*>(h + r * RF_HP + first_k(chunk));
      sum[r].x = fmaf(value.x, w.x, sum[r].x);
      sum[r].y = fmaf(value.y, w.y, sum[r].y);
      sum[r].z = fmaf(value.z, w.z, sum[r].z);
      sum[r].w = fmaf(value.w, w.w, sum[r].w);
    }
  }

  float4* tail_;
  float4 held_[kHeld > 0 ? kHeld : 1];
};

#else

// W_hh read from the L2 cache in each step.
class HiddenProduct {
 public:
  __device__ HiddenProduct(const float* W_hh, int H, int first, float4*)
      : W_hh_(W_hh), H_(H), first_(first) {}

  __device__ void multiply(const float* h, float* z, int columns) const {
    for (int c = static_cast<int>(threadIdx.x) / 32 * 4; c < columns; c += 4 * RF_WARPS) {
      float4 out[kRows];
      four_columns(h, columns * RF_CLUSTER, H_, FourOf(W_hh_, H_, first_ + c), out);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (threadIdx.x % 32 == 0) *reinterpret_cast<float4*>(z + r * columns + c) = out[r];
      }
    }
  }

 private:
  const float* W_hh_;
  int H_, first_;
};

#endif

}  // namespace rnnfast::cuda
