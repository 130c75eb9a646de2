// exp and tanh on vectors. Coefficients fitted for this file: least maximum relative error.
#pragma once

#include "simd.h"

namespace rnnfast::RNNFAST_ISA {

// c[0] x^n + c[1] x^(n-1) + ... + c[n]
template <class Real, int N>
RNNFAST_INLINE Vec<Real> polynomial(Vec<Real> x, const Real (&c)[N]) {
  Vec<Real> sum = splat(c[0]);
  RNNFAST_UNROLL for (int i = 1; i < N; ++i) sum = sum * x + c[i];
  return sum;
}

template <class Real>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  // (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2, to 7e-8
  static constexpr float kSeries[] = {1.3926927e-3f, 8.3637739e-3f, 4.1666550e-2f, 1.6666573e-1f, 0.5f};
  static constexpr float kLog2E = 1.44269504f;
  static constexpr float kLn2High = 0.693115234375f, kLn2Low = 3.19461849e-5f;  // n * high is exact
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kSmallest = -87.0f;
};
template <>
struct ExpConstants<double> {
  // the same to 1e-16
  static constexpr double kSeries[] = {2.5101346928350350e-8, 2.7621339136682924e-7,  2.7557266418612304e-6,
                                       2.4801518641395994e-5, 1.9841269864380514e-4,  1.3888888918939168e-3,
                                       8.3333333333297935e-3, 4.1666666666620639e-2, 1.6666666666666668e-1,
                                       0.5};
  static constexpr double kLog2E = 1.4426950408889634;
  static constexpr double kLn2High = 0.6931471805437468, kLn2Low = 1.6198510186656560e-11;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kSmallest = -708.0;
};

// exp(x) = scale * (1 + expm1), scale a power of two and |expm1| < 0.42.
template <class Real>
struct SplitExp {
  Vec<Real> scale, expm1;
};

template <class Real>
RNNFAST_INLINE SplitExp<Real> split_exp(Vec<Real> x) {
  using C = ExpConstants<Real>;
  const Vec<Real> shifted = x * C::kLog2E + C::kRound;  // n in the low bits
  const Vec<Real> n = shifted - C::kRound;
  const Vec<Real> r = (x - n * C::kLn2High) - n * C::kLn2Low;
  const Bits<Real> exponent = (to_bits<Real>(shifted) + C::kBias) << C::kMantissa;
  return {from_bits<Real>(exponent), (r * r) * polynomial<Real>(r, C::kSeries) + r};
}

// exp(x) for x <= 0, to 2 ulp; 0 below -87 (float) or -708 (double); NaN stays NaN.
template <class Real>
RNNFAST_INLINE Vec<Real> exp_nonpositive(Vec<Real> x) {
  const Vec<Real> smallest = splat(ExpConstants<Real>::kSmallest);
  const SplitExp<Real> e = split_exp<Real>(x < smallest ? smallest : x);
  return x < smallest ? Vec<Real>{} : e.scale * e.expm1 + e.scale;
}

// tanh through e = exp(2|x|) - 1 as e / (e + 2), to 3 ulp of either type.
// A rational x P(x^2) / Q(x^2) of degree 9/8 needs half the operations, but its roundings add up to 6 ulp and
// |tanh| > 1 near saturation.
template <class Real>
RNNFAST_INLINE Vec<Real> tanh(Vec<Real> x) {
  const Vec<Real> limit = splat(Real{20});       // tanh is 1 long before
  const Vec<Real> sign = from_bits<Real>(to_bits<Real>(x) & to_bits<Real>(splat(Real{-0.0})));
  Vec<Real> a = from_bits<Real>(to_bits<Real>(x) ^ to_bits<Real>(sign));
  a = a > limit ? limit : a;  // written so that NaN stays NaN
  const SplitExp<Real> split = split_exp<Real>(a + a);
  const Vec<Real> e = split.scale * split.expm1 + (split.scale - Real{1});
  return from_bits<Real>(to_bits<Real>(e / (e + Real{2})) | to_bits<Real>(sign));
}

}  // namespace rnnfast::RNNFAST_ISA
