// Sums of rows by class, without atomics: the gradient of a table from those of the rows that were
// gathered from it, and the gradients of biases (one class that all rows belong to).
//
// A block owns some classes and 32 columns. Each of its warps looks through the ids of its share of
// the rows, 32 at a time, and adds the rows of the block's classes to sums of its own; these are
// added up in the order of the warps. The ids are read once per block, so few blocks per class and
// many classes per block where there are many: V = 28, H = 512, T = 35, B = 32 is 448 blocks of
// one class, which read the 9 KB of ids 448 times from the L2 cache (4 MB, against 2.3 MB of rows
// that every sum must read).
//
// Macros: RF_REAL   float or double
// Launch: grid of the jobs' blocks, at most 16 warps, shared memory
// warps * (largest tile) * 32 Reals. sum_parts.cu adds up the slices of a job that has several.
#include "params.h"
#include "reduce.cuh"

namespace rnnfast::cuda {

using Real = RF_REAL;

// A range that is cut into nearly equal parts.
struct Range {
  long long begin, end;

  __device__ Range part(long long i, long long parts) const {
    const long long count = end - begin;
    return {begin + count * i / parts, begin + count * (i + 1) / parts};
  }
};

// One column of x per lane, 0 beyond the last.
struct Column {
  __device__ Column(const RowSums& job, long long column)
      : x(static_cast<const Real*>(job.x) + column), stride(job.C), exists(column < job.C) {}

  __device__ Real operator[](long long n) const { return exists ? x[n * stride] : Real(0); }

  const Real* x;
  long long stride;
  bool exists;
};

__device__ Real sum_all(const Column& x, Range rows) {
  constexpr int kAtOnce = 8;  // loads under way, to hide their latency
  Real sum = 0;
  long long n = rows.begin;
#pragma unroll 1
  for (; n + kAtOnce <= rows.end; n += kAtOnce) {
    Real value[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) value[i] = x[n + i];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) sum += value[i];
  }
#pragma unroll 1
  for (; n < rows.end; ++n) sum += x[n];
  return sum;
}

// Adds the rows with ids in [first, first + tile) to sums[id - first], in the order of the rows.
__device__ void sum_by_class(const RowSums& job, const Column& x, Range rows, long long first,
                             Real* sums) {
  constexpr int kAtOnce = 4;
  const int lane = threadIdx.x % 32;
  // Row n + lane is step t of sequence b; a 64-bit division per row would cost more than its sum.
  long long t = (rows.begin + lane) / job.B, b = (rows.begin + lane) % job.B;
  const long long steps = 32 / job.B, sequences = 32 % job.B;
#pragma unroll 1
  for (long long n = rows.begin; n < rows.end; n += 32) {
    int mine = -1;  // the class of row n + lane, from `first` on
    if (n + lane < rows.end) {
      const long long id = job.ids[t * job.ids_stride_t + b * job.ids_stride_b];
      if (id >= first && id < first + job.tile) mine = static_cast<int>(id - first);
    }
    t += steps;
    b += sequences;
    if (b >= job.B) {
      b -= job.B;
      ++t;
    }
    unsigned matches = __ballot_sync(kAllLanes, mine >= 0);
    while (matches != 0) {
      int source[kAtOnce];
      Real value[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        source[i] = __ffs(static_cast<int>(matches)) - 1;  // -1: no more
        value[i] = source[i] < 0 ? Real(0) : x[n + source[i]];
        matches &= matches - 1;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int to = __shfl_sync(kAllLanes, mine, source[i] & 31);
        if (source[i] >= 0) sums[to * 32 + lane] += value[i];
      }
    }
  }
}

}  // namespace rnnfast::cuda

using namespace rnnfast::cuda;

extern "C" __global__ void __launch_bounds__(512)
    row_sums(const __grid_constant__ RowSumsParams p) {
  int j = 0;
  long long block = blockIdx.x;
  while (block >= p.jobs[j].blocks) block -= p.jobs[j++].blocks;
  const RowSums& job = p.jobs[j];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const long long column_tiles = (job.C + 31) / 32, class_tiles = (job.V + job.tile - 1) / job.tile;
  const long long column = block % column_tiles * 32 + lane;
  const long long first = block / column_tiles % class_tiles * job.tile;
  const long long slice = block / column_tiles / class_tiles;

  Real* all = shared_array<Real>();  // [warp][tile][32]
  Real* mine = all + warp * job.tile * 32;
  const Column x(job, column);
  const Range rows = Range{0, job.N}.part(slice, job.slices).part(warp, warps);
  if (job.ids == nullptr) {
    mine[lane] = sum_all(x, rows);
  } else {
    for (int v = 0; v < job.tile; ++v) mine[v * 32 + lane] = 0;
    sum_by_class(job, x, rows, first, mine);
  }
  __syncthreads();
  for (int v = warp; v < job.tile && first + v < job.V; v += warps) {
    Real sum = 0;
    for (int w = 0; w < warps; ++w) sum += all[(w * job.tile + v) * 32 + lane];
    if (!x.exists) continue;
    static_cast<Real*>(job.sums)[(slice * job.V + first + v) * job.C + column] = sum;
  }
}
