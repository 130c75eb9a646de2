// One step of the recurrence, forward and backward, as a tile task; and how a call is shared out to
// workers.
#pragma once

#include <array>

#include "cells/cells.h"
#include "math.h"
#include "parallel.h"
#include "weight_gradient.h"

namespace rnnfast::RNNFAST_ISA {

// Who computes what. By rows, each worker takes batch rows through all steps on its own, with no
// barrier; by columns, all work on each step together and meet after it: for batches too small to
// be split.
struct Split {
  int64_t workers;
  bool by_rows;

  template <class Real>
  static Split of(int64_t T, int64_t B, int64_t H) {
    constexpr int64_t kFewestRows = 4;  // below, a tile loads more than it multiplies
    constexpr int64_t kFlopsPerBarrier =
        64 * 1024;  // about 1 us, against 0.1 to 0.5 us for a barrier
    const int64_t threads = num_threads(), vectors = padded<Real>(H) / kLanes<Real>;
    const int64_t step_flops = 2 * B * H * H;
    const int64_t rows =
        at_most(at_most(threads, B / kFewestRows), T * step_flops / kFlopsPerBarrier);
    const int64_t columns = at_most(at_most(threads, vectors), step_flops / kFlopsPerBarrier);
    return columns > rows ? Split{columns, false} : Split{rows, true};
  }

 private:
  static int64_t at_most(int64_t n, int64_t limit) {
    return n > limit ? (limit > 1 ? limit : 1) : n;
  }
};

// What all workers share.
template <class Real>
struct Layer {
  int64_t T, B, H;
  int cell;  // looked up at run time, once per tile: no second copy of every tile size
  Panels panels;
  int64_t width;       // H, padded
  int64_t stride;      // of rows in dz: a cache line more, as rows a power of two apart evict each
                       // other
  int64_t h_stride;    // of rows in h
  int64_t own_stride;  // of rows in what a worker keeps for its columns: inputs, table_gradient
  Real* W = nullptr;   // packed: W_hh forward, its transpose backward; null for a single row, ...
  // ... whose product h_t W_hh is the sum of these, [2][num_products][products_stride], the first
  // or the second for even and odd t
  Real* products = nullptr;
  int64_t num_products = 0, products_stride = 0;

  Layer(int64_t T, int64_t B, int64_t H, int cell, const Split& split)
      : T(T),
        B(B),
        H(H),
        cell(cell),
        panels(Panels::of<Real>(H, split.by_rows ? 1 : split.workers)),
        width(padded<Real>(H)),
        stride(with_gap(width)),
        h_stride(stride),
        own_stride(width) {}

  static int64_t with_gap(int64_t columns) {
    return columns + 64 / static_cast<int64_t>(sizeof(Real));
  }

  Real* product(int64_t t, int64_t i) const {
    return products + ((t & 1) * num_products + i) * products_stride;
  }

  // tile += (rows of h_t, from h on) W_hh, in a panel of columns
  template <class TileOfAnySize>
  RNNFAST_INLINE void multiply(TileOfAnySize& tile, const Real* h, const Panel& panel,
                               int64_t t) const {
    if (products == nullptr) {
      tile.multiply(H, h, h_stride, W + H * panel.column);
    } else if constexpr (TileOfAnySize::kRows == 1) {
      for (int64_t i = 0; i < num_products; ++i) {
        tile.add_rows(product(t, i) + panel.column, 0, tile.kColumns);
      }
    }
  }
};

// Batch rows [first, first + count) at all time steps, as one worker sees them: its own, or
// everybody's in a split by columns.
template <class Real>
struct Region {
  int64_t first = 0, count = 0;
  int64_t kept_h = 2, kept_dz = 2;  // steps of them: the last 2, or all T + 1
  Real* h = nullptr;                // [kept_h][count][h_stride]
  Real* dz = nullptr;               // [kept_dz][count][stride]
  Real* product = nullptr;  // [width]: of a single row, dz_{t+1} W_hh^T in the worker's columns
  // Copies for the weight gradient, of blocks of (T + 1) * count rows and of panels of T * count;
  // or null, where h and dz themselves serve.
  Real* h_blocks = nullptr;
  Real* dz_panels = nullptr;
  Real* dlogits = nullptr;   // panels of T * count rows: of the readout, or null
  Real* inputs = nullptr;    // [*][own_stride]: u + b_h; row n takes, at step t, ...
  int32_t* slots = nullptr;  // ... inputs[slots[t * slots_stride + n]]
  int64_t slots_stride = 0;
  Real* table_gradient =
      nullptr;  // [V][own_stride]: dz added to row slots[t * slots_stride + n], or null
  Real* bias_gradient = nullptr;  // [width]: sum of dz, or null
  Real* bias_run = nullptr;       // [width]: the same over the last few steps

  RNNFAST_INLINE Real* h_at(const Layer<Real>& layer, int64_t t) const {
    return h + slot(t, kept_h) * count * layer.h_stride;
  }
  RNNFAST_INLINE Real* dz_at(const Layer<Real>& layer, int64_t t) const {
    return dz + slot(t, kept_dz) * count * layer.stride;
  }
  // Where row `row` of step t lies in the copy of h, for each vector of a tile. Looked up together:
  // after a store the compiler would do it anew for the next (H = 64: 0.7 % of a step).
  template <class TileOfAnySize>
  RNNFAST_INLINE std::array<Real*, TileOfAnySize::kVectors> blocks_at(const Layer<Real>& layer,
                                                                      int64_t t, int64_t row,
                                                                      const Panel& panel) const {
    std::array<Real*, TileOfAnySize::kVectors> blocks;
    const int64_t rows = (layer.T + 1) * count, first = t * count + row;
    RNNFAST_UNROLL for (int j = 0; j < TileOfAnySize::kVectors; ++j) {
      blocks[j] = h_blocks + in_blocks<Real>(rows, first, panel.column + j * kLanes<Real>);
    }
    return blocks;
  }
  // The rows that a weight gradient is made of.
  LeftMatrix<Real> all_h(const Layer<Real>& layer) const {
    return h_blocks != nullptr ? LeftMatrix<Real>::in_blocks(h_blocks, (layer.T + 1) * count)
                               : LeftMatrix<Real>::as_it_lies(h, layer.h_stride);
  }
  RightMatrix<Real> all_dz(const Layer<Real>& layer) const {
    return dz_panels != nullptr ? RightMatrix<Real>::in_panels(dz_panels, layer.T * count)
                                : RightMatrix<Real>::as_it_lies(dz, layer.stride);
  }

 private:
  static int64_t slot(int64_t t, int64_t kept) { return kept == 2 ? t & 1 : t; }
};

// h_{t+1} = act(u_t + h_t W_hh + b_h) for some rows and one panel of columns.
template <class Real>
struct ForwardTile {
  const Layer<Real>& layer;
  const Region<Real>& region;
  int64_t t, row;
  const Panel& panel;
  Real* hs;  // [T, B, H], or null

  template <int Rows, int Vectors>
  void run() const {
    Tile<Real, Rows, Vectors> tile;
    const int32_t* slot = region.slots + t * region.slots_stride + row;
    const Real* inputs = region.inputs + panel.column;
    tile.each([&](int i, int j, int c) {
      tile.at[i][j] = load(inputs + slot[i] * layer.own_stride + c);
    });
    layer.multiply(tile, region.h_at(layer, t) + row * layer.h_stride, panel, t);
    activate(tile);
    tile.store_rows(region.h_at(layer, t + 1) + row * layer.h_stride + panel.column, layer.h_stride,
                    tile.kColumns);
    if (region.h_blocks != nullptr) store_blocks(tile);
    if (hs != nullptr) {
      tile.store_rows(hs + (t * layer.B + region.first + row) * layer.H + panel.column, layer.H,
                      panel.columns_left);
    }
  }

  template <class TileOfAnySize>
  RNNFAST_INLINE void activate(TileOfAnySize& tile) const {
    cells::with_activation(layer.cell, [&]<class Activation>() {
      tile.each([&](int i, int j, int) {
        tile.at[i][j] = Activation::template of<VectorMath<Real>>(tile.at[i][j]);
      });
    });
  }

  template <class TileOfAnySize>
  RNNFAST_INLINE void store_blocks(const TileOfAnySize& tile) const {
    const auto blocks = region.template blocks_at<TileOfAnySize>(layer, t + 1, row, panel);
    tile.each([&](int i, int j, int) { store(blocks[j] + i * kBlock<Real>, tile.at[i][j]); });
  }
};

// The layer's own arrays in the backward direction.
template <class Real>
struct DenseGradients {
  const Real* hs = nullptr;      // [T, B, H] in, or null
  const Real* h_last = nullptr;  // [B, H] in, or null
  Real* x = nullptr;             // [T, B, H] out: dz itself, or null
  Real* h0 = nullptr;            // [B, H] out, of step -1
};

// What reaches h from a readout h W_hq + b_q: dlogits W_hq^T.
template <class Real>
struct ReadoutGradient {
  int64_t V;
  const Panels& panels;  // of V
  const Real* dlogits;   // panels of T * count rows
  const Real* W;         // W_hq^T packed: panels of H, V rows
};

// dz_t = (dh_t + dz_{t+1} W_hh^T) act'(h_{t+1}) for some rows and one panel, where dh_t is what
// reaches h from outside: grad_hs_t, grad_h_last at the last step, the readout. Of step -1, what
// reaches h0.
template <class Real>
struct BackwardTile {
  const Layer<Real>& layer;
  const Region<Real>& region;
  int64_t t, row;
  const Panel& panel;
  const DenseGradients<Real>& dense;
  const ReadoutGradient<Real>* readout;  // or null

  template <int Rows, int Vectors>
  void run() const {
    Tile<Real, Rows, Vectors> tile;
    tile.clear();
    const int64_t batch_row = region.first + row;
    if (dense.hs != nullptr && t >= 0) {
      tile.add_rows(dense.hs + (t * layer.B + batch_row) * layer.H + panel.column, layer.H,
                    panel.columns_left);
    }
    if (dense.h_last != nullptr && t == layer.T - 1) {
      tile.add_rows(dense.h_last + batch_row * layer.H + panel.column, layer.H, panel.columns_left);
    }
    add_products(tile);
    if (t < 0) {
      tile.store_rows(dense.h0 + batch_row * layer.H + panel.column, layer.H, panel.columns_left);
      return;
    }
    times_derivative(tile);
    tile.store_rows(region.dz_at(layer, t) + row * layer.stride + panel.column, layer.stride,
                    tile.kColumns);
    if (region.dz_panels != nullptr) {
      tile.store_rows(region.dz_panels + layer.T * region.count * panel.column +
                          (t * region.count + row) * tile.kColumns,
                      tile.kColumns, tile.kColumns);
    }
    add_to_inputs(tile);
  }

  // tile += dlogits_t W_hq^T + dz_{t+1} W_hh^T. What the readout sends back is more rows of the
  // same product: no pass over [T, B, H], and one multiplication to compile.
  template <class TileOfAnySize>
  RNNFAST_INLINE void add_products(TileOfAnySize& tile) const {
    const int64_t of_readout = readout != nullptr ? readout->panels.count : 0;
    const bool recurs = t < layer.T - 1, is_ready = region.product != nullptr;
    for (int64_t p = 0; p < of_readout + (recurs && !is_ready ? 1 : 0); ++p) {
      const Product product =
          p < of_readout ? product_of_readout(p, tile.kColumns) : product_of_state();
      tile.multiply(product.K, product.a, product.stride, product.b);
    }
    if constexpr (TileOfAnySize::kRows == 1) {
      if (recurs && is_ready) tile.add_rows(region.product + panel.column, 0, tile.kColumns);
    }
  }

  // Rows of length K, and a packed panel.
  struct Product {
    int64_t K;
    const Real* a;
    int64_t stride;
    const Real* b;
  };

  RNNFAST_INLINE Product product_of_state() const {
    return {layer.H, region.dz_at(layer, t + 1) + row * layer.stride, layer.stride,
            layer.W + layer.H * panel.column};
  }

  RNNFAST_INLINE Product product_of_readout(int64_t p, int64_t columns) const {
    const Panel classes(readout->panels, p);
    const int64_t width = classes.vectors * kLanes<Real>;
    return {classes.columns_left < width ? classes.columns_left : width,
            readout->dlogits + layer.T * region.count * classes.column +
                (t * region.count + row) * width,
            width, readout->W + readout->V * panel.column + classes.column * columns};
  }

  // The derivative of the activation, from its result alone.
  template <class TileOfAnySize>
  RNNFAST_INLINE void times_derivative(TileOfAnySize& tile) const {
    if (region.h_blocks != nullptr) {
      const auto blocks = region.template blocks_at<TileOfAnySize>(layer, t + 1, row, panel);
      times_derivative(tile, [&](int i, int j) { return load(blocks[j] + i * kBlock<Real>); });
    } else {
      const Real* h = region.h_at(layer, t + 1) + row * layer.h_stride + panel.column;
      times_derivative(
          tile, [&](int i, int j) { return load(h + i * layer.h_stride + j * kLanes<Real>); });
    }
  }

  template <class TileOfAnySize, class H>
  RNNFAST_INLINE void times_derivative(TileOfAnySize& tile, const H& h) const {
    using Math = VectorMath<Real>;
    cells::with_activation(layer.cell, [&]<class Activation>() {
      tile.each([&](int i, int j, int) {
        const Vec<Real> slope = Activation::template slope<Math>(h(i, j));
        tile.at[i][j] = Activation::template through<Math>(tile.at[i][j], slope);
      });
    });
  }

  template <class TileOfAnySize>
  RNNFAST_INLINE void add_to_inputs(const TileOfAnySize& tile) const {
    if (region.table_gradient != nullptr) {
      const int32_t* slot = region.slots + t * region.slots_stride + row;
      // Locals: a field would be read anew after each store (H = 64: 1 % of a step).
      Real* const sums = region.table_gradient + panel.column;
      const int64_t stride = layer.own_stride;
      tile.each([&](int i, int j, int c) {
        Real* sum = sums + slot[i] * stride + c;
        store(sum, load(sum) + tile.at[i][j]);
      });
    }
    if (dense.x != nullptr) {
      tile.store_rows(dense.x + (t * layer.B + region.first + row) * layer.H + panel.column,
                      layer.H, panel.columns_left);
    }
    if (region.bias_gradient != nullptr) add_to_bias(tile);
  }

  // Summed in runs of steps: a small number added to a large sum loses its last bits (T = 300:
  // twice the error, T = 3000: four times).
  template <class TileOfAnySize>
  RNNFAST_INLINE void add_to_bias(const TileOfAnySize& tile) const {
    constexpr int64_t kRun = 32;
    Real* const run = region.bias_run + panel.column;
    tile.add_column_sums(run);
    if (t % kRun != 0) return;
    Real* const sums = region.bias_gradient + panel.column;
    for (int c = 0; c < tile.kColumns; c += kLanes<Real>) {
      store(sums + c, load(sums + c) + load(run + c));
      store(run + c, Vec<Real>{});
    }
  }
};

}  // namespace rnnfast::RNNFAST_ISA
