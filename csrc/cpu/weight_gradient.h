// The gradient of a weight matrix: A^T B over all rows, where A and B already lie as the tile reads
// them, so nothing is packed (90 % of peak, where a library call on the plain arrays reaches 72 %).
#pragma once

#include "panels.h"
#include "parallel.h"

namespace rnnfast::RNNFAST_ISA {

// Matrices that stand left in a weight gradient are kept in blocks of kBlock columns,
// [block][row][kBlock].
template <class Real>
constexpr int64_t kBlock = kLanes<Real> > kTileRows ? kLanes<Real> : kTileRows;

// Where element (row, column) of such a matrix of `rows` rows lies.
template <class Real>
RNNFAST_INLINE int64_t in_blocks(int64_t rows, int64_t row, int64_t column) {
  return (column / kBlock<Real> * rows + row) * kBlock<Real> + column % kBlock<Real>;
}

// What is done to a weight gradient while it is in registers: it is scaled, and the weights move.
// Where it is not stored as well, one row's step takes 4 % less (H = 512): W_hh and its gradient
// do not fit into the L2 cache together.
template <class Real>
struct Descent {
  Real* weights;  // [columns of a, panels.columns]
  Real factor, lr;
  bool stores_gradient;
};

template <class Real>
struct WeightGradient {
  int64_t K;      // rows to sum over
  const Real* a;  // blocks of a_rows rows, from the first row to take
  int64_t a_rows;
  const Real* b;  // panels of K rows
  const Panels& panels;
  Real* out;                               // [columns of a, panels.columns]
  const Descent<Real>* descent = nullptr;  // only where K is one chunk

  // A chunk of b's panel (120 KB) stays in the L2 cache while the rows of the result pass over it.
  static constexpr int64_t kChunk = 640 * 4 / static_cast<int64_t>(sizeof(Real));

  // Rows [begin, end) of the result, which is added to what is there, or overwrites it.
  void run(int64_t begin, int64_t end, bool add) const {
    const int64_t chunks = K > kChunk ? (K + kChunk / 2) / kChunk : 1;
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t k = K * i / chunks, k_end = K * (i + 1) / chunks;
      for (int64_t p = 0; p < panels.count; ++p) {
        const Panel panel(panels, p);
        for (int64_t m = begin; m < end; m += kTileRows) {
          const int rows = static_cast<int>(end - m < kTileRows ? end - m : kTileRows);
          run_tile(rows, panel.vectors, Block{*this, panel, m, k, k_end - k, add || i > 0});
        }
      }
    }
  }

 private:
  struct Block {
    const WeightGradient& self;
    Panel panel;
    int64_t m, k, K;
    bool add;

    template <int Rows, int Vectors>
    void run() const {
      Tile<Real, Rows, Vectors> tile;
      Real* out = self.out + m * self.panels.columns + panel.column;
      tile.clear();
      tile.multiply_transposed(K, self.a + in_blocks<Real>(self.a_rows, k, m), kBlock<Real>,
                               self.b + self.K * panel.column + k * tile.kColumns, tile.kColumns);
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
