// The inputs u_t + b_h of the recurrence, as the forward tile reads them: rows of padded width.
//
// A small table gets its bias added once, and the tile picks rows by id. Inputs of any other kind
// (a table with more rows than the batch has tokens, a dense projection, noise) are made ready step
// by step, in a strip of one row per batch row that stays in the L1 cache.
#pragma once

#include "recurrence_tiles.h"
#include "workspace.h"

namespace rnnfast::RNNFAST_ISA {

template <class Real>
class Inputs {
 public:
  // Takes V, ids with strides and b_h from the arguments of a call. is_cut: each worker has its
  // columns of the rows to itself. are_changed: more is added to the rows of each step.
  template <class Args>
  Inputs(const Args& args, const Real* x, const Layer<Real>& layer, bool is_cut,
         bool are_changed = false)
      : layer_(layer),
        V_(args.V),
        ids_(args.ids),
        stride_t_(args.ids_stride_t),
        stride_b_(args.ids_stride_b),
        x_(x),
        b_h_(args.b_h),
        is_cut_(is_cut),
        by_table_(!are_changed && has_small_table(args, layer.steps)) {}

  template <class Args>
  static bool has_small_table(const Args& args, const Steps& steps) {
    return args.ids != nullptr && args.V <= steps.length(args.B);
  }

  void lay_out(Workspace& memory) {
    memory.take(table_, by_table_ && !is_cut_ ? V_ * layer_.own_stride : 0);
  }

  void lay_out(Workspace& memory, Region<Real>& region) const {
    region.inputs = table_;
    region.slots_stride = by_table_ ? region.count : 0;
    memory.take(region.slots, (by_table_ ? layer_.T : 1) * region.count);
  }

  // The strip, and the table too where rows are cut: from column `first` on.
  void lay_out_rows(Workspace& memory, Region<Real>& region, int64_t first) const {
    if (by_table_ && !is_cut_) return;
    memory.take(region.inputs, (by_table_ ? V_ : region.count) * layer_.own_stride, first);
  }

  // A worker's part: `rows` of its region, and some columns of the table.
  void prepare(const Region<Real>& region, Share rows, Share columns) const {
    if (!by_table_) {
      for (int64_t n = rows.begin; n < rows.end; ++n) region.slots[n] = static_cast<int32_t>(n);
      return;
    }
    copy_ids(ids_, stride_t_, stride_b_, layer_, region, rows);
    for (int64_t v = 0; v < V_; ++v) {
      add_bias(x_ + v * layer_.H, region.inputs + v * layer_.own_stride, columns);
    }
  }

  // The strip of step t, in the given columns.
  void prepare_step(int64_t t, const Region<Real>& region, Share columns) const {
    if (by_table_) return;
    const int64_t* ids =
        ids_ == nullptr ? nullptr : layer_.steps.ids_of(t, ids_, stride_t_, stride_b_);
    for (int64_t n = 0; n < region.rows(layer_, t); ++n) {
      const int64_t batch_row = region.first + n;
      const int64_t row =
          ids != nullptr ? ids[batch_row * stride_b_] * layer_.H : layer_.at(t, batch_row);
      add_bias(x_ + row, region.inputs + n * layer_.own_stride, columns);
    }
  }

  static void copy_ids(const int64_t* ids, int64_t stride_t, int64_t stride_b,
                       const Layer<Real>& layer, const Region<Real>& region, Share rows) {
    for (int64_t t = 0; t < layer.T; ++t) {
      const int64_t* step =
          layer.steps.ids_of(t, ids, stride_t, stride_b) + region.first * stride_b;
      const int64_t present = region.rows(layer, t);
      const int64_t end = rows.end < present ? rows.end : present;
      int32_t* slots = region.slots + t * region.slots_stride;
      for (int64_t n = rows.begin; n < end; ++n)
        slots[n] = static_cast<int32_t>(step[n * stride_b]);
    }
  }

 private:
  // out = row + b_h in the given columns, zero in the padding
  void add_bias(const Real* row, Real* out, Share columns) const {
    for (int64_t c = columns.begin; c < columns.end; c += kLanes<Real>) {
      Vec<Real> sum = load_first(row + c, layer_.H - c);
      if (b_h_ != nullptr) sum += load_first(b_h_ + c, layer_.H - c);
      store(out + c, sum);
    }
  }

  const Layer<Real>& layer_;
  int64_t V_;
  const int64_t* ids_;
  int64_t stride_t_, stride_b_;
  const Real* x_;
  const Real* b_h_;
  bool is_cut_;
  bool by_table_;
  Real* table_ = nullptr;
};

}  // namespace rnnfast::RNNFAST_ISA
