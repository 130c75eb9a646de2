// The readout, the loss and the gradients of both in one kernel, for few classes.
//
// A block takes eight rows of hs at a time. W_hq passes through shared memory in tiles, once for
// the logits and once, in the other order, for the gradient of hs; where one tile is all of it, it
// stays there for all rows of the block.
//
// Macros, given with -D:
//   RF_REAL     float or double
//   RF_COLUMNS  classes per lane: 1, 2 or 4; V is at most 32 times as many
// Launch: any grid (each block leaves a part of the loss and of grad_b_q), block
// ReadoutShape::kThreads, dynamic shared memory of ReadoutShape::shared_bytes().
#include "params.h"
#include "readout_shape.h"
#include "reduce.cuh"

namespace rnnfast::cuda {

using Real = RF_REAL;

constexpr ReadoutShape kShape{.columns = RF_COLUMNS, .real_bytes = sizeof(Real)};
static_assert(kShape.is_valid(), "no such variant: see readout_shape.h");

constexpr int kRows = kShape.kRows, kWarps = kShape.kWarps, kThreads = kShape.kThreads;
constexpr int kColumns = RF_COLUMNS, kClasses = kShape.classes(), kTile = kShape.tile();
constexpr int kOwnRows = kRows * kTile / kThreads;  // of the gradient of hs, per thread

template <int kCount>
struct alignas(kCount * sizeof(Real) < 16 ? kCount * sizeof(Real) : 16) Reals {
  Real at[kCount];
};

struct Shared {
  Reals<4> hs[kRows][kTile / 4];
  Reals<kRows> slopes[kClasses];  // of the loss by the logits: those of all rows for each class
  Real sums[kWarps][kRows][kClasses];
  Real losses[kRows];
  Real W[kTile][kShape.weights_stride()];
};
static_assert(sizeof(Shared) == kShape.shared_bytes());

// A tile of W_hq's rows, and of hs's columns.
struct Tile {
  __device__ Tile(const ReadoutParams& p, long long index)
      : first(index * kTile), count(static_cast<int>(min(p.H - first, 1ll * kTile))) {}

  // Zeros fill the last four.
  __device__ int padded() const { return (count + 3) / 4 * 4; }

  long long first;
  int count;
};

__device__ void load_weights(const ReadoutParams& p, const Tile& tile, Shared& s) {
  constexpr int kAtOnce = 16 / kColumns;  // loads under way, to hide their latency
  static_assert(kTile / kWarps % kAtOnce == 0);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int V = static_cast<int>(p.V), count = tile.count, padded = tile.padded();
  const Real* W_hq = static_cast<const Real*>(p.W_hq) + tile.first * V;
#pragma unroll 1
  for (int from = warp; from < padded; from += kWarps * kAtOnce) {
    Real w[kAtOnce][kColumns];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int row = from + i * kWarps, v = lane + 32 * c;
        w[i][c] = row < count && v < V ? W_hq[row * V + v] : Real(0);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int row = from + i * kWarps;
        if (row < padded) s.W[row][lane + 32 * c] = w[i][c];
      }
    }
  }
}

// One row of hs for each warp, zeros beyond the last.
__device__ void load_states(const ReadoutParams& p, const Tile& tile, long long n, Shared& s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Real* h = static_cast<const Real*>(p.hs) + n * p.H + tile.first;
  Real* to = s.hs[warp][0].at;
#pragma unroll
  for (int k = lane; k < kTile; k += 32) {
    if (k < tile.padded()) to[k] = n < p.N && k < tile.count ? h[k] : Real(0);
  }
}

// Adds the tile's part of the logits to this warp's sums: every eighth four of k.
__device__ __forceinline__ void multiply(const Tile& tile, const Shared& s,
                                         Real (&sums)[kRows][kColumns]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
  for (int quad = warp; quad < tile.padded() / 4; quad += kWarps) {
    Real w[4][kColumns];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) w[e][c] = s.W[4 * quad + e][lane + 32 * c];
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Reals<4> h = s.hs[r][quad];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) sums[r][c] += h.at[e] * w[e][c];
      }
    }
  }
}

// The loss of row n, which is this warp's, and its slopes, from the warps' sums.
__device__ void cross_entropy(const ReadoutParams& p, long long n, Shared& s) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32;
  const bool exists = n < p.N;
  long long target = 0;
  if (exists) {
    target = p.targets[n / p.B * p.targets_stride_t + n % p.B * p.targets_stride_b];
    if (target < 0 || target >= p.V) {
      if (lane == 0) report(p.error, kErrorTarget);
      target = 0;
    }
  }

  Real logit[kColumns], maximum = -kInfinity;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int v = lane + 32 * c;
    logit[c] = -kInfinity;
    if (v >= p.V) continue;
    logit[c] = 0;
    for (int w = 0; w < kWarps; ++w) logit[c] += s.sums[w][row][v];
    logit[c] += static_cast<const Real*>(p.b_q)[v];
    maximum = Larger()(maximum, logit[c]);
  }
  maximum = combine_lanes(maximum, Larger());
  Real power[kColumns], sum = 0, of_target = 0;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    power[c] = exp(logit[c] - maximum);
    sum += power[c];
    if (target == lane + 32 * c) of_target = logit[c] - maximum;
  }
  sum = combine_lanes(sum, Plus());
  of_target = __shfl_sync(kAllLanes, of_target, static_cast<int>(target % 32));

  const Real share = Real(1) / static_cast<Real>(p.N);
  if (lane == 0) s.losses[row] = exists ? (log(sum) - of_target) * share : Real(0);
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int v = lane + 32 * c;
    const Real probability = power[c] * (Real(1) / sum);
    const Real slope = (v == target ? probability - Real(1) : probability) * share;
    s.slopes[v].at[row] = exists ? slope : Real(0);
    if (p.grad_logits == nullptr || !exists || v >= p.V) continue;
    static_cast<Real*>(p.grad_logits)[n * p.V + v] = slope;
  }
}

// grad_hs = slopes W_hq^T: a thread has a column of the tile, and kOwnRows of the rows.
__device__ void gradient_of_states(const ReadoutParams& p, const Tile& tile, long long first_row,
                                   const Shared& s) {
  const int column = threadIdx.x % kTile, part = threadIdx.x / kTile;
  if (column >= tile.count) return;
  Real sums[kOwnRows] = {};
#pragma unroll 4
  for (int v = 0; v < p.V; ++v) {
    const auto slopes = reinterpret_cast<const Reals<kOwnRows>*>(s.slopes[v].at)[part];
#pragma unroll
    for (int r = 0; r < kOwnRows; ++r) sums[r] += slopes.at[r] * s.W[column][v];
  }
#pragma unroll
  for (int r = 0; r < kOwnRows; ++r) {
    const long long n = first_row + part * kOwnRows + r;
    if (n < p.N) static_cast<Real*>(p.grad_hs)[n * p.H + tile.first + column] = sums[r];
  }
}

}  // namespace rnnfast::cuda

using namespace rnnfast::cuda;

// Two blocks of a multiprocessor leave 128 registers for each thread.
constexpr int kBlocks = kColumns * sizeof(Real) <= 16 ? 2 : 1;

extern "C" __global__ void __launch_bounds__(kThreads, kBlocks)
    readout(const __grid_constant__ ReadoutParams p) {
  Shared& s = *shared_array<Shared>();
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const long long tiles = (p.H + kTile - 1) / kTile;
  long long loaded = -1;  // the tile of W_hq that is in shared memory
  const auto require_weights = [&](long long tile) {
    if (loaded == tile) return;
    __syncthreads();  // the one before has been used
    load_weights(p, Tile(p, tile), s);
    loaded = tile;
  };

  Real loss = 0, grad_b_q = 0;  // of thread 0, and of thread v
  for (long long n = 1ll * blockIdx.x * kRows; n < p.N; n += 1ll * gridDim.x * kRows) {
    Real sums[kRows][kColumns] = {};
    for (long long tile = 0; tile < tiles; ++tile) {
      require_weights(tile);
      load_states(p, Tile(p, tile), n + warp, s);
      __syncthreads();
      multiply(Tile(p, tile), s, sums);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) s.sums[warp][r][lane + 32 * c] = sums[r][c];
    }
    __syncthreads();
    cross_entropy(p, n + warp, s);
    __syncthreads();

    if (thread == 0) {
      for (int r = 0; r < kRows; ++r) loss += s.losses[r];
    }
    if (p.grad_logits == nullptr) continue;
    if (thread < p.V) {
      for (int r = 0; r < kRows; ++r) grad_b_q += s.slopes[thread].at[r];
    }
    for (long long tile = tiles - 1; tile >= 0; --tile) {
      require_weights(tile);
      __syncthreads();
      gradient_of_states(p, Tile(p, tile), n, s);
    }
  }
  if (thread == 0) static_cast<Real*>(p.losses)[blockIdx.x] = loss;
  if (p.grad_logits != nullptr && thread < p.V) {
    static_cast<Real*>(p.grad_b_q)[blockIdx.x * p.V + thread] = grad_b_q;
  }
}
