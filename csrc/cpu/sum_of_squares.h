// The sum of squares that gradient norms are made of.
#pragma once

#include <cstdint>

namespace rnnfast::RNNFAST_ISA {

// In double, in which the squares of float32 cannot overflow.
class SumOfSquares {
 public:
  // Once for all who add: in a training step its five copies were a tenth of the code.
  template <class Real>
  [[gnu::noinline]] void add(const Real* values, int64_t count, int64_t stride = 1) {
    int64_t i = 0;
    if (stride == 1) {
      for (; i + kPartialSums <= count; i += kPartialSums) {
        for (int lane = 0; lane < kPartialSums; ++lane) {
          const double value = values[i + lane];
          sums_[lane] += value * value;
        }
      }
    }
    for (; i < count; ++i) {
      const double value = values[i * stride];
      sums_[i % kPartialSums] += value * value;
    }
  }

  double total() const {
    double sums[kPartialSums];
    for (int lane = 0; lane < kPartialSums; ++lane) sums[lane] = sums_[lane];
    for (int half = kPartialSums / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    }
    return sums[0];
  }

 private:
  // Independent: enough to hide the latency of an addition, in vectors of any width.
  static constexpr int kPartialSums = 32;
  double sums_[kPartialSums] = {};
};

}  // namespace rnnfast::RNNFAST_ISA
