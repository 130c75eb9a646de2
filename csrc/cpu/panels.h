// Matrices as the register tile wants to read them: cut into panels of a few vectors of columns,
// each panel [K][its columns] in one piece, columns beyond the matrix filled with zeros. Packing
// costs one pass over the matrix per call and is paid back by every step: the tile then reads
// memory strictly forwards.
#pragma once

#include "tile.h"

namespace rnnfast::RNNFAST_ISA {

template <class Real>
constexpr int64_t padded(int64_t columns) {
  return (columns + kLanes<Real> - 1) / kLanes<Real> * kLanes<Real>;
}

// The stride of rows with a cache line more: a power of two apart, they evict each other.
template <class Real>
constexpr int64_t with_gap(int64_t columns) {
  return columns + 64 / static_cast<int64_t>(sizeof(Real));
}

// How the columns are cut. Panel p begins at vector first(p); `groups` equal shares of panels can
// be handed to as many workers, and are as even in vectors as can be (the wider panels all in the
// first share: 18 vectors against 14 at H = 512, and a single row's step took 11 % longer).
struct Panels {
  int64_t columns, vectors, count, lanes;

  template <class Real>
  static Panels of(int64_t columns, int64_t groups, int64_t most_vectors = kTileVectors) {
    const int64_t vectors = padded<Real>(columns) / kLanes<Real>;
    const int64_t per_group = (vectors + groups * most_vectors - 1) / (groups * most_vectors);
    const int64_t count = per_group * groups < vectors ? per_group * groups : vectors;
    const int64_t step = count > 0 ? ((vectors << 32) + count - 1) / count : 0;
    return {columns, vectors, count, kLanes<Real>, step};
  }
  int64_t first(int64_t p) const { return p * step >> 32; }

  int64_t step;  // vectors / count in units of 2^-32, rounded up: no division for each panel
};

// One panel: where it begins, in vectors and in columns, and how wide it is.
struct Panel {
  int64_t vector, column;
  int vectors;
  int64_t columns_left;  // of the matrix, from this panel's first column on

  Panel(const Panels& panels, int64_t p)
      : vector(panels.first(p)),
        column(vector * panels.lanes),
        vectors(static_cast<int>(panels.first(p + 1) - vector)),
        columns_left(panels.columns - column) {}
};

// Row k from column c on, zero beyond the matrix's columns. In all rows but the last few, what lies
// beyond them is the next row: reading it and masking it off takes a tenth of the time.
template <class Real>
RNNFAST_INLINE Vec<Real> load_in_row(const Real* matrix, int64_t stride, int64_t rows, int64_t k,
                                     int64_t c, int64_t columns_left) {
  const Real* p = matrix + k * stride + c;
  return (rows - k) * stride - c >= kLanes<Real> ? load_masked(p, columns_left)
                                                 : load_first(p, columns_left);
}

// Rows [begin, end) of a matrix [K, columns] with row stride `stride`; packed takes K *
// padded(columns) elements, the panel at K * panel.column.
template <class Real>
inline void pack(const Real* matrix, int64_t stride, int64_t K, int64_t begin, int64_t end,
                 const Panel& panel, Real* packed) {
  const int64_t width = panel.vectors * kLanes<Real>;
  Real* out = packed + K * panel.column + begin * width;
  for (int64_t k = begin; k < end; ++k) {
    for (int64_t c = 0; c < width; c += kLanes<Real>, out += kLanes<Real>) {
      store(out, load_in_row(matrix, stride, K, k, panel.column + c, panel.columns_left - c));
    }
  }
}

template <class Real>
inline void pack(const Real* matrix, int64_t stride, int64_t K, const Panel& panel, Real* packed) {
  pack(matrix, stride, K, 0, K, panel, packed);
}

// The same rounded to bfloat16, two rows of the matrix to a row of pairs.
inline void pack(const float* matrix, int64_t stride, int64_t K, const Panel& panel, Pair* packed) {
  const int64_t width = panel.vectors * kLanes<float>;
  Pair* out = packed + depth_of<Pair>(K) * panel.column;
  const auto rounded = [&](int64_t k, int64_t c) {
    const float* row = matrix + k * stride + panel.column + c;
    return k < K ? round_to_bf16(load_first(row, panel.columns_left - c)) : HalfVector{};
  };
  for (int64_t k = 0; k < K; k += 2) {
    for (int64_t c = 0; c < width; c += kLanes<float>, out += kLanes<float>) {
      const Pairs pairs = pair_up(rounded(k, c), rounded(k + 1, c));
      std::memcpy(out, &pairs, sizeof pairs);
    }
  }
}

// pack() for the transpose of `matrix` [columns, K]: the panel's column c is the matrix's row c.
template <class Real>
void pack_transposed(const Real* matrix, int64_t stride, int64_t K, const Panel& panel,
                     Real* packed);

}  // namespace rnnfast::RNNFAST_ISA
