#include "single_row.h"

#include "tile_sizes.h"

namespace rnnfast::RNNFAST_ISA {

// out [padded H] = sum over the given rows k of x[k] W[k], for one panel of at most kVectorsOfSums
// vectors. Every vector has a sum of its own and all rows pass in one loop: with one vector at a
// time, each addition waiting for the last, a training step took 1.2 times as long (H = 192).
template <class Real>
struct RowSums {
  const Real *x, *W;
  int64_t H;
  Share rows;
  bool backwards;
  const Panel& panel;
  Real* out;

  template <int Rows, int Vectors>
  void run() const {
    if (panel.columns_left >= Vectors * kLanes<Real>) {
      add<Vectors, true>();
    } else {
      add<Vectors, false>();
    }
  }

 private:
  template <int Vectors, bool kWhole>
  RNNFAST_INLINE void add() const {
    constexpr int kWholeVectors = kWhole ? Vectors : Vectors - 1;
    constexpr int64_t kRest = kWholeVectors * kLanes<Real>;
    const int64_t step = backwards ? -1 : 1;
    int64_t k = backwards ? rows.end - 1 : rows.begin;
    Vec<Real> sums[Vectors] = {};
    for (int64_t n = rows.begin; n < rows.end; ++n, k += step) {
      const Real* row = W + k * H + panel.column;
      RNNFAST_UNROLL for (int j = 0; j < kWholeVectors; ++j) {
        sums[j] += x[k] * load(row + j * kLanes<Real>);
      }
      if constexpr (!kWhole) {
        sums[kWholeVectors] +=
            x[k] * load_in_row(W, H, H, k, panel.column + kRest, panel.columns_left - kRest);
      }
    }
    Real* const to = out + panel.column;
    RNNFAST_UNROLL for (int j = 0; j < Vectors; ++j) store(to + j * kLanes<Real>, sums[j]);
  }
};

// ... for all panels of W's columns. Backwards through W in every second step, it finds in the L1
// cache what it has read last (H = 512: 1.3 % of a training step).
template <class Real>
void add_rows_times(const Real* x, const Real* W, const Panels& panels, Share rows, bool backwards,
                    Real* out) {
  for (int64_t i = 0; i < panels.count; ++i) {
    const Panel panel(panels, backwards ? panels.count - 1 - i : i);
    run_vectors<1, kVectorsOfSums>(
        panel.vectors, RowSums<Real>{x, W, panels.columns, rows, backwards, panel, out});
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

template <class Real, bool kAdds>
void dot_rows(const Real* x, const Real* W, int64_t stride, int64_t columns, Share rows,
              Real* out) {
  using Block = DotBlock<Real>;
  const Block block{x, stride, columns};
  int64_t i = rows.begin;
  for (; i + Block::kRows <= rows.end; i += Block::kRows)
    block.template run<true, kAdds>(W + i * stride, Block::kRows, out + i);
  if (i < rows.end) block.template run<false, kAdds>(W + i * stride, rows.end - i, out + i);
}

template void add_rows_times(const float*, const float*, const Panels&, Share, bool, float*);
template void add_rows_times(const double*, const double*, const Panels&, Share, bool, double*);
template void dot_rows<float, false>(const float*, const float*, int64_t, int64_t, Share, float*);
template void dot_rows<float, true>(const float*, const float*, int64_t, int64_t, Share, float*);
template void dot_rows<double, false>(const double*, const double*, int64_t, int64_t, Share,
                                      double*);
template void dot_rows<double, true>(const double*, const double*, int64_t, int64_t, Share,
                                     double*);

}  // namespace rnnfast::RNNFAST_ISA
