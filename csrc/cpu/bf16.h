// Products of bfloat16 numbers summed in float32: by the CPU's own instruction where it has one,
// else by the same products in float32.
#pragma once

#include "simd.h"

namespace rnnfast::RNNFAST_ISA {

// Two bfloat16 numbers that follow each other along the sum, the first in the low half.
using Pair = uint32_t;
typedef Pair Pairs __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfVector __attribute__((vector_size(kVectorBytes / 2)));

// Pairs, or single numbers, in a sum over K numbers.
template <class Operand>
constexpr int64_t depth_of(int64_t K) {
  return std::is_same_v<Operand, Pair> ? (K + 1) / 2 : K;
}

// The lanes as bfloat16 numbers, ties to even. Where the CPU multiplies them it rounds them too, in
// one instruction for ten (2 % of a forward call): alike but for numbers below 1e-38, of which both
// its instructions make zero.
RNNFAST_INLINE HalfVector round_to_bf16(Vec<float> v) {
#ifdef __AVX512BF16__
  return reinterpret_cast<HalfVector>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(v)));
#else
  const Pairs bits = reinterpret_cast<Pairs>(v);
  const Pairs rounded = bits + 0x7fff + (bits >> 16 & 1);
  const Pairs nan = bits | 0x400000;  // rounding might carry it into another number
  return __builtin_convertvector((v == v ? rounded : nan) >> 16, HalfVector);
#endif
}

// The lanes in the order of a sum: half as many pairs.
RNNFAST_INLINE void store_pairs(Pair* p, Vec<float> v) {
  const HalfVector halves = round_to_bf16(v);
  std::memcpy(p, &halves, sizeof halves);
}

// Of an odd number of units the last pair of a row has one number that is none. It must be 0: an
// infinite state times its weights, 0, is NaN.
RNNFAST_INLINE void clear_half_pair(Pair* row, int64_t units) {
  if (units % 2 != 0) row[units / 2] &= 0xffff;
}

// Lane i of both in one pair.
RNNFAST_INLINE Pairs pair_up(HalfVector low, HalfVector high) {
  return __builtin_convertvector(low, Pairs) | __builtin_convertvector(high, Pairs) << 16;
}

// Pairs as they are multiplied.
#ifdef __AVX512BF16__
using Factors = Pairs;
RNNFAST_INLINE Factors factors_of(Pairs pairs) { return pairs; }
RNNFAST_INLINE Vec<float> add_product(const Factors& a, const Factors& b, Vec<float> sum) {
  return reinterpret_cast<Vec<float>>(_mm512_dpbf16_ps(
      reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
}
#else
struct Factors {
  Vec<float> low, high;
};
RNNFAST_INLINE Factors factors_of(Pairs pairs) {
  return {reinterpret_cast<Vec<float>>(pairs << 16),
          reinterpret_cast<Vec<float>>(pairs & 0xffff0000)};
}
RNNFAST_INLINE Vec<float> add_product(const Factors& a, const Factors& b, Vec<float> sum) {
  return a.low * b.low + (a.high * b.high + sum);
}
#endif

RNNFAST_INLINE Factors load_factors(const Pair* p) {
  Pairs pairs;
  std::memcpy(&pairs, p, sizeof pairs);
  return factors_of(pairs);
}
RNNFAST_INLINE Factors splat_factors(Pair pair) { return factors_of(pair - Pairs{}); }

}  // namespace rnnfast::RNNFAST_ISA
