// The gradient of a large W_hh on tensor cores: A^T B over the rows of all steps.
//
// Each factor is split in two TF32 numbers, high + low, 22 bits together, and of their four
// products the three larger ones are added, all but the sums in float32. A tensor core truncates
// its sums, so they are of one chunk of 32 rows at a time, and the chunks' sums are added by
// rounded additions. What is not finite in the end is computed anew without the split, in which
// infinity less infinity would be NaN.
//
// As in gradients.cu the rows are cut into slices, of which sum_parts.cu adds up the parts.
//
// Launch: grid slices * tiles^2, block WeightProductShape::kThreads, dynamic shared memory of
// WeightProductShape::shared_bytes().
#include "params.h"
#include "reduce.cuh"
#include "weight_product_shape.h"

namespace rnnfast::cuda {

constexpr WeightProductShape kShape;
constexpr int kThreads = kShape.kThreads, kRows = kShape.kRows, kSide = kShape.kSide;

using Factor = float[kRows][kShape.kStride];

struct Shared {
  Factor a[2], b[2];  // of a chunk of rows, and of the next one
};
static_assert(sizeof(Shared) == kShape.shared_bytes());

// Row n of a matrix.
__device__ const float* row_of(const MatrixRows& rows, long long n) {
  const long long later = n - rows.num_first;
  const auto* base = static_cast<const float*>(later < 0 ? rows.first : rows.others);
  return base + (later < 0 ? n * rows.first_row : later * rows.row);
}

// Begins to copy kSide columns of `count` rows; zeros beyond the last of either.
__device__ void begin_copy(const MatrixRows& rows, long long first_row, int count,
                           long long first_column, Factor& to) {
  constexpr int kQuads = kSide / 4, kRowsAtOnce = kThreads / kQuads;
  const int column = threadIdx.x % kQuads * 4;
  const bool exists = first_column + column < rows.columns;
#pragma unroll
  for (int row = threadIdx.x / kQuads; row < kRows; row += kRowsAtOnce) {
    if (exists && row < count) {
      copy_async<16>(&to[row][column], row_of(rows, first_row + row) + first_column + column);
    } else {
      *reinterpret_cast<float4*>(&to[row][column]) = make_float4(0.f, 0.f, 0.f, 0.f);
    }
  }
}

// Tensor cores ignore the low 13 bits of a factor. So high is x rounded to the others, and low, at
// most half of their last one, is what they see of the rest. By two instructions, where
// cvt.rna.tf32 becomes four; NaN may become another number in high, and stays itself in low.
struct Split {
  __device__ explicit Split(float x)
      : high(__int_as_float((__float_as_int(x) + 0x1000) & ~0x1fff)), low(x - high) {}
  __device__ Split() {}

  float high, low;
};

// A warp has 64 x 32 of the block's 128 x 128 sums, as 4 x 4 of mma_tf32's.
struct WarpSums {
  static constexpr int kTiles = 4;
  float at[kTiles][kTiles][4];
};

// Adds the products of one chunk.
__device__ __forceinline__ void multiply(const Factor& a, const Factor& b, WarpSums& sums) {
  constexpr int kTiles = WarpSums::kTiles;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
  const int i = warp / 4 * 64 + g, j = warp % 4 * 32 + g;
  WarpSums chunk = {};
#pragma unroll
  for (int k = q; k < kRows; k += 8) {
    Split x[kTiles][4];
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      x[m][0] = Split(a[k][i + 16 * m]);
      x[m][1] = Split(a[k][i + 16 * m + 8]);
      x[m][2] = Split(a[k + 4][i + 16 * m]);
      x[m][3] = Split(a[k + 4][i + 16 * m + 8]);
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const Split y0(b[k][j + 8 * n]), y1(b[k + 4][j + 8 * n]);
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        const auto& [p, r, s, t] = x[m];
        mma_tf32(chunk.at[m][n], p.low, r.low, s.low, t.low, y0.high, y1.high);
        mma_tf32(chunk.at[m][n], p.high, r.high, s.high, t.high, y0.low, y1.low);
        mma_tf32(chunk.at[m][n], p.high, r.high, s.high, t.high, y0.high, y1.high);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums.at[m][n][e] += chunk.at[m][n][e];
    }
  }
}

// Element [i, j] of the product over the rows from `first` to `end`, without the split.
__device__ __noinline__ float plain_product(const WeightProductParams& p, long long first,
                                            long long end, long long i, long long j) {
  float sum = 0;
  for (long long n = first; n < end; ++n) sum += row_of(p.a, n)[i] * row_of(p.b, n)[j];
  return sum;
}

}  // namespace rnnfast::cuda

using namespace rnnfast::cuda;

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    weight_product(const __grid_constant__ WeightProductParams p) {
  auto& s = *shared_array<Shared>();
  const int tiles = static_cast<int>((p.H + kSide - 1) / kSide);
  const int tile = blockIdx.x % (tiles * tiles);
  const long long slice = blockIdx.x / (tiles * tiles);
  const long long first = slice * p.rows, end = min(first + p.rows, p.N);
  const long long first_i = 1ll * (tile / tiles) * kSide, first_j = 1ll * (tile % tiles) * kSide;
  const auto begin = [&](long long n, int buffer) {
    const int count = static_cast<int>(max(min(end - n, 1ll * kRows), 0ll));
    begin_copy(p.a, n, count, first_i, s.a[buffer]);
    begin_copy(p.b, n, count, first_j, s.b[buffer]);
    commit_copies();
  };

  WarpSums sums = {};
  begin(first, 0);
  int buffer = 0;
  for (long long n = first; n < end; n += kRows, buffer ^= 1) {
    begin(n + kRows, buffer ^ 1);
    wait_copies_but<1>();
    __syncthreads();
    multiply(s.a[buffer], s.b[buffer], sums);
    __syncthreads();  // the next copies go where this chunk was
  }

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* parts = p.parts + slice * p.H * p.H;
#pragma unroll
  for (int m = 0; m < WarpSums::kTiles; ++m) {
#pragma unroll
    for (int n = 0; n < WarpSums::kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const long long i = first_i + warp / 4 * 64 + 16 * m + lane / 4 + e / 2 * 8;
        const long long j = first_j + warp % 4 * 32 + 8 * n + lane % 4 * 2 + e % 2;
        if (i >= p.H || j >= p.H) continue;
        float sum = sums.at[m][n][e];
        if (!(fabsf(sum) < kInfinity)) sum = plain_product(p, first, end, i, j);
        parts[i * p.H + j] = sum;
      }
    }
  }
}
