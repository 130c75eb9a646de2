// The sum of squares that gradient norms are made of.
#pragma once

#include <cstdint>

namespace rnnfast::RNNFAST_ISA {

// In double, in which the squares of float32 cannot overflow.
template <class Real>
double sum_of_squares(const Real* values, int64_t count, int64_t stride = 1) {
  // Independent partial sums: enough to hide the latency of an addition, in vectors of any width.
  constexpr int kPartialSums = 32;
  double sum[kPartialSums] = {};
  int64_t i = 0;
  if (stride == 1) {
    for (; i + kPartialSums <= count; i += kPartialSums) {
      for (int lane = 0; lane < kPartialSums; ++lane) {
        const double value = values[i + lane];
        sum[lane] += value * value;
      }
    }
  }
  for (; i < count; ++i) {
    const double value = values[i * stride];
    sum[i % kPartialSums] += value * value;
  }
  for (int half = kPartialSums / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sum[lane] += sum[lane + half];
  }
  return sum[0];
}

}  // namespace rnnfast::RNNFAST_ISA
