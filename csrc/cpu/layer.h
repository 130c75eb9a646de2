// How a call of the recurrence is shared out to workers, and the memory that its steps read and
// write.
#pragma once

#include "parallel.h"
#include "steps.h"
#include "weight_gradient.h"

namespace rnnfast::RNNFAST_ISA {

// Who computes what. By rows, each worker takes batch rows through all steps on its own, with no
// barrier; by columns, all work on each step together and meet after it: for batches too small to
// be split, and for a W_hh that no L2 cache holds.
struct Split {
  int64_t workers;
  bool by_rows;

  // B: sequences that have a step, on average. directions: layers that run at the same time, each
  // of them in a split of its own.
  template <class Real>
  static Split of(int64_t T, int64_t B, int64_t H, int64_t directions) {
    constexpr int64_t kFewestRows = 4;  // below, a tile loads more than it multiplies
    constexpr int64_t kFlopsPerBarrier =
        64 * 1024;  // about 1 us, against 0.1 to 0.5 us for a barrier
    const int64_t threads = num_threads(), vectors = padded<Real>(H) / kLanes<Real>;
    const int64_t step_flops = 2 * B * H * H;
    // Shares of rows need not run at the same time: an odd thread takes one of either direction.
    const int64_t by_rows = threads % directions == 0 ? threads / directions : threads;
    const int64_t rows =
        at_most(at_most(by_rows, B / kFewestRows), T * step_flops / kFlopsPerBarrier);
    const int64_t columns =
        at_most(at_most(threads / directions, vectors), step_flops / kFlopsPerBarrier);
    const bool by_columns =
        columns > rows || (columns == rows && columns > 1 && reads_less<Real>(B, H));
    return by_columns ? Split{columns, false} : Split{rows, true};
  }

 private:
  // By rows, each worker reads all of W_hh in every step, and what is beyond 1 MB not from its L2
  // cache. By columns it reads its share alone, but fetches the others' columns of h, each number
  // for the price of 16 (H = 1024: a call of 8 rows takes 0.45 to 0.6 of the time so, of 32 rows
  // 0.85 to 0.95, and of 128 as long as by rows; H = 512: at least as long from 12 rows on).
  template <class Real>
  static bool reads_less(int64_t B, int64_t H) {
    constexpr int64_t kInCache = (1 << 20) / sizeof(Real), kPriceOfOthers = 16;
    return kPriceOfOthers * B * H < H * H - kInCache;
  }

  static int64_t at_most(int64_t n, int64_t limit) {
    return n > limit ? (limit > 1 ? limit : 1) : n;
  }
};

// What all workers share.
template <class Real>
struct Layer {
  int64_t T, B, H;
  int cell;  // looked up at run time, once per tile: no second copy of every tile size
  Steps steps;
  int64_t array_stride;  // of rows in x, hs and their gradients
  bool transposed;       // the pass multiplies by the transpose of W_hh, as that is given
  Panels panels;
  int64_t width;         // H, padded
  int64_t stride;        // of rows in dz
  int64_t h_stride;      // of rows in h
  int64_t own_stride;    // of rows in what a worker keeps for its columns: inputs, table_gradient
  Real* leak = nullptr;  // [width], of a cell that has one
  Real* W = nullptr;     // packed, as the pass multiplies by it; null for a single row
  // A single row's parts of the product, [2][num_products][products_stride]: the first or the
  // second for even and odd steps.
  Real* products = nullptr;
  int64_t num_products = 0, products_stride = 0;

  Layer(const Steps& steps, int64_t T, int64_t B, int64_t H, int cell, int64_t array_stride,
        bool transposed, const Split& split)
      : T(T),
        B(B),
        H(H),
        cell(cell),
        steps(steps),
        array_stride(array_stride),
        transposed(transposed),
        panels(Panels::of<Real>(H, split.by_rows ? 1 : split.workers)),
        width(padded<Real>(H)),
        stride(with_gap<Real>(width)),
        h_stride(stride),
        own_stride(width) {}

  // Where batch row n of step s begins in x, hs and their gradients.
  RNNFAST_INLINE int64_t at(int64_t s, int64_t n) const { return steps.row(s, n) * array_stride; }

  Real* product(int64_t t, int64_t i) const {
    return products + ((t & 1) * num_products + i) * products_stride;
  }
};

// A sum over rows and steps, [width], in the columns of whoever adds to it; or nothing. It is taken
// in runs of steps: a small number added to a large sum loses its last bits (T = 300: twice the
// error, T = 3000: four times).
template <class Real>
struct RunningSum {
  static constexpr int64_t kRun = 32;

  Real* sum = nullptr;
  Real* run = nullptr;  // over the last few steps

  // Adds the rows of a tile of step t, from its first column on.
  template <class TileOfAnySize>
  RNNFAST_INLINE void add(const TileOfAnySize& tile, int64_t t, int64_t column) const {
    tile.add_column_sums(run + column);
    if (t % kRun == 0) flush(column, column + tile.kColumns);
  }

  // The same of a vector that is such a sum already.
  RNNFAST_INLINE void add(Vec<Real> column_sum, int64_t t, int64_t column) const {
    store(run + column, load(run + column) + column_sum);
    if (t % kRun == 0) flush(column, column + kLanes<Real>);
  }

  RNNFAST_INLINE void flush(int64_t begin, int64_t end) const {
    for (int64_t c = begin; c < end; c += kLanes<Real>) {
      store(sum + c, load(sum + c) + load(run + c));
      store(run + c, Vec<Real>{});
    }
  }
};

// Batch rows [first, first + count) at all steps, as one worker sees them: its own, or everybody's
// in a split by columns.
template <class Real>
struct Region {
  int64_t first = 0, count = 0;
  int64_t kept_h = 2, kept_dz = 2;  // steps of them: the last 2, or all T + 1
  Real* h = nullptr;                // [kept_h][count][h_stride]
  Real* dz = nullptr;               // [kept_dz][count][stride]
  Real* product = nullptr;          // [width]: see add_ready_product
  Real* whole = nullptr;            // [width]: a single row of h that is cut, put together
  // Copies for the weight gradient, see state_row(); or none, where h and dz themselves serve.
  Copy<Real> h_copy, dz_copy;
  int64_t* state_rows = nullptr;  // [T + 2]
  Real* dlogits = nullptr;        // panels of T * count rows: of the readout, or null
  Real* inputs = nullptr;         // [*][own_stride]: u + b_h; row n takes, at step t, ...
  int32_t* slots = nullptr;       // ... inputs[slots[t * slots_stride + n]]
  int64_t slots_stride = 0;
  Real* table_gradient =
      nullptr;  // [V][own_stride]: dz added to row slots[t * slots_stride + n], or null
  RunningSum<Real> bias_gradient, leak_gradient;
  Real* carry = nullptr;        // [count][stride]: what reaches h_{t-1} beside the product, or null
  Real* dz_to_h0 = nullptr;     // [count][stride]: sum of dz of steps whose state before was h0,
  Real* carry_to_h0 = nullptr;  // ... and of carry; or null

  // How many of the region's rows have a step s: the first ones.
  int64_t rows(const Layer<Real>& layer, int64_t s) const {
    const int64_t rows = layer.steps.rows(s) - first;
    return rows < 0 ? 0 : rows < count ? rows : count;
  }

  // Where the states before step s begin in the copies: of every row that has this step, or had the
  // one before. A row's last state so has a place, where its dz is zero.
  int64_t state_row(int64_t s) const { return state_rows == nullptr ? s * count : state_rows[s]; }
  int64_t num_states(const Layer<Real>& layer, int64_t s) const {
    const int64_t before = rows(layer, s - 1), now = rows(layer, s);
    return before > now ? before : now;
  }

  RNNFAST_INLINE Real* h_at(const Layer<Real>& layer, int64_t t) const {
    return h + slot(t, kept_h) * count * layer.h_stride;
  }
  RNNFAST_INLINE Real* dz_at(const Layer<Real>& layer, int64_t t) const {
    return dz + slot(t, kept_dz) * count * layer.stride;
  }

  // tile += the product of a single row of step t, which has been made: with a transpose the
  // worker's columns of it, else every worker's part of the sum.
  template <class TileOfAnySize>
  RNNFAST_INLINE void add_ready_product(TileOfAnySize& tile, const Layer<Real>& layer, int64_t t,
                                        const Panel& panel) const {
    if constexpr (TileOfAnySize::kRows == 1) {
      if (layer.transposed) {
        tile.add_rows(product + panel.column, 0);
        return;
      }
      for (int64_t i = 0; i < layer.num_products; ++i) {
        tile.add_rows(layer.product(t, i) + panel.column, 0);
      }
    }
  }

  // The rows that a weight gradient is made of.
  LeftMatrix<Real> all_h(const Layer<Real>& layer) const {
    return h_copy.values != nullptr ? h_copy.on_the_left()
                                    : LeftMatrix<Real>::as_it_lies(h, layer.h_stride);
  }
  RightMatrix<Real> all_dz(const Layer<Real>& layer) const {
    return dz_copy.values != nullptr ? dz_copy.on_the_right()
                                     : RightMatrix<Real>::as_it_lies(dz, layer.stride);
  }

 private:
  static int64_t slot(int64_t t, int64_t kept) { return kept == 2 ? t & 1 : t; }
};

}  // namespace rnnfast::RNNFAST_ISA
