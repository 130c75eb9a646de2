// The next id from the logits of one sequence, by one warp. Every lane returns it.
#pragma once

#include "params.h"
#include "reduce.cuh"

namespace rnnfast::cuda {

// A logit and where it stands. NaN counts as larger than anything, as in torch.argmax; among equals
// the first one wins.
template <class Real>
struct Candidate {
  Real logit;
  int v;

  __device__ bool beats(const Candidate& other) const {
    const bool is_nan = logit != logit, other_is_nan = other.logit != other.logit;
    if (is_nan != other_is_nan) return is_nan;
    if (!is_nan && logit != other.logit) return logit > other.logit;
    return v < other.v;
  }
};

template <class Real>
__device__ int largest(const Real* logits, int V) {
  const int lane = threadIdx.x % 32;
  Candidate<Real> best{-kInfinity, V};
  for (int v = lane; v < V; v += 32) {
    const Candidate<Real> candidate{logits[v], v};
    if (candidate.beats(best)) best = candidate;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Candidate<Real> other{__shfl_xor_sync(kAllLanes, best.logit, distance),
                                __shfl_xor_sync(kAllLanes, best.v, distance)};
    if (other.beats(best)) best = other;
  }
  return best.v;
}

// First index whose cumulative probability under softmax(logits / temperature) exceeds u, but none
// whose probability is 0; 0 where the probabilities are NaN. Overwrites the logits.
template <class Real>
__device__ int sample(Real* logits, int V, double temperature, double u) {
  const int lane = threadIdx.x % 32;
  Real maximum = -kInfinity;
  for (int v = lane; v < V; v += 32) maximum = Larger()(maximum, logits[v]);
  maximum = combine_lanes(maximum, Larger());

  // Each lane owns a run of consecutive classes; an odd length spreads the lanes over the banks.
  const int run = (V + 31) / 32 | 1;
  const int begin = min(lane * run, V), end = min(begin + run, V);
  const Real slope = static_cast<Real>(1 / temperature);
  double sum = 0;
  int last = 0;  // with a probability above 0
  for (int v = begin; v < end; ++v) {
    logits[v] = exp((logits[v] - maximum) * slope);
    sum += logits[v];
    if (logits[v] > 0) last = v;
  }
  double through = sum;  // of this lane and all before it
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const double before = __shfl_sync(kAllLanes, through, max(lane - distance, 0));
    if (lane >= distance) through += before;
  }
  const double limit = u * __shfl_sync(kAllLanes, through, 31);

  // Also true where the sum is NaN, in the first lane then: not (... <= limit).
  const unsigned beyond = __ballot_sync(kAllLanes, !(through <= limit));
  if (beyond == 0) return combine_lanes(last, [](int a, int b) { return max(a, b); });  // u >= 1
  const int owner = __ffs(static_cast<int>(beyond)) - 1;
  double cumulative = through - sum;
  int v = begin;
  while (v < end && (cumulative += logits[v]) <= limit) ++v;
  return __shfl_sync(kAllLanes, v < end ? v : last, owner);
}

// A uniform number that is safe to sample with; one out of range leaves its code.
__device__ inline double checked_uniform(double u, int* error) {
  if (!(u >= 0 && u < 1) && threadIdx.x % 32 == 0) report(error, kErrorUniform);
  return u;
}

}  // namespace rnnfast::cuda
