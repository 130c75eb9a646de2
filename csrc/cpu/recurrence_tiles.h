// One step of the recurrence, forward and backward, as a tile task.
#pragma once

#include "cells/cells.h"
#include "layer.h"
#include "math.h"

namespace rnnfast::RNNFAST_ISA {

// Whether a tile's rows are finished without a call: one row, which then stays in registers, and
// tiles so small that the call would be 3 to 5 % of a layer at H = 64.
template <int Rows>
constexpr bool kFinishesInline = Rows == 1 || kVectorBytes == 16;

// An array from its element `first` on, or none.
template <class Real>
RNNFAST_INLINE Real* from(Real* array, int64_t first) {
  return array != nullptr ? array + first : nullptr;
}

// h_{t+1} = act(u_t + h_t W_hh + b_h) for some rows and one panel of columns.
//
// Only the product is compiled for each number of rows. What follows takes the rows from memory,
// one after the other: unrolled for all of them, tiles of AVX-512 took the compiler 1.6 times as
// long.
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
    Real* const h = region.h_at(layer, t + 1) + row * layer.h_stride + panel.column;
    tile.store_rows(h, layer.h_stride, tile.kColumns);
    cells::with_activation(layer.cell, [&]<class Activation>() {
      if constexpr (kFinishesInline<Rows>) {
        finish_rows<Activation, Vectors>(Rows, h);
      } else {
        finish<Activation, Vectors>(Rows, h);
      }
    });
  }

  template <class TileOfAnySize>
  RNNFAST_INLINE void load_inputs(TileOfAnySize& tile) const {
    const int32_t* slot = region.slots + t * region.slots_stride + row;
    const Real* inputs = region.inputs + panel.column;
    tile.each([&](int i, int j, int c) {
      tile.at[i][j] = load(inputs + slot[i] * layer.own_stride + c);
    });
  }

  template <class Activation, int Vectors>
  RNNFAST_NOINLINE void finish(int rows, Real* h) const {
    finish_rows<Activation, Vectors>(rows, h);
  }

  // From z_t to h_{t+1}, where that belongs, and its copies. What is read is looked up before:
  // after each store the compiler would look it up anew.
  template <class Activation, int Vectors>
  RNNFAST_INLINE void finish_rows(int rows, Real* h) const {
    const int64_t h_stride = layer.h_stride, stride = layer.array_stride,
                  columns = panel.columns_left, first = at + row * stride + panel.column;
    const Real* const before = region.h_at(layer, t) + row * h_stride + panel.column;
    const Real* const leak = from(layer.leak, panel.column);
    Real *hs = from(this->hs, first), *saved = from(this->saved, first);
    const bool is_copied = region.h_copy.values != nullptr, is_leaky = cells::is_leaky(layer.cell);
    Places<Real, Vectors> copy;
    if (is_copied) copy = {region.h_copy, region.state_row(t + 1) + row, panel};
    RNNFAST_UNROLL_BY_2 for (int i = 0; i < rows; ++i) {
      Tile<Real, 1, Vectors> one;
      one.load_rows(h + i * h_stride, 0);
      activate<Activation>(one);
      if (saved != nullptr) one.store_rows(saved + i * stride, 0, columns);
      if (is_leaky) {
        one.each([&](int, int j, int c) {
          one.at[0][j] =
              cells::Leaky::forward(one.at[0][j], load(before + i * h_stride + c), load(leak + c));
        });
      }
      one.store_rows(h + i * h_stride, 0, one.kColumns);
      if (is_copied) copy.store_row(one, i);
      if (hs != nullptr) one.store_rows(hs + i * stride, 0, columns);
    }
  }

  template <class Activation, class TileOfAnySize>
  RNNFAST_INLINE static void activate(TileOfAnySize& tile) {
    tile.each([&](int i, int j, int) {
      tile.at[i][j] = Activation::template of<VectorMath<Real>>(tile.at[i][j]);
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
// is given, dz_{t+1} W_hh^T goes there instead: of rows that begin with step t + 1. Rows are
// finished as in ForwardTile.
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
    if (dense.hs != nullptr) {
      tile.add_rows(dense.hs + at + row * layer.array_stride + panel.column, layer.array_stride,
                    panel.columns_left);
    }
    Real values[Rows * tile.kColumns];
    if (region.carry != nullptr || rows_to_go_on() < Rows) {
      sum_others<Vectors>(Rows, values);
      tile.add_rows(values, tile.kColumns, tile.kColumns);
    }
    add_products(tile);
    if (dense.h0 != nullptr) {
      tile.store_rows(values, tile.kColumns, tile.kColumns);
      store_h0<Vectors>(Rows, values);
      return;
    }
    Real* const dz = region.dz_at(layer, t) + row * layer.stride + panel.column;
    tile.store_rows(dz, layer.stride, tile.kColumns);
    cells::with_activation(layer.cell, [&]<class Activation>() {
      if constexpr (kFinishesInline<Rows>) {
        finish_rows<Activation, Vectors>(Rows, dz);
      } else {
        finish<Activation, Vectors>(Rows, dz);
      }
    });
  }

  // How many of the rows, counted from the tile's first, have a further step, or no grad_h_last.
  int64_t rows_to_go_on() const {
    return dense.h_last != nullptr ? region.rows(layer, t + 1) - row : kTileRows;
  }

  // What reaches h beside grad_hs and the products: grad_h_last in rows that have no further step,
  // and the carry.
  template <int Vectors>
  RNNFAST_NOINLINE void sum_others(int rows, Real* sums) const {
    const int64_t go_on = rows_to_go_on(), columns = panel.columns_left, H = layer.H,
                  stride = layer.stride;
    const Real* last = from(dense.h_last, (region.first + row) * H + panel.column);
    const Real* carry = from(region.carry, row * stride + panel.column);
    for (int i = 0; i < rows; ++i) {
      Tile<Real, 1, Vectors> one;
      one.clear();
      if (i >= go_on) one.add_rows(last + i * H, 0, columns);
      if (carry != nullptr) one.add_rows(carry + i * stride, 0, one.kColumns);
      one.store_rows(sums + i * one.kColumns, 0, one.kColumns);
    }
  }

  template <int Vectors>
  RNNFAST_NOINLINE void store_h0(int rows, const Real* values) const {
    for (int i = 0; i < rows; ++i) {
      Tile<Real, 1, Vectors> one;
      one.load_rows(values + i * one.kColumns, 0);
      one.store_rows(dense.h0 + (region.first + row + i) * layer.H + panel.column, 0,
                     panel.columns_left);
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

  template <class Activation, int Vectors>
  RNNFAST_NOINLINE void finish(int rows, Real* dz) const {
    finish_rows<Activation, Vectors>(rows, dz);
  }

  // From the gradient of h_t, in dz, to that of z_t, which goes on to all that is summed.
  template <class Activation, int Vectors>
  RNNFAST_INLINE void finish_rows(int rows, Real* dz) const {
    // Locals: a field would be read anew after each store (H = 64: 1 % of a step).
    const int64_t stride = layer.stride, array_stride = layer.array_stride,
                  own_stride = layer.own_stride, columns = panel.columns_left;
    Real* const x = from(dense.x, at + row * array_stride + panel.column);
    Real* const table = from(region.table_gradient, panel.column);
    const int32_t* const slot = from(region.slots, t * region.slots_stride + row);
    const bool is_copied = region.dz_copy.values != nullptr, is_leaky = cells::is_leaky(layer.cell);
    Places<Real, Vectors> h, copy;
    if (is_copied) copy = {region.dz_copy, region.state_row(t) + row, panel};
    if (is_leaky) {
      through_update<cells::Leaky, Activation>(rows, Vectors, dz);
    } else {
      h = h_after<Vectors>();
    }
    Tile<Real, 1, Vectors> sum;
    sum.clear();
    RNNFAST_UNROLL_BY_2 for (int i = 0; i < rows; ++i) {
      Tile<Real, 1, Vectors> one;
      one.load_rows(dz + i * stride, 0);
      if (!is_leaky) times_derivative<Activation>(one, h, i);
      one.store_rows(dz + i * stride, 0, one.kColumns);
      if (is_copied) copy.store_row(one, i);
      if (table != nullptr) {
        Real* const to = table + slot[i] * own_stride;
        one.each([&](int, int j, int c) { store(to + c, load(to + c) + one.at[0][j]); });
      }
      if (x != nullptr) one.store_rows(x + i * array_stride, 0, columns);
      sum.each([&](int, int j, int) { sum.at[0][j] += one.at[0][j]; });
    }
    if (region.bias_gradient.sum != nullptr) region.bias_gradient.add(sum, t, panel.column);
  }

  // From the gradient of h_t, in dz, to that of z_t, to the leak's, and to what reaches h_{t-1}
  // beside the product.
  template <class Update, class Activation>
  RNNFAST_NOINLINE void through_update(int64_t rows, int64_t vectors, Real* dz) const {
    for (int64_t j = 0; j < vectors; ++j) through_update_of<Update, Activation>(rows, j, dz);
  }

  template <class Update, class Activation>
  RNNFAST_INLINE void through_update_of(int64_t rows, int64_t j, Real* dz) const {
    using Math = VectorMath<Real>;
    const int64_t c = j * kLanes<Real>, stride = layer.stride;
    const Real* const before = region.h_copy.column(panel, c);
    const int64_t before_row = region.state_row(t) + row,
                  before_stride = region.h_copy.stride(panel);
    Real* const carry = region.carry + row * stride + panel.column + c;
    const Real* const saved = dense.saved + at + row * layer.array_stride + panel.column + c;
    const Vec<Real> a = load(layer.leak + panel.column + c);
    Vec<Real> to_leak{};
    for (int64_t i = 0; i < rows; ++i) {
      const Vec<Real> gradient = load(dz + i * stride + c),
                      act = load_first(saved + i * layer.array_stride, panel.columns_left - c);
      to_leak += Update::to_leak(gradient, act, load(before + (before_row + i) * before_stride));
      store(carry + i * stride, Update::to_state(gradient, a));
      store(dz + i * stride + c,
            Activation::template through<Math>(Update::to_activation(gradient, a),
                                               Activation::template slope<Math>(act)));
    }
    if (region.leak_gradient.sum != nullptr) {
      region.leak_gradient.add(to_leak, t, panel.column + c);
    }
  }

  // Where h_{t+1} lies.
  template <int Vectors>
  RNNFAST_INLINE Places<Real, Vectors> h_after() const {
    if (region.h_copy.values != nullptr)
      return {region.h_copy, region.state_row(t + 1) + row, panel};
    return {region.h_at(layer, t + 1) + row * layer.h_stride + panel.column, layer.h_stride};
  }

  // The derivative of the activation, from its result alone, in row i.
  template <class Activation, int Vectors>
  RNNFAST_INLINE void times_derivative(Tile<Real, 1, Vectors>& one, const Places<Real, Vectors>& h,
                                       int i) const {
    using Math = VectorMath<Real>;
    one.each([&](int, int j, int) {
      const Vec<Real> slope = Activation::template slope<Math>(load(h.vectors[j] + i * h.stride));
      one.at[0][j] = Activation::template through<Math>(one.at[0][j], slope);
    });
  }
};

}  // namespace rnnfast::RNNFAST_ISA
