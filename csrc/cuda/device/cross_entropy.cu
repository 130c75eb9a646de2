// The mean cross-entropy of all rows of logits and its derivative, in place.
//
// Macros, given with -D:
//   RF_REAL       float or double
//   RF_ROW_WARPS  warps per row: 1, or 8 for a long one (V above 1024)
// Launch: grid ceil(N * RF_ROW_WARPS / 8), block 256, shared memory of 8 Reals.
#include "params.h"
#include "reduce.cuh"

static_assert(RF_ROW_WARPS == 1 || RF_ROW_WARPS == 8, "RF_ROW_WARPS must be 1 or 8");

namespace rnnfast::cuda {

using Real = RF_REAL;

constexpr int kThreads = 256;
constexpr int kRowThreads = 32 * RF_ROW_WARPS;

template <class Combine>
__device__ __forceinline__ Real combine_row(Real value, const Combine& combine) {
  if constexpr (RF_ROW_WARPS == 1) {
    return combine_lanes(value, combine);
  } else {
    return combine_block(value, shared_array<Real>(), combine);
  }
}

}  // namespace rnnfast::cuda

using namespace rnnfast::cuda;

extern "C" __global__ void __launch_bounds__(kThreads)
    cross_entropy(const __grid_constant__ CrossEntropyParams p) {
  const int thread = threadIdx.x % kRowThreads;
  const long long n =
      static_cast<long long>(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (n >= p.N) return;  // a whole warp, or a whole block
  Real* logits = static_cast<Real*>(p.logits) + n * p.V;
  const Real* bias = static_cast<const Real*>(p.bias);
  const auto logit = [&](long long v) { return logits[v] + bias[v]; };
  long long target = p.targets[n / p.B * p.targets_stride_t + n % p.B * p.targets_stride_b];
  if (target < 0 || target >= p.V) {
    if (thread == 0) report(p.error, kErrorTarget);
    target = 0;
  }

  Real maximum = -kInfinity;
  for (long long v = thread; v < p.V; v += kRowThreads) maximum = Larger()(maximum, logit(v));
  maximum = combine_row(maximum, Larger());
  Real sum = 0;
  for (long long v = thread; v < p.V; v += kRowThreads) sum += exp(logit(v) - maximum);
  sum = combine_row(sum, Plus());

  const Real share = Real(1) / static_cast<Real>(p.N);
  if (thread == 0) static_cast<Real*>(p.losses)[n] = (log(sum) - (logit(target) - maximum)) * share;
  if (!p.wants_gradient) return;
  if constexpr (RF_ROW_WARPS == 1) {
    __syncwarp();  // the target's logit has been read
  } else {
    __syncthreads();
  }
  const Real slope = Real(1) / sum;
  for (long long v = thread; v < p.V; v += kRowThreads) {
    const Real probability = exp(logit(v) - maximum) * slope;
    logits[v] = (v == target ? probability - Real(1) : probability) * share;
  }
}
