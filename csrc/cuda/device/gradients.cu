// Gradients of weights as sums over the rows of all steps: products A^T B, sums by class, which are
// the gradient of a table of which rows were gathered, and the sums of all rows, the gradient of a
// bias. All of them in one launch.
//
// The rows are cut into slices. A block has a slice of one part of one result, and leaves its sums
// in a place of their own; sum_parts.cu adds them up in the order of the slices.
//
// Macros: RF_REAL   float or double
// Launch: grid slices * (tiles of all jobs), block GradientsShape::kThreads, dynamic shared memory
// of GradientsShape::shared_bytes().
#include "gradients_shape.h"
#include "params.h"
#include "reduce.cuh"

namespace rnnfast::cuda {

using Real = RF_REAL;

constexpr GradientsShape kShape{.real_bytes = sizeof(Real)};
constexpr int kThreads = kShape.kThreads, kRows = kShape.kRows, kSide = kShape.kSide;
constexpr int kClasses = kShape.classes();
constexpr int kAtOnce = 8;  // loads under way, to hide their latency
static_assert(kRows % kAtOnce == 0);

struct alignas(16) Four {
  Real at[4];
};

struct Range {
  long long begin, end;
};

// The rows of a slice that a block has at one time.
struct Chunk {
  long long first;
  int count;
};

// ---- products

struct Factors {
  Real a[kRows][kSide], b[kRows][kSide];
};
static_assert(sizeof(Factors) <= kShape.shared_bytes());

// kSide columns of the chunk's rows, zeros beyond the last of either.
__device__ void load(const MatrixRows& rows, Chunk chunk, long long first_column,
                     Real (&to)[kRows][kSide]) {
  constexpr int kRowsAtOnce = kThreads / kSide, kLoads = kRows / kRowsAtOnce;
  const int column = threadIdx.x % kSide, from = threadIdx.x / kSide;
  const int columns = static_cast<int>(rows.columns);
  const int count = first_column + column < columns ? chunk.count : 0;
  const long long later = chunk.first - rows.num_first;  // the chunk's first row among `others`
  const int num_first = static_cast<int>(min(max(-later, 0ll), 1ll * kRows));
  const long long at = first_column + column;
  const auto* first = static_cast<const Real*>(rows.first) + chunk.first * rows.first_row + at;
  const auto* others = static_cast<const Real*>(rows.others) + later * rows.row + at;
  Real value[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int row = from + i * kRowsAtOnce;
    const Real* from_row = row < num_first ? first + row * rows.first_row : others + row * rows.row;
    value[i] = row < count ? *from_row : Real(0);
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) to[from + i * kRowsAtOnce][column] = value[i];
}

// A thread has 4 x 4 sums: rows of the product one after another, columns 16 apart, so that the
// lanes of a warp write together.
__device__ void multiply(const GradientProduct& job, Range rows, long long slice, int tile) {
  auto& factors = *shared_array<Factors>();
  const int tiles = static_cast<int>((job.b.columns + kSide - 1) / kSide);
  const long long first_i = 1ll * (tile / tiles) * kSide, first_j = 1ll * (tile % tiles) * kSide;
  const int i = threadIdx.x / 16 * 4, j = threadIdx.x % 16;
  Real sums[4][4] = {};
#pragma unroll 1
  for (long long n = rows.begin; n < rows.end; n += kRows) {
    const Chunk chunk{n, static_cast<int>(min(rows.end - n, 1ll * kRows))};
    __syncthreads();  // the chunk before has been used
    load(job.a, chunk, first_i, factors.a);
    load(job.b, chunk, first_j, factors.b);
    __syncthreads();
#pragma unroll 4
    for (int row = 0; row < kRows; ++row) {
      const auto a = *reinterpret_cast<const Four*>(&factors.a[row][i]);
      Real b[4];
#pragma unroll
      for (int y = 0; y < 4; ++y) b[y] = factors.b[row][j + 16 * y];
#pragma unroll
      for (int x = 0; x < 4; ++x) {
#pragma unroll
        for (int y = 0; y < 4; ++y) sums[x][y] += a.at[x] * b[y];
      }
    }
  }
  Real* parts = static_cast<Real*>(job.parts) + slice * job.a.columns * job.b.columns;
#pragma unroll
  for (int x = 0; x < 4; ++x) {
#pragma unroll
    for (int y = 0; y < 4; ++y) {
      const long long at_i = first_i + i + x, at_j = first_j + j + 16 * y;
      if (at_i < job.a.columns && at_j < job.b.columns)
        parts[at_i * job.b.columns + at_j] = sums[x][y];
    }
  }
}

// ---- sums by class

struct Sums {
  Real of[kClasses][kThreads];
  int classes[kRows];  // of the chunk's rows, from the block's first on; -1: none of the block's
};
static_assert(sizeof(Sums) <= kShape.shared_bytes());

__device__ void find_classes(const GradientSums& job, Chunk chunk, long long first, Sums& s) {
  if (threadIdx.x >= kRows) return;
  int found = -1;
  if (job.ids != nullptr && threadIdx.x < chunk.count) {
    const long long n = chunk.first + threadIdx.x;
    const long long id = job.ids[n / job.B * job.ids_stride_t + n % job.B * job.ids_stride_b];
    if (id >= first && id < min(first + kClasses, job.V)) found = static_cast<int>(id - first);
  }
  s.classes[threadIdx.x] = found;
}

// A thread has a column.
__device__ void sum_by_class(const GradientSums& job, Range rows, long long slice, int tile) {
  auto& s = *shared_array<Sums>();
  const int thread = threadIdx.x;
  const int tiles = static_cast<int>((job.C + kThreads - 1) / kThreads);
  const long long first = 1ll * (tile / tiles) * kClasses;
  const long long column = 1ll * (tile % tiles) * kThreads + thread;
  const bool exists = column < job.C;
  const int classes = static_cast<int>(min(job.V - first, 1ll * kClasses));
  for (int v = 0; v < classes; ++v) s.of[v][thread] = 0;
  const Real* x = static_cast<const Real*>(job.x) + column;
  Real sum = 0;
#pragma unroll 1
  for (long long n = rows.begin; n < rows.end; n += kRows) {
    const Chunk chunk{n, static_cast<int>(min(rows.end - n, 1ll * kRows))};
    __syncthreads();  // the chunk before has been used
    find_classes(job, chunk, first, s);
    __syncthreads();
#pragma unroll 1
    for (int from = 0; from < chunk.count; from += kAtOnce) {
      Real value[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        value[i] = exists && from + i < chunk.count ? x[(n + from + i) * job.C] : Real(0);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        sum += value[i];
        const int v = s.classes[from + i];
        if (v >= 0) s.of[v][thread] += value[i];
      }
    }
  }
  if (!exists) return;
  if (job.sums != nullptr && first == 0) static_cast<Real*>(job.sums)[slice * job.C + column] = sum;
  for (int v = 0; v < classes; ++v) {
    static_cast<Real*>(job.table)[(slice * job.V + first + v) * job.C + column] = s.of[v][thread];
  }
}

}  // namespace rnnfast::cuda

using namespace rnnfast::cuda;

extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gradients(const __grid_constant__ GradientsParams p) {
  const long long slice = blockIdx.x / p.tiles;
  const Range rows{slice * p.rows, min((slice + 1) * p.rows, p.N)};
  int tile = blockIdx.x % p.tiles;
  if (tile < p.sums.tiles) {
    sum_by_class(p.sums, rows, slice, tile);
    return;
  }
  tile -= p.sums.tiles;
  int j = 0;
  while (tile >= p.products[j].tiles) tile -= p.products[j++].tiles;
  multiply(p.products[j], rows, slice, tile);
}
