// Normal noise. A number depends on the seed and on its place alone, so that it is the same however
// rows and columns are shared out.
//
// Source: Threefry 4x32 by J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// 2011; the transform of G. E. P. Box and M. E. Muller, 1958. Nothing but additions, rotations and
// polynomials, which vectors take: 0.5 ns a number with AVX-512 and 1 with AVX2, torch.randn 2.3.
#pragma once

#include <cmath>
#include <cstdint>

#include "math.h"
#include "parallel.h"

namespace rnnfast::RNNFAST_ISA {

// Numbers come in blocks: 4 words of 16 lanes, of which a vector holds as many as it can.
constexpr int kNoiseLanes = 16, kNoiseWords = 4, kNoiseBlock = kNoiseLanes * kNoiseWords;
constexpr int kNoiseWidth = kLanes<float>;
using NoiseWord [[gnu::vector_size(kNoiseWidth * sizeof(uint32_t))]] = uint32_t;

RNNFAST_INLINE void mix(NoiseWord& a, NoiseWord& b, int bits) {
  a += b;
  b = (b << bits | b >> (32 - bits)) ^ a;
}

// From counters to random words; 13 rounds, the fewest that the authors publish answers of.
RNNFAST_INLINE void threefry(const uint32_t (&key)[4], NoiseWord (&x)[4]) {
  constexpr int kRounds = 13;
  constexpr int kRotations[8][2] = {{10, 26}, {11, 21}, {13, 27}, {23, 5},
                                    {6, 20},  {17, 11}, {25, 10}, {18, 20}};
  const uint32_t keys[5] = {key[0], key[1], key[2], key[3],
                            0x1BD11BDAu ^ key[0] ^ key[1] ^ key[2] ^ key[3]};
  const auto add_keys = [&](uint32_t turn) {
    for (uint32_t word = 0; word < 4; ++word) {
      x[word] += keys[(turn + word) % 5] + (word == 3 ? turn : 0);
    }
  };
  add_keys(0);
  RNNFAST_UNROLL for (int round = 0; round < kRounds; ++round) {
    const int second = round % 2 == 0 ? 1 : 3;
    mix(x[0], x[second], kRotations[round % 8][0]);
    mix(x[2], x[4 - second], kRotations[round % 8][1]);
    if (round % 4 == 3) add_keys(static_cast<uint32_t>(round / 4 + 1));
  }
}

// ln(u) of u in (0, 1] that is no denormal number, to 3e-7.
RNNFAST_INLINE Vec<float> log_of(Vec<float> u) {
  constexpr int32_t kSqrtHalf = 0x3f3504f3;  // its bits: mantissas are taken from there on
  constexpr float kLn2 = 0.693147181f;
  // (ln(1 + f) - f) / f^2
  constexpr float kSeries[] = {
      -1.01917247e-1f, 1.60243794e-1f, -1.71371279e-1f, 1.99245036e-1f, -2.49832669e-1f,
      3.33342457e-1f,  -0.5f};
  const Bits<float> exponent = (to_bits<float>(u) - kSqrtHalf) >> 23;
  const Vec<float> f = from_bits<float>(to_bits<float>(u) - (exponent << 23)) - 1.0f;
  return f + f * f * polynomial<float>(f, kSeries) +
         __builtin_convertvector(exponent, Vec<float>) * kLn2;
}

RNNFAST_INLINE Vec<float> square_root(Vec<float> x) {
  RNNFAST_UNROLL for (int l = 0; l < kNoiseWidth; ++l) x[l] = std::sqrt(x[l]);
  return x;
}

// A word as a number in [-2^31, 2^31).
RNNFAST_INLINE Vec<float> number_of(NoiseWord word) {
  return __builtin_convertvector(reinterpret_cast<Bits<float>>(word), Vec<float>);
}

// Two normal numbers from two random words: r cos(p) and r sin(p), where r^2 = -2 ln(u) and p is a
// quarter turn for the two highest bits, and in [-pi/4, pi/4) for the others.
RNNFAST_INLINE void box_muller(NoiseWord of_radius, NoiseWord of_angle, float* first,
                               float* second) {
  constexpr float kHalfPi = 1.57079633f;
  // (sin(p) / p - 1) / p^2 and (cos(p) - 1) / p^2, of p^2
  constexpr float kSine[] = {-1.95172989e-4f, 8.33217815e-3f, -1.66666549e-1f};
  constexpr float kCosine[] = {-1.35978230e-3f, 4.16562946e-2f, -4.99998948e-1f};
  // The middles of 2^31 intervals: never 0.
  const Vec<float> u = (number_of(of_radius >> 1) + 0.5f) * 0x1p-31f;
  const Vec<float> r = square_root(-2.0f * log_of(u));
  const Vec<float> p = number_of(of_angle << 2) * (kHalfPi * 0x1p-32f);
  const Vec<float> q = p * p;
  const Vec<float> sine = p + p * q * polynomial<float>(q, kSine);
  const Vec<float> cosine = 1.0f + q * polynomial<float>(q, kCosine);
  const auto is_odd = (of_angle & 1u << 30) != 0;
  const auto turned = [&](Vec<float> value) {
    const auto sign = reinterpret_cast<Bits<float>>(of_angle & 1u << 31);
    return from_bits<float>(to_bits<float>(value) ^ sign);
  };
  store(first, r * turned(is_odd ? -sine : cosine));
  store(second, r * turned(is_odd ? cosine : sine));
}

struct Noise {
  double deviation = 0;
  uint64_t seed = 0;
  bool is_second = false;  // of a layer's second direction, whose numbers are others

  bool exists() const { return deviation != 0; }

  // Adds that of row `row` of arrays [T, B, ...] in the given columns.
  template <class Real>
  void add(int64_t row, Share columns, Real* to) const {
    for (int64_t i = columns.begin / kNoiseBlock; i * kNoiseBlock < columns.end; ++i) {
      float normals[kNoiseBlock];
      draw(row, i, normals);
      const int64_t first = i * kNoiseBlock, last = first + kNoiseBlock;
      const int64_t end = last < columns.end ? last : columns.end;
      for (int64_t c = first > columns.begin ? first : columns.begin; c < end; ++c) {
        to[c] += static_cast<Real>(deviation) * static_cast<Real>(normals[c - first]);
      }
    }
  }

 private:
  // Block i of a row.
  [[gnu::noinline]] void draw(int64_t row, int64_t i, float* normals) const {
    const auto low = [](uint64_t value) { return static_cast<uint32_t>(value); };
    const auto of_row = static_cast<uint64_t>(row);
    NoiseWord lanes;
    for (uint32_t l = 0; l < kNoiseWidth; ++l) lanes[l] = l;
    const NoiseWord none{};
    for (int64_t first = 0; first < kNoiseLanes; first += kNoiseWidth) {
      NoiseWord x[kNoiseWords] = {lanes + low(static_cast<uint64_t>(i * kNoiseLanes + first)),
                                  none + low(of_row), none + low(of_row >> 32), none};
      threefry({low(seed), low(seed >> 32), is_second ? 1u : 0u, 0}, x);
      float* const to = normals + first;
      box_muller(x[0], x[1], to, to + kNoiseLanes);
      box_muller(x[2], x[3], to + 2 * kNoiseLanes, to + 3 * kNoiseLanes);
    }
  }
};

}  // namespace rnnfast::RNNFAST_ISA
