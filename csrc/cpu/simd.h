// A tiny portable vector type: GCC's and Clang's vector extensions, as wide as the instruction set
// this source is compiled for. Within 1-4 % of hand-written intrinsics on AVX-512, 3-11 % on AVX2;
// plain loops left to the auto-vectoriser were 2.7 times slower.
//
// Compile with -ffp-contract=fast: a * b + c on vectors is then one fused multiply-add where there
// is one.
#pragma once

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <utility>

namespace rnnfast::RNNFAST_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kRegisters = 32;
#else
constexpr int kVectorBytes = 16, kRegisters = 16;
#endif

#if defined(__FMA__) || defined(__aarch64__)
constexpr bool kHasFma = true;
#else
constexpr bool kHasFma = false;
#endif

#define RNNFAST_INLINE inline __attribute__((always_inline))
// Unrolls the loop after it completely: register tiles are arrays, and an index must be a constant
// for an element to live in a register.
#define RNNFAST_UNROLL _Pragma("GCC unroll 16")
// Counting and moving on are a fifth of the instructions of a product on AVX2: 1 to 4 % of a step,
// most where another thread shares the core.
#define RNNFAST_UNROLL_BY_2 _Pragma("GCC unroll 2")

template <class Real>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t bits __attribute__((vector_size(kVectorBytes)));
};
template <class Real>
using Vec = typename VectorOf<Real>::type;
template <class Real>
using Bits = typename VectorOf<Real>::bits;

template <class Real>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Real));

// No aligned forms: an unaligned instruction on an aligned address costs nothing on any CPU of
// today.
template <class Real>
RNNFAST_INLINE Vec<Real> load(const Real* p) {
  Vec<Real> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class Real>
RNNFAST_INLINE void store(Real* p, Vec<Real> v) {
  std::memcpy(p, &v, sizeof v);
}

template <class Real>
RNNFAST_INLINE Vec<Real> splat(Real x) {
  return x - Vec<Real>{};
}

template <class Real>
RNNFAST_INLINE Vec<Real> lane_numbers() {
  Vec<Real> v{};
  RNNFAST_UNROLL for (int i = 0; i < kLanes<Real>; ++i) v[i] = static_cast<Real>(i);
  return v;
}

// The first n lanes, 0 < n < kLanes (or any n above, where masks are free), from or to memory,
// nothing of which is touched beyond them: by masks where there are any, as a memcpy of a length
// known at run time only is a call of 11 ns (V = 28: 10 % of a forward pass with its readout at H =
// 64, 2 % of a training step of one row; by AVX2 5 % of either step).
#if defined(__AVX512F__)
constexpr bool kMasksAreFree = true;
RNNFAST_INLINE __mmask16 first_lanes(int64_t n) {
  return static_cast<__mmask16>(n < 16 ? (1U << n) - 1 : 0xffffU);
}
RNNFAST_INLINE Vec<float> load_lanes(const float* p, int64_t n) {
  return reinterpret_cast<Vec<float>>(_mm512_maskz_loadu_ps(first_lanes(n), p));
}
RNNFAST_INLINE Vec<double> load_lanes(const double* p, int64_t n) {
  return reinterpret_cast<Vec<double>>(
      _mm512_maskz_loadu_pd(static_cast<__mmask8>(first_lanes(n)), p));
}
RNNFAST_INLINE void store_lanes(float* p, int64_t n, Vec<float> v) {
  _mm512_mask_storeu_ps(p, first_lanes(n), reinterpret_cast<__m512>(v));
}
RNNFAST_INLINE void store_lanes(double* p, int64_t n, Vec<double> v) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(first_lanes(n)), reinterpret_cast<__m512d>(v));
}
#elif defined(__AVX2__)
constexpr bool kMasksAreFree = false;
RNNFAST_INLINE __m256i first_floats(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
RNNFAST_INLINE __m256i first_doubles(int64_t n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
RNNFAST_INLINE Vec<float> load_lanes(const float* p, int64_t n) {
  return reinterpret_cast<Vec<float>>(_mm256_maskload_ps(p, first_floats(n)));
}
RNNFAST_INLINE Vec<double> load_lanes(const double* p, int64_t n) {
  return reinterpret_cast<Vec<double>>(_mm256_maskload_pd(p, first_doubles(n)));
}
RNNFAST_INLINE void store_lanes(float* p, int64_t n, Vec<float> v) {
  _mm256_maskstore_ps(p, first_floats(n), reinterpret_cast<__m256>(v));
}
RNNFAST_INLINE void store_lanes(double* p, int64_t n, Vec<double> v) {
  _mm256_maskstore_pd(p, first_doubles(n), reinterpret_cast<__m256d>(v));
}
#else
constexpr bool kMasksAreFree = false;
template <class Real>
RNNFAST_INLINE Vec<Real> load_lanes(const Real* p, int64_t n) {
  Vec<Real> v{};
  std::memcpy(&v, p, static_cast<size_t>(n) * sizeof(Real));
  return v;
}
template <class Real>
RNNFAST_INLINE void store_lanes(Real* p, int64_t n, Vec<Real> v) {
  std::memcpy(p, &v, static_cast<size_t>(n) * sizeof(Real));
}
#endif

// The first n lanes from memory (0 < n), zero in the others: the tail of a row.
template <class Real>
RNNFAST_INLINE Vec<Real> load_first(const Real* p, int64_t n) {
  return n >= kLanes<Real> ? load(p) : load_lanes(p, n);
}

template <class Real>
RNNFAST_INLINE void store_first(Real* p, int64_t n, Vec<Real> v) {
  n >= kLanes<Real> ? store(p, v) : store_lanes(p, n, v);
}

// load_first where a whole vector may be read: no call without masks either.
template <class Real>
RNNFAST_INLINE Vec<Real> load_masked(const Real* p, int64_t n) {
  const Vec<Real> v = load(p);
  return n >= kLanes<Real> ? v : lane_numbers<Real>() < static_cast<Real>(n) ? v : Vec<Real>{};
}

template <class Real>
RNNFAST_INLINE Bits<Real> to_bits(Vec<Real> v) {
  return reinterpret_cast<Bits<Real>>(v);
}

template <class Real>
RNNFAST_INLINE Vec<Real> from_bits(Bits<Real> b) {
  return reinterpret_cast<Vec<Real>>(b);
}

// Lanes of a and b, numbered as if b followed a.
template <class Real, int... Lane>
RNNFAST_INLINE Vec<Real> shuffle(Vec<Real> a, Vec<Real> b, std::integer_sequence<int, Lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Lane...);
#else
  return __builtin_shuffle(a, b, Bits<Real>{Lane...});
#endif
}

namespace detail {
template <int N, int Shift, int... I>
constexpr auto rotated(std::integer_sequence<int, I...>) {
  return std::integer_sequence<int, (I + Shift) % N...>{};
}
// a0 b0 a1 b1 ... beginning with lane First of each
template <int N, int First, int... I>
constexpr auto interleaved(std::integer_sequence<int, I...>) {
  return std::integer_sequence<int, (First + I / 2 + (I % 2) * N)...>{};
}
}  // namespace detail

template <class Real, int Shift>
RNNFAST_INLINE Vec<Real> rotate(Vec<Real> v) {
  constexpr int N = kLanes<Real>;
  return shuffle<Real>(v, v,
                       decltype(detail::rotated<N, Shift>(std::make_integer_sequence<int, N>{})){});
}

template <class Real, int First>
RNNFAST_INLINE Vec<Real> interleave(Vec<Real> a, Vec<Real> b) {
  constexpr int N = kLanes<Real>;
  return shuffle<Real>(
      a, b, decltype(detail::interleaved<N, First>(std::make_integer_sequence<int, N>{})){});
}

// Adds halves of a vector until every `Last` lanes of it are the same, in a fixed tree, so that the
// same bits come out on every run.
template <class Real, int Last, int Step = kLanes<Real> / 2>
RNNFAST_INLINE Vec<Real> fold(Vec<Real> v) {
  if constexpr (Step < Last) {
    return v;
  } else {
    return fold<Real, Last, Step / 2>(v + rotate<Real, Step>(v));
  }
}

template <class Real>
RNNFAST_INLINE Real sum_lanes(Vec<Real> v) {
  return fold<Real, 1>(v)[0];
}

// Lane i becomes the sum of all lanes of rows[i % Rows]. Two rows at a time become one that holds
// half the lanes' sums of each: 8 rows of 16 lanes take 23 instructions, one by one 64.
template <class Real, int Rows, int All = Rows>
RNNFAST_INLINE Vec<Real> sums_of_rows(const Vec<Real> (&rows)[Rows]) {
  static_assert(All <= kLanes<Real>);
  if constexpr (Rows == 1) {
    return fold<Real, All>(rows[0]);
  } else {
    constexpr int kHalf = Rows / 2, N = kLanes<Real>;
    Vec<Real> halves[kHalf];
    RNNFAST_UNROLL for (int i = 0; i < kHalf; ++i) {
      halves[i] = interleave<Real, 0>(rows[i], rows[i + kHalf]) +
                  interleave<Real, N / 2>(rows[i], rows[i + kHalf]);
    }
    return sums_of_rows<Real, kHalf, All>(halves);
  }
}

template <class Real>
RNNFAST_INLINE Vec<Real> larger(Vec<Real> a, Vec<Real> b) {  // b where a lane of either is NaN
  return a > b ? a : b;
}

template <class Real, int Step = kLanes<Real> / 2>
RNNFAST_INLINE Real max_lanes(Vec<Real> v) {
  if constexpr (Step == 0) {
    return v[0];
  } else {
    return max_lanes<Real, Step / 2>(larger<Real>(v, rotate<Real, Step>(v)));
  }
}

// The smallest of all lanes, as integers.
template <class Real, int Step = kLanes<Real> / 2>
RNNFAST_INLINE int64_t min_lanes(Bits<Real> v) {
  if constexpr (Step == 0) {
    return v[0];
  } else {
    const Bits<Real> other = to_bits<Real>(rotate<Real, Step>(from_bits<Real>(v)));
    return min_lanes<Real, Step / 2>(v < other ? v : other);
  }
}

// The square of kLanes vectors becomes its transpose: log2(kLanes) perfect shuffles.
template <class Real>
RNNFAST_INLINE void transpose(Vec<Real> (&row)[kLanes<Real>]) {
  constexpr int N = kLanes<Real>;
  for (int round = 1; round < N; round *= 2) {
    Vec<Real> next[N];
    RNNFAST_UNROLL for (int i = 0; i < N / 2; ++i) {
      next[2 * i] = interleave<Real, 0>(row[i], row[i + N / 2]);
      next[2 * i + 1] = interleave<Real, N / 2>(row[i], row[i + N / 2]);
    }
    RNNFAST_UNROLL for (int i = 0; i < N; ++i) row[i] = next[i];
  }
}

}  // namespace rnnfast::RNNFAST_ISA
