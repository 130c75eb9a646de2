// The inputs u_t + b_h of the recurrence, as the forward tile reads them: rows of padded width.
//
// A small table gets its bias added once, and the tile picks rows by id. Inputs of any other kind
// (a table with more rows than the batch has tokens, a dense projection) are made ready step by
// step, in a strip of one row per batch row that stays in the L1 cache.
#pragma once

#include "recurrence_tiles.h"
#include "workspace.h"

namespace rnnfast::RNNFAST_ISA {

template <class Real>
class Inputs {
 public:
  // Takes T, B, H, V, ids with strides, x and b_h from the arguments of a call. stride: of the
  // rows; is_cut: each worker has its columns of them to itself.
  template <class Args>
  Inputs(const Args& args, const Real* x, int64_t stride, bool is_cut)
      : B_(args.B),
        H_(args.H),
        V_(args.V),
        ids_(args.ids),
        stride_t_(args.ids_stride_t),
        stride_b_(args.ids_stride_b),
        x_(x),
        b_h_(args.b_h),
        stride_(stride),
        is_cut_(is_cut),
        by_table_(has_small_table(args)) {}

  template <class Args>
  static bool has_small_table(const Args& args) {
    return args.ids != nullptr && args.V <= args.T * args.B;
  }

  void lay_out(Workspace& memory) { memory.take(table_, by_table_ && !is_cut_ ? V_ * stride_ : 0); }

  void lay_out(Workspace& memory, int64_t T, Region<Real>& region) const {
    region.inputs = table_;
    region.slots_stride = by_table_ ? region.count : 0;
    memory.take(region.slots, (by_table_ ? T : 1) * region.count);
  }

  // The strip, and the table too where rows are cut: from column `first` on.
  void lay_out_rows(Workspace& memory, Region<Real>& region, int64_t first) const {
    if (by_table_ && !is_cut_) return;
    memory.take(region.inputs, (by_table_ ? V_ : region.count) * stride_, first);
  }

  // A worker's part: `rows` of its region, and some columns of the table.
  void prepare(int64_t T, const Region<Real>& region, Share rows, Share columns) const {
    if (!by_table_) {
      for (int64_t n = rows.begin; n < rows.end; ++n) region.slots[n] = static_cast<int32_t>(n);
      return;
    }
    copy_ids(ids_, stride_t_, stride_b_, T, region, rows);
    for (int64_t v = 0; v < V_; ++v) add_bias(x_ + v * H_, region.inputs + v * stride_, columns);
  }

  // The strip of step t, in the given columns.
  void prepare_step(int64_t t, const Region<Real>& region, Share columns) const {
    if (by_table_) return;
    for (int64_t n = 0; n < region.count; ++n) {
      const int64_t batch_row = region.first + n;
      const int64_t row =
          ids_ != nullptr ? ids_[t * stride_t_ + batch_row * stride_b_] : t * B_ + batch_row;
      add_bias(x_ + row * H_, region.inputs + n * stride_, columns);
    }
  }

  static void copy_ids(const int64_t* ids, int64_t stride_t, int64_t stride_b, int64_t T,
                       const Region<Real>& region, Share rows) {
    for (int64_t t = 0; t < T; ++t) {
      const int64_t* step = ids + t * stride_t + region.first * stride_b;
      int32_t* slots = region.slots + t * region.slots_stride;
      for (int64_t n = rows.begin; n < rows.end; ++n)
        slots[n] = static_cast<int32_t>(step[n * stride_b]);
    }
  }

 private:
  // out = row + b_h in the given columns, zero in the padding
  void add_bias(const Real* row, Real* out, Share columns) const {
    for (int64_t c = columns.begin; c < columns.end; c += kLanes<Real>) {
      Vec<Real> sum = load_first(row + c, H_ - c);
      if (b_h_ != nullptr) sum += load_first(b_h_ + c, H_ - c);
      store(out + c, sum);
    }
  }

  int64_t B_, H_, V_;
  const int64_t* ids_;
  int64_t stride_t_, stride_b_;
  const Real* x_;
  const Real* b_h_;
  int64_t stride_;
  bool is_cut_;
  bool by_table_;
  Real* table_ = nullptr;
};

}  // namespace rnnfast::RNNFAST_ISA
