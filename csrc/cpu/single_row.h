// One batch row: vector times matrix, straight from W_hh as it lies. Each worker owns the same rows
// of W_hh in every phase, forward and backward, so that they stay in its L2 cache; packing, for
// which one row gives no return, would be 10 % of a training step and most of a single step.
#pragma once

#include "panels.h"
#include "parallel.h"

namespace rnnfast::RNNFAST_ISA {

// out [padded H] = sum over the given rows k of x[k] W[k]. Backwards through W in every second
// step, it finds in the L1 cache what it has read last (H = 512: 1.3 % of a training step).
template <class Real>
void add_rows_times(const Real* x, const Real* W, int64_t H, Share rows, bool backwards,
                    Real* out) {
  // Sums side by side: as many as there are registers for, as W is then read in long runs.
  constexpr int kVectors = kRegisters / 2;
  constexpr int64_t kColumns = kVectors * kLanes<Real>;
  const int64_t chunks = (H + kColumns - 1) / kColumns;
  for (int64_t i = 0; i < chunks; ++i) {
    const int64_t c = (backwards ? chunks - 1 - i : i) * kColumns;
    Vec<Real> sums[kVectors] = {};
    if (c + kColumns <= H) {
      for (int64_t n = rows.begin; n < rows.end; ++n) {
        const int64_t k = backwards ? rows.begin + rows.end - 1 - n : n;
        RNNFAST_UNROLL for (int j = 0; j < kVectors; ++j) {
          sums[j] += x[k] * load(W + k * H + c + j * kLanes<Real>);
        }
      }
      RNNFAST_UNROLL for (int j = 0; j < kVectors; ++j) store(out + c + j * kLanes<Real>, sums[j]);
    } else {
      const int64_t end = padded<Real>(H);
      for (int64_t at = c; at < end; at += kLanes<Real>) {
        Vec<Real> sum{};
        for (int64_t k = rows.begin; k < rows.end; ++k)
          sum += x[k] * load_first(W + k * H + at, H - at);
        store(out + at, sum);
      }
    }
  }
}

// Of dot_rows: some rows at a time, as many sums put together in one vector as it has lanes.
template <class Real>
struct DotBlock {
  static constexpr int kRows = 8;
  static constexpr int kSet = kLanes<Real> < kRows ? kLanes<Real> : kRows, kSets = kRows / kSet;

  const Real* x;
  int64_t stride, columns;

  // out[i] = <row i of W, x>, or +=, for kRows rows (kWhole) or `count`, fewer.
  template <bool kWhole, bool kAdds>
  RNNFAST_INLINE void run(const Real* W, int64_t count, Real* out) const {
    const Real* row[kRows];
    RNNFAST_UNROLL for (int r = 0; r < kRows; ++r) {
      row[r] = W + (kWhole || r < count ? r : count - 1) * stride;
    }
    Vec<Real> sums[kSets][kSet] = {};
    const int64_t whole = columns / kLanes<Real> * kLanes<Real>;
    for (int64_t c = 0; c < whole; c += kLanes<Real>) {
      const Vec<Real> factor = load(x + c);
      RNNFAST_UNROLL for (int r = 0; r < kRows; ++r) {
        sums[r / kSet][r % kSet] += factor * load(row[r] + c);
      }
    }
    if (whole < columns) {
      const Vec<Real> factor = load_first(x + whole, columns - whole);
      RNNFAST_UNROLL for (int r = 0; r < kRows; ++r) {
        sums[r / kSet][r % kSet] += factor * load_first(row[r] + whole, columns - whole);
      }
    }
    for (int s = 0; s < kSets && (kWhole || s * kSet < count); ++s) {
      const int64_t n = kWhole || count - s * kSet > kSet ? kSet : count - s * kSet;
      const Vec<Real> sum = sums_of_rows<Real>(sums[s]);
      store_first(out + s * kSet, n, kAdds ? load_first(out + s * kSet, n) + sum : sum);
    }
  }
};

// out[i] = <W[i], x>, or += where kAdds, for the given rows i of W, of which `columns` count
template <class Real, bool kAdds = false>
void dot_rows(const Real* x, const Real* W, int64_t stride, int64_t columns, Share rows,
              Real* out) {
  using Block = DotBlock<Real>;
  const Block block{x, stride, columns};
  int64_t i = rows.begin;
  for (; i + Block::kRows <= rows.end; i += Block::kRows)
    block.template run<true, kAdds>(W + i * stride, Block::kRows, out + i);
  if (i < rows.end) block.template run<false, kAdds>(W + i * stride, rows.end - i, out + i);
}

}  // namespace rnnfast::RNNFAST_ISA
