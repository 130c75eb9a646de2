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
  static constexpr float kSeries[] = {1.3926927e-3f, 8.3637739e-3f, 4.1666550e-2f, 1.6666573e-1f,
                                      0.5f};
  static constexpr float kLog2E = 1.44269504f;
  static constexpr float kLn2 = 0.693147182f;
  static constexpr float kLn2High = 0.693115234375f, kLn2Low = 3.19461849e-5f;  // n * high is exact
  // 1.5 * 2^23 + 127: adding it rounds to an integer n, and n + 127, the exponent of 2^n, stands in
  // the low bits
  static constexpr float kRound = 12583039.0f;
  static constexpr int kMantissa = 23;
  static constexpr float kSmallest = -87.0f;
};
template <>
struct ExpConstants<double> {
  // the same to 1e-16
  static constexpr double kSeries[] = {2.5101346928350350e-8, 2.7621339136682924e-7,
                                       2.7557266418612304e-6, 2.4801518641395994e-5,
                                       1.9841269864380514e-4, 1.3888888918939168e-3,
                                       8.3333333333297935e-3, 4.1666666666620639e-2,
                                       1.6666666666666668e-1, 0.5};
  static constexpr double kLog2E = 1.4426950408889634;
  static constexpr double kLn2 = 0.69314718055994531;
  static constexpr double kLn2High = 0.6931471805437468, kLn2Low = 1.6198510186656560e-11;
  static constexpr double kRound = 6755399441056767.0;  // 1.5 * 2^52 + 1023
  static constexpr int kMantissa = 52;
  static constexpr double kSmallest = -708.0;
};

// exp(x) for x <= 0, to 1.2 ulp; 0 below -87 (float) or -708 (double); NaN stays NaN.
template <class Real>
RNNFAST_INLINE Vec<Real> exp_nonpositive(Vec<Real> x) {
  using C = ExpConstants<Real>;
  const Vec<Real> smallest = splat(C::kSmallest);
  const Vec<Real> a = x < smallest ? smallest : x;
  const Vec<Real> shifted = a * C::kLog2E + C::kRound;
  const Vec<Real> n = shifted - C::kRound;
  const Vec<Real> r = (a - n * C::kLn2High) - n * C::kLn2Low;
  const Vec<Real> scale = from_bits<Real>(to_bits<Real>(shifted) << C::kMantissa);
  const Vec<Real> expm1 = (r * r) * polynomial<Real>(r, C::kSeries) + r;
  return x < smallest ? Vec<Real>{} : scale * expm1 + scale;
}

// (exp(2r) - 1 - 2r) / (2 r^2): the same series, its coefficients multiplied by powers of two.
template <class Real>
RNNFAST_INLINE Vec<Real> half_series(Vec<Real> r) {
  constexpr auto& c = ExpConstants<Real>::kSeries;
  constexpr int N = sizeof c / sizeof c[0];
  Real factor = Real{1 << N};
  Vec<Real> sum = splat(factor * c[0]);
  RNNFAST_UNROLL for (int i = 1; i < N; ++i) sum = sum * r + (factor /= 2) * c[i];
  return sum;
}

// tanh through e = exp(2|x|) - 1 as e / (e + 2), to 2.5 ulp of either type.
//
// A rational x P(x^2) / Q(x^2) of degree 9/8 would make the forward pass 2 % faster at H=64 and 1 %
// at H=256, but its roundings add up to 6 ulp and to |tanh| > 1 near saturation. `scale` is 2^n *
// 2, and everything else is kept at half its size, which saves doubling x.
template <class Real>
RNNFAST_INLINE Vec<Real> tanh(Vec<Real> x) {
  using C = ExpConstants<Real>;
  constexpr Real kRound = C::kRound + 1;
  const Vec<Real> limit = splat(Real{20});  // tanh is 1 long before
  const Bits<Real> sign = to_bits<Real>(x) & to_bits<Real>(splat(Real{-0.0}));
  Vec<Real> a = from_bits<Real>(to_bits<Real>(x) ^ sign);
  a = limit < a ? limit : a;  // written so that NaN stays NaN
  const Vec<Real> shifted = a * (2 * C::kLog2E) + kRound;
  const Vec<Real> n = shifted - kRound;
  Vec<Real> r;  // half the remainder of 2a
  if constexpr (kHasFma) {
    r = a -
        n * (C::kLn2 / 2);  // the product is exact; ln(2)'s own error weighs less than 0.1 ulp here
  } else {
    r = (a - n * (C::kLn2High / 2)) - n * (C::kLn2Low / 2);
  }
  const Vec<Real> scale = from_bits<Real>(to_bits<Real>(shifted) << C::kMantissa);
  const Vec<Real> half_expm1 = (r * r) * half_series<Real>(r) + r;
  const Vec<Real> e = scale * half_expm1 + (scale * Real{0.5} - Real{1});
  return from_bits<Real>(to_bits<Real>(e / (e + Real{2})) | sign);
}

// The equations of csrc/cells/ on a vector of units.
template <class T>
struct VectorMath {
  using Real = T;
  using Value = Vec<T>;
  static RNNFAST_INLINE Value tanh(Value z) { return RNNFAST_ISA::tanh<T>(z); }
};

}  // namespace rnnfast::RNNFAST_ISA
