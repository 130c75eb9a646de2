// What the design of the recurrence rests on, each in a loop of dependent repetitions: clock cycles
// of all `rounds` go to out[block].
#include "ptx.cuh"

using namespace rnnfast::cuda;

// Bounded like every wait here: a device that does not answer ends the kernel, not the machine.
constexpr long long kLimit = 2000000000;

extern "C" __global__ void nothing() {}

extern "C" __global__ void block_barrier(long long* out, int rounds, int) {
  const long long begin = clock64();
  for (int i = 0; i < rounds; ++i) __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = clock64() - begin;
}

extern "C" __global__ void cluster_barrier_cost(long long* out, int rounds, int) {
  const long long begin = clock64();
  for (int i = 0; i < rounds; ++i) cluster_barrier();
  if (threadIdx.x == 0) out[blockIdx.x] = clock64() - begin;
}

__device__ unsigned counter;  // set to zero before each series of launches

// All blocks must be resident, which the number of multiprocessors allows.
extern "C" __global__ void grid_barrier(long long* out, int rounds, int) {
  __shared__ unsigned base;
  // launches follow each other, so that a launch begins at a multiple of its rounds
  if (threadIdx.x == 0) {
    const unsigned seen = *(volatile unsigned*)&counter;
    base = seen - seen % (gridDim.x * unsigned(rounds));
  }
  __syncthreads();
  const long long begin = clock64();
  for (int i = 0; i < rounds; ++i) {
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();
      atomicAdd(&counter, 1u);
      const unsigned all = base + unsigned(i + 1) * gridDim.x;
      while (int(*(volatile unsigned*)&counter - all) < 0 && clock64() - begin < kLimit) {
      }
      __threadfence();
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) out[blockIdx.x] = clock64() - begin;
}

// The recurrence's pattern: every warp sends `vectors` x 16 bytes to every block of its cluster,
// then waits for what all warps sent here. Two buffers, and an mbarrier for each.
extern "C" __global__ void exchange(long long* out, int rounds, int vectors) {
  float4* buffer = reinterpret_cast<float4*>(dynamic_shared());
  __shared__ Mbarrier full[2];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  int size = 1;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  const int rank = cluster_rank(), mine = (rank * warps + warp) * vectors;
  const int count = size * warps * vectors, bytes = count * 16;
  if (threadIdx.x == 0) {
    for (int b = 0; b < 2; ++b) {
      mbarrier_init(&full[b], 1);
      mbarrier_expect(&full[b], bytes);
    }
    mbarrier_init_fence();
  }
  for (int i = threadIdx.x; i < 2 * count; i += blockDim.x) buffer[i] = make_float4(0, 0, 0, 0);
  cluster_barrier();
  float4 value = make_float4(threadIdx.x, 1, 2, 3);
  const long long begin = clock64();
  for (int i = 0; i < rounds; ++i) {
    const int b = i & 1;
    for (int u = lane; u < size * vectors; u += 32) {
      const int peer = (u + rank) % size;
      store_async(in_block(buffer + b * count + mine + u / size, peer), value,
                  in_block(&full[b], peer));
    }
    while (!mbarrier_done(&full[b], (i >> 1) & 1)) {
      if (clock64() - begin > kLimit) return;  // the cluster's others end by the same limit
    }
    if (threadIdx.x == 0) mbarrier_expect(&full[b], bytes);
    value = buffer[b * count + lane % count];  // the next exchange needs what has come
  }
  const long long end = clock64();
  cluster_barrier();
  if (threadIdx.x == 0) out[blockIdx.x] = value.x == -1 ? 0 : end - begin;
}
