// What the kernels around the recurrence share: shared memory as an array, the error word, and sums
// and maxima over the threads of a warp or a block, always in the same order.
#pragma once

#include "ptx.cuh"

namespace rnnfast::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

constexpr float kInfinity = __builtin_bit_cast(float, 0x7f800000u);  // NVRTC has no header with it

template <class Value>
__device__ __forceinline__ Value* shared_array() {
  return reinterpret_cast<Value*>(dynamic_shared());
}

// The first code stays, also those of kernels before.
__device__ __forceinline__ void report(int* error, int code) { atomicCAS(error, 0, code); }

// Of all lanes, in every lane.
template <class Value, class Combine>
__device__ __forceinline__ Value combine_lanes(Value value, const Combine& combine) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// Of all threads of the block, in every thread. `parts` is shared memory for one value per warp;
// it may be used again right after.
template <class Value, class Combine>
__device__ __forceinline__ Value combine_block(Value value, Value* parts, const Combine& combine) {
  value = combine_lanes(value, combine);
  const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x % 32 == 0) parts[warp] = value;
  __syncthreads();
  value = parts[0];
  for (int w = 1; w < warps; ++w) value = combine(value, parts[w]);
  __syncthreads();
  return value;
}

struct Plus {
  template <class Value>
  __device__ __forceinline__ Value operator()(Value a, Value b) const {
    return a + b;
  }
};

struct Larger {  // ignores NaN in b; there is none in a where the first value was none
  template <class Value>
  __device__ __forceinline__ Value operator()(Value a, Value b) const {
    return b > a ? b : a;
  }
};

}  // namespace rnnfast::cuda
