// The common 2-norm of all gradients, then their scaling and, where wanted, SGD: two launches.
//
// The gradients are cut into chunks. clip_sums leaves one sum of squares per block, in double, in
// which the squares of float32 cannot overflow. Each block of clip_scale adds up all of these again
// in the same order (at most a few KB from the L2 cache) rather than wait for one block to do it:
// no atomics, no counter to clear, nothing for the host to read.
//
// Launch: any grid (clip_sums writes one sum per block; both at most num_chunks blocks), block
// kClipThreads, shared memory 8 bytes per warp.
#include "params.h"
#include "reduce.cuh"

namespace rnnfast::cuda {

// 16 bytes, which one instruction loads.
template <class Real>
struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(Real);
  Real at[kCount];
};

// The part of one gradient that is one chunk.
template <class Real>
struct Chunk {
  __device__ Chunk(const GradientRows& gradient, int chunk)
      : gradient(gradient),
        begin(static_cast<long long>(chunk - gradient.first_chunk) * kClipChunk),
        end(min(begin + kClipChunk, gradient.count)),
        values(static_cast<Real*>(gradient.values)),
        parameter(static_cast<Real*>(gradient.parameter)) {}

  // Consecutive in memory and aligned: whole packs.
  __device__ bool is_packed() const {
    const auto address = reinterpret_cast<unsigned long long>(values) |
                         reinterpret_cast<unsigned long long>(parameter);
    return gradient.row == gradient.count && gradient.stride == 1 && address % 16 == 0 &&
           end - begin == kClipChunk;
  }

  __device__ long long place(long long i) const {
    if (gradient.row == gradient.count) return i * gradient.stride;
    return i / gradient.row * gradient.row_stride + i % gradient.row * gradient.stride;
  }

  const GradientRows& gradient;
  long long begin, end;
  Real *values, *parameter;
};

template <class Real>
__device__ double sum_of_squares(const Chunk<Real>& chunk) {
  double sum = 0;
  if (chunk.is_packed()) {
    constexpr int kPacks = kClipChunk / Pack<Real>::kCount / kClipThreads;
    const auto* packs = reinterpret_cast<const Pack<Real>*>(chunk.values + chunk.begin);
    Pack<Real> pack[kPacks];
#pragma unroll
    for (int i = 0; i < kPacks; ++i) pack[i] = packs[threadIdx.x + i * kClipThreads];
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
#pragma unroll
      for (const Real value : pack[i].at) sum += static_cast<double>(value) * value;
    }
  } else {
    for (long long i = chunk.begin + threadIdx.x; i < chunk.end; i += kClipThreads) {
      const double value = chunk.values[chunk.place(i)];
      sum += value * value;
    }
  }
  return sum;
}

// Real: the dtype of the gradient, in which torch scales and subtracts as well.
template <class Real>
struct Update {
  Real factor, lr;

  __device__ void scale(Real& gradient) const { gradient *= factor; }
  __device__ void step(Real& parameter, Real gradient) const { parameter -= lr * gradient; }
};

template <class Real>
__device__ void update(const Chunk<Real>& chunk, const Update<Real>& update) {
  const bool steps = chunk.parameter != nullptr;
  if (chunk.is_packed()) {
    constexpr int kPacks = kClipChunk / Pack<Real>::kCount / kClipThreads;
    auto* gradients = reinterpret_cast<Pack<Real>*>(chunk.values + chunk.begin);
    auto* parameters = reinterpret_cast<Pack<Real>*>(chunk.parameter + (steps ? chunk.begin : 0));
    Pack<Real> gradient[kPacks], parameter[kPacks];
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      gradient[i] = gradients[threadIdx.x + i * kClipThreads];
      if (steps) parameter[i] = parameters[threadIdx.x + i * kClipThreads];
    }
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
#pragma unroll
      for (int j = 0; j < Pack<Real>::kCount; ++j) {
        update.scale(gradient[i].at[j]);
        if (steps) update.step(parameter[i].at[j], gradient[i].at[j]);
      }
      gradients[threadIdx.x + i * kClipThreads] = gradient[i];
      if (steps) parameters[threadIdx.x + i * kClipThreads] = parameter[i];
    }
  } else {
    for (long long i = chunk.begin + threadIdx.x; i < chunk.end; i += kClipThreads) {
      const long long place = chunk.place(i);
      update.scale(chunk.values[place]);
      if (steps) update.step(chunk.parameter[place], chunk.values[place]);
    }
  }
}

// Calls visit(Chunk<float> or Chunk<double>) for the chunks of this block.
template <class Params, class Visit>
__device__ __forceinline__ void for_each_chunk(const Params& p, const Visit& visit) {
  int g = 0;
  for (int chunk = blockIdx.x; chunk < p.num_chunks; chunk += gridDim.x) {
    while (g + 1 < p.num_gradients && p.gradients[g + 1].first_chunk <= chunk) ++g;
    if (p.gradients[g].is_double) {
      visit(Chunk<double>(p.gradients[g], chunk));
    } else {
      visit(Chunk<float>(p.gradients[g], chunk));
    }
  }
}

__device__ double factor_for(double norm, double max_norm, bool d2l) {
  if (d2l) return norm > max_norm ? max_norm / norm : 1.0;
  const double factor = max_norm / (norm + 1e-6);
  return factor > 1.0 ? 1.0 : factor;  // NaN stays NaN
}

}  // namespace rnnfast::cuda

using namespace rnnfast::cuda;

extern "C" __global__ void __launch_bounds__(kClipThreads)
    clip_sums(const __grid_constant__ ClipSumsParams p) {
  double sum = 0;
  for_each_chunk(p, [&](const auto& chunk) { sum += sum_of_squares(chunk); });
  sum = combine_block(sum, shared_array<double>(), Plus());
  if (threadIdx.x == 0) p.sums[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(kClipThreads)
    clip_scale(const __grid_constant__ ClipScaleParams p) {
  double sum = 0;
  for (int i = threadIdx.x; i < p.num_sums; i += kClipThreads) sum += p.sums[i];
  const double norm = sqrt(combine_block(sum, shared_array<double>(), Plus()));
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    if (p.norm != nullptr) *p.norm = static_cast<float>(norm);
    if (p.norm_float64 != nullptr) *p.norm_float64 = norm;
  }
  const double factor = factor_for(norm, p.max_norm, p.d2l);
  for_each_chunk(p, [&]<class Real>(const Chunk<Real>& chunk) {
    if (factor == 1.0 && chunk.parameter == nullptr) return;
    update(chunk, Update<Real>{static_cast<Real>(factor), static_cast<Real>(p.lr)});
  });
}
