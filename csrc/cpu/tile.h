// The register tile every matrix product here is made of: up to kTileRows x kTileVectors
// accumulators that stay in registers while K runs, and the packed panels they read.
#pragma once

#include "bf16.h"
#include "simd.h"

namespace rnnfast::RNNFAST_ISA {

// 8 x 3 accumulators fill 32 registers (24 + 3 + a broadcast from memory), 4 x 3 fill 16: 83-90 %
// of peak.
constexpr int kTileRows = kRegisters == 32 ? 8 : 4;
constexpr int kTileVectors = 3;

// The compiler reads fields anew after this, instead of keeping them in registers from before. Kept
// over a product, they drove the addresses of its rows out, into memory and vector registers: 5 of
// its 45 instructions, 2 % of a training step of many rows.
RNNFAST_INLINE void forget_fields() { asm volatile("" ::: "memory"); }

template <class Real, int Rows, int Vectors>
struct Tile {
  static constexpr int kRows = Rows, kVectors = Vectors, kColumns = Vectors * kLanes<Real>;
  // Few accumulators wait 4 cycles each for the one before: run 2 or 4 sums side by side.
  static constexpr int kAll = kTileRows * kTileVectors, kSize = Rows * Vectors;
  static constexpr int kSums = kSize * 4 <= kAll ? 4 : kSize * 2 <= kAll ? 2 : 1;

  Vec<Real> at[Rows][Vectors];

  RNNFAST_INLINE void clear() {
    RNNFAST_UNROLL for (int i = 0; i < Rows; ++i) {
      RNNFAST_UNROLL for (int j = 0; j < Vectors; ++j) at[i][j] = Vec<Real>{};
    }
  }

  // Calls f(i, j, lane offset of vector j) for every vector of the tile.
  template <class F>
  RNNFAST_INLINE static void each(const F& f) {
    RNNFAST_UNROLL for (int i = 0; i < Rows; ++i) {
      RNNFAST_UNROLL for (int j = 0; j < Vectors; ++j) f(i, j, j * kLanes<Real>);
    }
  }

  RNNFAST_INLINE void load_rows(const Real* p, int64_t stride) {
    each([&](int i, int j, int c) { at[i][j] = load(p + i * stride + c); });
  }

  RNNFAST_INLINE void add_rows(const Real* p, int64_t stride) {
    each([&](int i, int j, int c) { at[i][j] += load(p + i * stride + c); });
  }
  RNNFAST_INLINE void store_rows(Real* p, int64_t stride) const {
    each([&](int i, int j, int c) { store(p + i * stride + c, at[i][j]); });
  }

  // The same where only `columns` columns exist from here on: the last vector may be cut.
  RNNFAST_INLINE void add_rows(const Real* p, int64_t stride, int64_t columns) {
    if (is_whole(columns)) return add_rows(p, stride);
    each([&](int i, int j, int c) {
      const Real* from = p + i * stride + c;
      at[i][j] += j < Vectors - 1 ? load(from) : load_lanes(from, columns - c);
    });
  }
  RNNFAST_INLINE void store_rows(Real* p, int64_t stride, int64_t columns) const {
    if (is_whole(columns)) return store_rows(p, stride);
    each([&](int i, int j, int c) {
      Real* to = p + i * stride + c;
      j < Vectors - 1 ? store(to, at[i][j]) : store_lanes(to, columns - c, at[i][j]);
    });
  }

  // sums[j] += at[0][j] + at[1][j] + ...
  RNNFAST_INLINE void add_column_sums(Real* sums) const {
    RNNFAST_UNROLL for (int j = 0; j < Vectors; ++j) {
      Vec<Real> sum = at[0][j];
      RNNFAST_UNROLL for (int i = 1; i < Rows; ++i) sum += at[i][j];
      store(sums + j * kLanes<Real>, load(sums + j * kLanes<Real>) + sum);
    }
  }

  // The rows rounded to bfloat16, in pairs.
  RNNFAST_INLINE void store_rows(Pair* p, int64_t stride) const {
    each([&](int i, int j, int c) { store_pairs(p + i * stride + c / 2, at[i][j]); });
  }

  // at[i][j] += sum over k of a[i][k] b[k][j]; b is a packed panel. Both may be pairs. Step is 1,
  // or -1 to begin at the last k.
  template <int Step = 1, class Operand>
  RNNFAST_INLINE void multiply(int64_t K, const Operand* a, int64_t stride, const Operand* b) {
    if constexpr (Step < 0) a += K - 1, b += (K - 1) * kColumns;
    int64_t k = 0;
    if constexpr (kSums > 1) {
      Tile sums[kSums - 1];
      for (auto& sum : sums) sum.clear();
      for (; k + kSums <= K; k += kSums, a += Step * kSums, b += Step * kSums * kColumns) {
        add_product(a, stride, b);
        RNNFAST_UNROLL for (int s = 1; s < kSums; ++s) {
          sums[s - 1].add_product(a + Step * s, stride, b + Step * s * kColumns);
        }
      }
      for (auto& sum : sums) each([&](int i, int j, int) { at[i][j] += sum.at[i][j]; });
    }
    RNNFAST_UNROLL_BY_2 for (; k < K; ++k, a += Step, b += Step * kColumns) {
      add_product(a, stride, b);
    }
    forget_fields();
  }

  // at[i][j] += sum over k of a[k][i] b[k][j].
  RNNFAST_INLINE void multiply_transposed(int64_t K, const Real* a, int64_t a_stride, const Real* b,
                                          int64_t b_stride) {
    RNNFAST_UNROLL_BY_2 for (int64_t k = 0; k < K; ++k, a += a_stride, b += b_stride) {
      add_product(a, 1, b);
    }
  }

 private:
  // Whole tiles have code of their own, but with AVX-512, where a mask costs nothing: a fifth of
  // the code of all tiles.
  RNNFAST_INLINE static bool is_whole(int64_t columns) {
    return !kMasksAreFree && columns >= kColumns;
  }

  RNNFAST_INLINE void add_product(const Pair* a, int64_t row_stride, const Pair* b) {
    Factors row[Vectors];
    RNNFAST_UNROLL for (int j = 0; j < Vectors; ++j) row[j] = load_factors(b + j * kLanes<Real>);
    RNNFAST_UNROLL for (int i = 0; i < Rows; ++i) {
      const Factors factor = splat_factors(a[i * row_stride]);
      RNNFAST_UNROLL for (int j = 0; j < Vectors; ++j) {
        at[i][j] = RNNFAST_ISA::add_product(factor, row[j], at[i][j]);
      }
    }
  }

  RNNFAST_INLINE void add_product(const Real* a, int64_t row_stride, const Real* b) {
    Vec<Real> row[Vectors];
    RNNFAST_UNROLL for (int j = 0; j < Vectors; ++j) row[j] = load(b + j * kLanes<Real>);
    RNNFAST_UNROLL for (int i = 0; i < Rows; ++i) {
      const Vec<Real> factor = splat(a[i * row_stride]);
      RNNFAST_UNROLL for (int j = 0; j < Vectors; ++j) at[i][j] = factor * row[j] + at[i][j];
    }
  }
};

// Calls task.run<rows, vectors>(). For every task of the recurrence its sizes, up to kTileRows x
// kTileVectors, are compiled once, in *_tiles.cpp, and not for each kernel that runs it: they are
// most of what there is to compile.
template <class Task>
void run_tile(int rows, int vectors, const Task& task);

// n things in `parts` parts as even as can be. One division for all parts, not two for each: a
// small tile takes no longer than 20 divisions.
struct Even {
  int64_t size, larger;  // the first `larger` parts have one more than `size`

  Even(int64_t n, int64_t parts) : size(parts > 0 ? n / parts : 0), larger(n - size * parts) {}
  int64_t begin(int64_t part) const { return part * size + (part < larger ? part : larger); }
};

// Calls f(first row, rows) for blocks of at most kTileRows rows.
template <class F>
RNNFAST_INLINE void each_row_block(int64_t rows, const F& f) {
  const int64_t blocks = (rows + kTileRows - 1) / kTileRows;
  const Even even(rows, blocks);
  for (int64_t i = 0; i < blocks; ++i) {
    f(even.begin(i), static_cast<int>(even.begin(i + 1) - even.begin(i)));
  }
}

}  // namespace rnnfast::RNNFAST_ISA
