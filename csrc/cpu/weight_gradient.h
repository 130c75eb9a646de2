// The gradient of a weight matrix: A^T B over all rows, where A and B already lie as the tile reads
// them, so nothing is packed (90 % of peak, where a library call on the plain arrays reaches 72 %).
// Few rows are read as they lie: they stay in the cache whatever the order, and no step has to
// write them twice (one row, H = 512: 1 % of a training step).
#pragma once

#include <array>

#include "panels.h"
#include "parallel.h"

namespace rnnfast::RNNFAST_ISA {

// Columns of a block: a matrix that stands left is kept in [block][row][kBlock].
template <class Real>
constexpr int64_t kBlock = kLanes<Real> > kTileRows ? kLanes<Real> : kTileRows;

// A matrix that stands left: in blocks, or as it lies.
template <class Real>
struct LeftMatrix {
  const Real* values;
  int64_t row_stride, block_stride;

  static LeftMatrix in_blocks(const Real* values, int64_t rows) {
    return {values, kBlock<Real>, rows * kBlock<Real>};
  }
  static LeftMatrix as_it_lies(const Real* values, int64_t stride) {
    return {values, stride, kBlock<Real>};
  }
  RNNFAST_INLINE const Real* at(int64_t row, int64_t column) const {
    return values + column / kBlock<Real> * block_stride + row * row_stride + column % kBlock<Real>;
  }
};

// A matrix that stands right: in panels, or as it lies.
template <class Real>
struct RightMatrix {
  const Real* values;
  int64_t column_stride, row_stride;  // the latter 0: the width of the panel

  static RightMatrix in_panels(const Real* values, int64_t rows) { return {values, rows, 0}; }
  static RightMatrix as_it_lies(const Real* values, int64_t stride) { return {values, 1, stride}; }
  RNNFAST_INLINE int64_t stride(const Panel& panel) const {
    return row_stride != 0 ? row_stride : panel.vectors * kLanes<Real>;
  }
  RNNFAST_INLINE const Real* at(int64_t row, const Panel& panel) const {
    return values + column_stride * panel.column + row * stride(panel);
  }
};

// A copy of h or dz in the order in which the weight gradient reads it: in panels where it stands
// right, else in blocks.
template <class Real>
struct Copy {
  Real* values = nullptr;
  int64_t rows = 0;
  bool in_panels = false;

  // How many elements it has for a matrix whose rows are `width` long.
  int64_t size(int64_t width) const {
    return rows * (in_panels ? width : (width + kBlock<Real> - 1) / kBlock<Real> * kBlock<Real>);
  }

  // Where the vector from column c of a panel on lies in row 0, and how far apart its rows are.
  RNNFAST_INLINE Real* column(const Panel& panel, int64_t c) const {
    if (in_panels) return values + rows * panel.column + c;
    const int64_t column = panel.column + c;
    return values + column / kBlock<Real> * rows * kBlock<Real> + column % kBlock<Real>;
  }
  RNNFAST_INLINE int64_t stride(const Panel& panel) const {
    return in_panels ? panel.vectors * kLanes<Real> : kBlock<Real>;
  }

  LeftMatrix<Real> on_the_left() const { return LeftMatrix<Real>::in_blocks(values, rows); }
  RightMatrix<Real> on_the_right() const { return RightMatrix<Real>::in_panels(values, rows); }
};

// Where a tile lies, in a copy or a matrix, from a row on: vector j of row i at vectors[j] + i *
// stride. Looked up together: after each store the compiler would look them up anew.
template <class Real, int Vectors>
struct Places {
  std::array<Real*, Vectors> vectors;
  int64_t stride;

  RNNFAST_INLINE Places(const Copy<Real>& copy, int64_t row, const Panel& panel)
      : stride(copy.stride(panel)) {
    RNNFAST_UNROLL for (int j = 0; j < Vectors; ++j) {
      vectors[j] = copy.column(panel, j * kLanes<Real>) + row * stride;
    }
  }
  // Rows that lie as in a matrix.
  RNNFAST_INLINE Places(Real* first, int64_t stride) : stride(stride) {
    RNNFAST_UNROLL for (int j = 0; j < Vectors; ++j) vectors[j] = first + j * kLanes<Real>;
  }
};

// What is done to a weight gradient while it is in registers: it is scaled, and the weights move.
// Where it is not stored as well, one row's step takes 4 % less (H = 512): W_hh and its gradient
// do not fit into the L2 cache together.
template <class Real>
struct Descent {
  Real* weights;  // [columns of a, panels.columns]
  Real factor, lr;
  bool stores_gradient;
};

// The same with a gradient in memory, for parameters of any kind.
template <class Real>
[[gnu::noinline]] void descend(Real* param, Real* gradient, int64_t count, Real factor, Real lr) {
  for (int64_t i = 0; i < count; ++i) {
    gradient[i] *= factor;
    param[i] -= lr * gradient[i];
  }
}

template <class Real>
struct WeightGradient {
  int64_t K;  // rows to sum over
  LeftMatrix<Real> a;
  int64_t first;  // row of a to take
  RightMatrix<Real> b;
  const Panels& panels;
  Real* out;                               // [columns of a, panels.columns]
  const Descent<Real>* descent = nullptr;  // only where K is one chunk

  // A chunk of b's panel (120 KB) stays in the L2 cache while the rows of the result pass over it;
  static constexpr int64_t kChunk = 640 * 4 / static_cast<int64_t>(sizeof(Real));
  // all of b does beside them up to 256 KB.
  static constexpr int64_t kAllOfB = 256 * 1024 / static_cast<int64_t>(sizeof(Real));

  // Rows [begin, end) of the result, which is added to what is there, or overwrites it.
  void run(int64_t begin, int64_t end, bool add) const {
    const int64_t chunks = K > kChunk ? (K + kChunk / 2) / kChunk : 1;
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t k = K * i / chunks, k_end = K * (i + 1) / chunks;
      each_tile(begin, end, [&](const Panel& panel, int64_t m, int rows) {
        run_tile(rows, panel.vectors, Block{*this, panel, m, k, k_end - k, add || i > 0});
      });
    }
  }

 private:
  // Panel by panel; or, where all of b stays in the L2 cache, along the rows of the result, which
  // the caches then read ahead (one row, H = 512: 1.3 % of a step).
  template <class F>
  RNNFAST_INLINE void each_tile(int64_t begin, int64_t end, const F& f) const {
    const int64_t blocks = (end - begin + kTileRows - 1) / kTileRows;
    const bool by_panels = K * panels.columns > kAllOfB;
    for (int64_t i = 0; i < panels.count * blocks; ++i) {
      const int64_t p = by_panels ? i / blocks : i % panels.count;
      const int64_t m = begin + (by_panels ? i % blocks : i / panels.count) * kTileRows;
      f(Panel(panels, p), m, static_cast<int>(end - m < kTileRows ? end - m : kTileRows));
    }
  }

  struct Block {
    const WeightGradient& self;
    const Panel& panel;
    int64_t m, k, K;
    bool add;

    template <int Rows, int Vectors>
    void run() const {
      Tile<Real, Rows, Vectors> tile;
      Real* out = self.out + m * self.panels.columns + panel.column;
      tile.clear();
      tile.multiply_transposed(K, self.a.at(self.first + k, m), self.a.row_stride,
                               self.b.at(k, panel), self.b.stride(panel));
      if (self.descent != nullptr) {
        descend(tile, *self.descent);
        if (!self.descent->stores_gradient) return;
      }
      if (add) tile.add_rows(out, self.panels.columns, panel.columns_left);
      tile.store_rows(out, self.panels.columns, panel.columns_left);
    }

    template <class TileOfAnySize>
    RNNFAST_INLINE void descend(TileOfAnySize& gradient, const Descent<Real>& descent) const {
      Real* weights = descent.weights + m * self.panels.columns + panel.column;
      TileOfAnySize moved;
      moved.clear();
      moved.add_rows(weights, self.panels.columns, panel.columns_left);
      gradient.each([&](int i, int j, int) {
        gradient.at[i][j] *= descent.factor;
        moved.at[i][j] -= gradient.at[i][j] * descent.lr;
      });
      moved.store_rows(weights, self.panels.columns, panel.columns_left);
    }
  };
};

}  // namespace rnnfast::RNNFAST_ISA
