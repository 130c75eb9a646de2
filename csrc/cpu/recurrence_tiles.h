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
  int64_t t, row;
  const Panel& panel;
  Real* hs;  // [T, B, H], or null

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
    tile.store_rows(region.h_at(layer, t + 1) + row * layer.h_stride + panel.column, layer.h_stride,
                    tile.kColumns);
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

  template <class TileOfAnySize>
  RNNFAST_INLINE void store_hs(const TileOfAnySize& tile) const {
    tile.store_rows(hs + layer.at(t, region.first + row) + panel.column, layer.array_stride,
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
  int64_t t, row;
  const Panel& panel;
  const DenseGradients<Real>& dense;
  const ReadoutGradient<Real>* readout;  // or null

  template <int Rows, int Vectors>
  void run() const {
    Tile<Real, Rows, Vectors> tile;
    tile.clear();
    const int64_t batch_row = region.first + row;
    if (dense.hs != nullptr) {
      tile.add_rows(dense.hs + layer.at(t, batch_row) + panel.column, layer.array_stride,
                    panel.columns_left);
    }
    if (dense.h_last != nullptr) add_last(tile);
    add_products(tile);
    if (dense.h0 != nullptr) {
      tile.store_rows(dense.h0 + batch_row * layer.H + panel.column, layer.H, panel.columns_left);
      return;
    }
    times_derivative(tile);
    tile.store_rows(region.dz_at(layer, t) + row * layer.stride + panel.column, layer.stride,
                    tile.kColumns);
    if (region.dz_copy.values != nullptr) {
      store_copy(tile, region.dz_copy, region.state_row(t) + row, panel);
    }
    add_to_inputs(tile);
  }

  // grad_h_last of the rows that have no further step.
  template <class TileOfAnySize>
  RNNFAST_INLINE void add_last(TileOfAnySize& tile) const {
    const int64_t go_on = region.rows(layer, t + 1) - row;
    if (go_on >= tile.kRows) return;
    const Real* h_last = dense.h_last + (region.first + row) * layer.H + panel.column;
    tile.each([&](int i, int j, int c) {
      if (i < go_on) return;
      tile.at[i][j] += load_first(h_last + i * layer.H + c, panel.columns_left - c);
    });
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

  // The derivative of the activation, from its result alone.
  template <class TileOfAnySize>
  RNNFAST_INLINE void times_derivative(TileOfAnySize& tile) const {
    if (region.h_copy.values != nullptr) {
      const Places<Real, TileOfAnySize::kVectors> h(region.h_copy, region.state_row(t + 1) + row,
                                                    panel);
      times_derivative(tile, [&](int i, int j) { return load(h.vectors[j] + i * h.stride); });
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
      tile.store_rows(dense.x + layer.at(t, region.first + row) + panel.column, layer.array_stride,
                      panel.columns_left);
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
