// One step of the recurrence, forward and backward, as a tile task.
#pragma once

#include "cells/cells.h"
#include "layer.h"
#include "math.h"

namespace rnnfast::RNNFAST_ISA {

// The tile's rows go to a copy, from its row `row` on.
template <class Real, int Rows, int Vectors>
RNNFAST_INLINE void store_copy(const Tile<Real, Rows, Vectors>& tile, const Copy<Real>& copy,
                               int64_t row, const Panel& panel) {
  const Places<Real, Vectors> to(copy, row, panel);
  tile.each([&](int i, int j, int) { store(to.vectors[j] + i * to.stride, tile.at[i][j]); });
}

// h_{t+1} = act(u_t + h_t W_hh + b_h) for some rows and one panel of columns.
template <class Real>
struct ForwardTile {
  const Layer<Real>& layer;
  const Region<Real>& region;
  int64_t t;   // in the order in which steps are taken, see steps.h
  int64_t at;  // where the region's first row of this step begins in arrays [T, B, H]
  int64_t row;
  const Panel& panel;
  Real* hs;               // [T, B, H], or null
  Real* saved = nullptr;  // [T, B, H], or null

  template <int Rows, int Vectors>
  void run() const {
    Tile<Real, Rows, Vectors> tile;
    load_inputs(tile);
    if (layer.W != nullptr) {
      tile.multiply(layer.H, region.h_at(layer, t) + row * layer.h_stride, layer.h_stride,
                    layer.W + layer.H * panel.column);
    } else {
      region.add_ready_product(tile, layer, t, panel);
    }
    activate(tile);
    cells::with_update(layer.cell, [&]<class Update>() {
      if constexpr (Update::kSaved > 0) update<Update>(tile);
    });
    tile.store_rows(region.h_at(layer, t + 1) + row * layer.h_stride + panel.column,
                    layer.h_stride);
    if (region.h_copy.values != nullptr) {
      store_copy(tile, region.h_copy, region.state_row(t + 1) + row, panel);
    }
    if (hs != nullptr) store_hs(tile);
  }

  template <class TileOfAnySize>
  RNNFAST_INLINE void load_inputs(TileOfAnySize& tile) const {
    const int32_t* slot = region.slots + t * region.slots_stride + row;
    const Real* inputs = region.inputs + panel.column;
    tile.each([&](int i, int j, int c) {
      tile.at[i][j] = load(inputs + slot[i] * layer.own_stride + c);
    });
  }

  // From act(z_t), which is saved, to h_t.
  template <class Update, class TileOfAnySize>
  RNNFAST_INLINE void update(TileOfAnySize& tile) const {
    if (saved != nullptr) {
      tile.store_rows(saved + at + row * layer.array_stride + panel.column, layer.array_stride,
                      panel.columns_left);
    }
    const Real* before = region.h_at(layer, t) + row * layer.h_stride + panel.column;
    const Real* leak = layer.leak + panel.column;
    tile.each([&](int i, int j, int c) {
      tile.at[i][j] =
          Update::forward(tile.at[i][j], load(before + i * layer.h_stride + c), load(leak + c));
    });
  }

  template <class TileOfAnySize>
  RNNFAST_INLINE void store_hs(const TileOfAnySize& tile) const {
    tile.store_rows(hs + at + row * layer.array_stride + panel.column, layer.array_stride,
                    panel.columns_left);
  }

  template <class TileOfAnySize>
  RNNFAST_INLINE void activate(TileOfAnySize& tile) const {
    cells::with_activation(layer.cell, [&]<class Activation>() {
      tile.each([&](int i, int j, int) {
        tile.at[i][j] = Activation::template of<VectorMath<Real>>(tile.at[i][j]);
      });
    });
  }
};

// The layer's own arrays in the backward direction.
template <class Real>
struct DenseGradients {
  const Real* hs = nullptr;      // [T, B, H] in, or null
  const Real* h_last = nullptr;  // [B, H] in, or null
  Real* x = nullptr;             // [T, B, H] out: dz itself, or null
  Real* h0 = nullptr;            // [B, H] out, or null
  const Real* saved = nullptr;   // [T, B, H] in, of a cell that has it
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
// reaches h from outside: grad_hs_t, grad_h_last at a row's last step, the readout. Where dense.h0
// is given, dz_{t+1} W_hh^T goes there instead: of rows that begin with step t + 1.
template <class Real>
struct BackwardTile {
  const Layer<Real>& layer;
  const Region<Real>& region;
  int64_t t;   // in the order in which steps are taken, see steps.h
  int64_t at;  // where the region's first row of this step begins in arrays [T, B, H]
  int64_t row;
  const Panel& panel;
  const DenseGradients<Real>& dense;
  const ReadoutGradient<Real>* readout;  // or null

  template <int Rows, int Vectors>
  void run() const {
    Tile<Real, Rows, Vectors> tile;
    tile.clear();
    const int64_t batch_row = region.first + row;
    if (dense.hs != nullptr) {
      tile.add_rows(dense.hs + at + row * layer.array_stride + panel.column, layer.array_stride,
                    panel.columns_left);
    }
    Real ended[Rows * Tile<Real, Rows, Vectors>::kColumns];
    const Real* others = region.carry;
    int64_t others_stride = layer.stride;
    if (rows_to_go_on() < Rows) {
      sum_ended(Rows, tile.kColumns, ended);
      others = ended;
      others_stride = tile.kColumns;
    } else if (others != nullptr) {
      others += row * layer.stride + panel.column;
    }
    if (others != nullptr) tile.add_rows(others, others_stride);
    add_products(tile);
    if (dense.h0 != nullptr) {
      tile.store_rows(dense.h0 + batch_row * layer.H + panel.column, layer.H, panel.columns_left);
      return;
    }
    Real* const dz = region.dz_at(layer, t) + row * layer.stride + panel.column;
    cells::with_update(layer.cell, [&]<class Update>() {
      if constexpr (Update::kSaved > 0) {
        tile.store_rows(dz, layer.stride);
        through_update<Update>(Rows, Vectors, dz);
        tile.load_rows(dz, layer.stride);
      } else {
        times_derivative(tile);
        tile.store_rows(dz, layer.stride);
      }
    });
    if (region.dz_copy.values != nullptr) {
      store_copy(tile, region.dz_copy, region.state_row(t) + row, panel);
    }
    add_to_inputs(tile);
  }

  // How many of the rows, counted from the tile's first, have a further step, or no grad_h_last.
  int64_t rows_to_go_on() const {
    return dense.h_last != nullptr ? region.rows(layer, t + 1) - row : kTileRows;
  }

  // What reaches h beside grad_hs and the products where rows have no further step: their
  // grad_h_last, and the carry. Once for all sizes of tiles, as it would be a fifth of each one's
  // code.
  [[gnu::noinline]] void sum_ended(int64_t rows, int64_t columns, Real* sums) const {
    const int64_t go_on = rows_to_go_on();
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t c = 0; c < columns; c += kLanes<Real>) {
        Vec<Real> sum{};
        if (i >= go_on && c < panel.columns_left) {
          sum = load_first(dense.h_last + (region.first + row + i) * layer.H + panel.column + c,
                           panel.columns_left - c);
        }
        if (region.carry != nullptr) {
          sum += load(region.carry + (row + i) * layer.stride + panel.column + c);
        }
        store(sums + i * columns + c, sum);
      }
    }
  }

  // tile += dlogits_t W_hq^T + dz_{t+1} W_hh^T. What the readout sends back is more rows of the
  // same product: no pass over [T, B, H], and one multiplication to compile.
  template <class TileOfAnySize>
  RNNFAST_INLINE void add_products(TileOfAnySize& tile) const {
    const int64_t of_readout = readout != nullptr ? readout->panels.count : 0;
    const bool recurs = t < layer.T - 1, is_ready = layer.W == nullptr;
    for (int64_t p = 0; p < of_readout + (recurs && !is_ready ? 1 : 0); ++p) {
      const Product product =
          p < of_readout ? product_of_readout(p, tile.kColumns) : product_of_state();
      tile.multiply(product.K, product.a, product.stride, product.b);
    }
    if (recurs && is_ready) region.add_ready_product(tile, layer, t + 1, panel);
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

  // From the gradient of h_t, in dz, to that of z_t, to the leak's, and to what reaches h_{t-1}
  // beside the product. Once for all sizes of tiles, as it would be a sixth of each one's code.
  template <class Update>
  [[gnu::noinline]] void through_update(int64_t rows, int64_t vectors, Real* dz) const {
    cells::with_activation(layer.cell, [&]<class Activation>() {
      for (int64_t j = 0; j < vectors; ++j) through_update<Update, Activation>(rows, j, dz);
    });
  }

  template <class Update, class Activation>
  RNNFAST_INLINE void through_update(int64_t rows, int64_t j, Real* dz) const {
    using Math = VectorMath<Real>;
    const int64_t c = j * kLanes<Real>, stride = layer.stride;
    const Real* const before = region.h_copy.column(panel, c);
    const int64_t before_row = region.state_row(t) + row,
                  before_stride = region.h_copy.stride(panel);
    Real* const carry = region.carry + row * stride + panel.column + c;
    const Real* const saved = dense.saved + at + row * layer.array_stride + panel.column + c;
    const Vec<Real> a = load(layer.leak + panel.column + c);
    const bool needs_leak = region.leak_gradient.sum != nullptr;
    Vec<Real> to_leak{};
    for (int64_t i = 0; i < rows; ++i) {
      const Vec<Real> gradient = load(dz + i * stride + c),
                      act = load_first(saved + i * layer.array_stride, panel.columns_left - c);
      if (needs_leak) {
        to_leak += Update::to_leak(gradient, act, load(before + (before_row + i) * before_stride));
      }
      store(carry + i * stride, Update::to_state(gradient, a));
      store(dz + i * stride + c,
            Activation::template through<Math>(Update::to_activation(gradient, a),
                                               Activation::template slope<Math>(act)));
    }
    if (needs_leak) region.leak_gradient.add(to_leak, t, panel.column + c);
  }

  // The derivative of the activation, from its result alone.
  template <class TileOfAnySize>
  RNNFAST_INLINE void times_derivative(TileOfAnySize& tile) const {
    using Math = VectorMath<Real>;
    using Rows = Places<Real, TileOfAnySize::kVectors>;
    const Rows h =
        region.h_copy.values != nullptr
            ? Rows(region.h_copy, region.state_row(t + 1) + row, panel)
            : Rows(region.h_at(layer, t + 1) + row * layer.h_stride + panel.column, layer.h_stride);
    cells::with_activation(layer.cell, [&]<class Activation>() {
      tile.each([&](int i, int j, int) {
        const Vec<Real> slope = Activation::template slope<Math>(load(h.vectors[j] + i * h.stride));
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
      tile.store_rows(dense.x + at + row * layer.array_stride + panel.column, layer.array_stride,
                      panel.columns_left);
    }
    if (region.bias_gradient.sum != nullptr) region.bias_gradient.add(tile, t, panel.column);
  }
};

}  // namespace rnnfast::RNNFAST_ISA
