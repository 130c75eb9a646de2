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

// out[i] = <W[i], x> for the given rows i, and zero in the padding after the last row
template <class Real>
void dot_rows(const Real* x, const Real* W, int64_t H, Share rows, Real* out) {
  constexpr int kRows = 8;
  // As many sums as a vector has lanes are put together in one.
  constexpr int kSet = kLanes<Real> < kRows ? kLanes<Real> : kRows, kSets = kRows / kSet;
  const int64_t whole = H / kLanes<Real> * kLanes<Real>;
  for (int64_t i = rows.begin; i < rows.end; i += kRows) {
    const Real* row[kRows];
    RNNFAST_UNROLL for (int r = 0; r < kRows; ++r) {
      row[r] = W + (i + r < rows.end ? i + r : rows.end - 1) * H;
    }
    Vec<Real> sums[kSets][kSet] = {};
    for (int64_t c = 0; c < whole; c += kLanes<Real>) {
      const Vec<Real> factor = load(x + c);
      RNNFAST_UNROLL for (int r = 0; r < kRows; ++r) {
        sums[r / kSet][r % kSet] += factor * load(row[r] + c);
      }
    }
    if (whole < H) {
      const Vec<Real> factor = load_first(x + whole, H - whole);
      RNNFAST_UNROLL for (int r = 0; r < kRows; ++r) {
        sums[r / kSet][r % kSet] += factor * load_first(row[r] + whole, H - whole);
      }
    }
    RNNFAST_UNROLL for (int s = 0; s < kSets; ++s) {
      const Vec<Real> sum = sums_of_rows<Real>(sums[s]);
      for (int64_t r = 0, k = i + s * kSet; r < kSet && k + r < rows.end; ++r) out[k + r] = sum[r];
    }
  }
  for (int64_t i = H; rows.end == H && i < padded<Real>(H); ++i) out[i] = 0;
}

}  // namespace rnnfast::RNNFAST_ISA
