// Sums of parts that blocks left, for several results in one launch and always in the same order;
// and, where wanted, the squares of all results together, for the norm that clips them.
//
// Macros: RF_REAL   float or double
// Launch: any grid (one sum of squares per block), block kSumThreads, dynamic shared memory of one
// Real per thread.
#include "params.h"
#include "reduce.cuh"

namespace rnnfast::cuda {

using Real = RF_REAL;

// Element i of a result that has several parts: each warp of the block adds up every eighth, and
// the first adds up the warps' sums.
__device__ Real sum_of(const PartSum& job, long long i, Real* sums) {
  constexpr int kWarps = kSumThreads / 32, kAtOnce = 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Real* part = static_cast<const Real*>(job.parts) + i;
  Real sum = 0;
#pragma unroll 1
  for (long long from = warp; from < job.num_parts; from += kWarps * kAtOnce) {
    Real value[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const long long s = from + k * kWarps;
      value[k] = i < job.count && s < job.num_parts ? part[s * job.count] : Real(0);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) sum += value[k];
  }
  __syncthreads();  // the sums before have been read
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int w = 1; w < kWarps; ++w) sum += sums[w * 32 + lane];
  return sum;  // in warp 0
}

}  // namespace rnnfast::cuda

using namespace rnnfast::cuda;

extern "C" __global__ void __launch_bounds__(kSumThreads)
    sum_parts(const __grid_constant__ SumPartsParams p) {
  double squares = 0;
  int j = 0;
  for (int tile = blockIdx.x; tile < p.num_tiles; tile += gridDim.x) {
    while (j + 1 < p.num_jobs && p.jobs[j + 1].first_tile <= tile) ++j;
    const PartSum& job = p.jobs[j];
    const bool is_whole = job.num_parts == 1;
    const long long i = 1ll * (tile - job.first_tile) * (is_whole ? kSumThreads : 32) +
                        (is_whole ? threadIdx.x : threadIdx.x % 32);
    Real value;
    if (is_whole) {
      if (i >= job.count) continue;
      value = static_cast<const Real*>(job.parts)[i];
    } else {
      value = sum_of(job, i, shared_array<Real>());
      if (threadIdx.x >= 32 || i >= job.count) continue;
    }
    if (job.parts != job.out) static_cast<Real*>(job.out)[i] = value;
    if (job.is_gradient) squares += static_cast<double>(value) * value;
  }
  if (p.squares == nullptr) return;
  __syncthreads();
  squares = combine_block(squares, shared_array<double>(), Plus());
  if (threadIdx.x == 0) p.squares[blockIdx.x] = squares;
}
