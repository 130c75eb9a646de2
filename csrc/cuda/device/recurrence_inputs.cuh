// The inputs of a step, fetched one step ahead into shared memory by the warp that will use them.
#pragma once

#include "recurrence_common.cuh"

namespace rnnfast::cuda {

// A warp's columns of x_t (or of W_xh's rows that the ids name), or of grad_hs_t and hs_t.
// Everything is private to the warp, so __syncwarp is all the synchronisation it takes.
class Inputs {
 public:
  // The stages lie at `stages`, [2][inputs][R][kWarpColumns] per warp, the ids at `ids`, [2][R].
  // Those of the first step are on their way when this returns.
  RF_DEVICE Inputs(const Sequence& p, float* stages, long long* ids, int R, int warp, int lane,
                   int row0, int rows, int warp_column)
      : p_(p), R_(R), lane_(lane), rows_(rows) {
    stages_ = stages + warp * 2 * stage_floats();
    ids_ = ids + warp * 2 * R;
    column_ = warp_column + lane % kPieces * 4;
    row_ = lane / kPieces;
    as_float4_ = has_float4_rows(p.in, p.H) && (!kBackward || is_aligned(p.saved));
    next_ = element(p, 0, row0 + row_, column_);
    next_id_ = p.ids + row0 * p.ids_stride_b;
    for (int i = lane; i < 2 * stage_floats(); i += 32) stages_[i] = 0.f;  // padding stays 0
    __syncwarp();
    if (gathers()) {
      fetch_ids(0);
      fetch_ids(1);
      wait_copies();
      __syncwarp();
    }
    fetch(0);
  }

  // Makes the inputs of step s readable and fetches those of the next.
  RF_DEVICE void advance(int s) {
    wait_copies();
    __syncwarp();
    if (s + 1 < p_.T) fetch(s + 1);
    if (gathers()) fetch_ids(s + 2);
  }

  // x or grad_hs of a row and column of this warp in step s; hs lies R * kWarpColumns further.
  RF_DEVICE const float* at(int s, int row, int column) const {
    return stages_ + (s & 1) * stage_floats() + row * kWarpColumns + column;
  }

  // Adds values, grad_h_last, to the inputs of the first step: each lane at the outputs it owns.
  RF_DEVICE void add_to_first(int row, int column, int real_rows, int columns, const float* values,
                              long long group_floats) {
    wait_copies();
    __syncwarp();
    for (int r = 0; r < real_rows; r += kRows, values += group_floats) {
#pragma unroll
      for (int j = 0; j < kOutputs; ++j) {
        if (j < columns) stages_[(row + r) * kWarpColumns + column + j] += values[j];
      }
    }
    __syncwarp();
  }

 private:
  static constexpr int kPieces = kWarpColumns / 4;  // of four columns, one for each lane
  static constexpr int kRowsAtOnce = 32 / kPieces;

  RF_DEVICE int stage_floats() const { return kShape.inputs() * R_ * kWarpColumns; }
  RF_DEVICE bool gathers() const { return !kBackward && p_.ids != nullptr; }

  // Those of step s, which is the one after the last that was fetched, into stage s % 2.
  RF_DEVICE void fetch(int s) {
    long long at = next_;
    next_ += p_.step;
    if (column_ >= p_.H) return;
    float* to = stages_ + (s & 1) * stage_floats() + row_ * kWarpColumns + lane_ % kPieces * 4;
    const long long* id = ids_ + (s & 1) * R_;
#pragma unroll 1
    for (int r = row_; r < rows_; r += kRowsAtOnce, to += kRowsAtOnce * kWarpColumns) {
      if (gathers()) {
        copy_piece(to, p_.in + checked_id(p_, id[r]) * p_.H + column_);
      } else {
        if (!kBackward || p_.in) {
          copy_piece(to, p_.in + at);
        } else {  // over what add_to_first() has left
          *reinterpret_cast<float4*>(to) = make_float4(0.f, 0.f, 0.f, 0.f);
        }
        if (kBackward) copy_piece(to + R_ * kWarpColumns, p_.saved + at);
        at += static_cast<long long>(kRowsAtOnce) * p_.row;
      }
    }
  }

  RF_DEVICE void copy_piece(float* to, const float* from) const {
    if (as_float4_) {
      copy_async<16>(to, from);
    } else {
#pragma unroll 1
      for (int i = 0; i < 4 && column_ + i < p_.H; ++i) copy_async<4>(to + i, from + i);
    }
  }

  // Those of step s, again in order.
  RF_DEVICE void fetch_ids(int s) {
    if (s >= p_.T) return;
    for (int r = lane_; r < rows_; r += 32) {
      copy_async<8>(ids_ + (s & 1) * R_ + r, next_id_ + r * p_.ids_stride_b);
    }
    next_id_ += p_.ids_stride_t;
  }

  const Sequence& p_;
  float* stages_;
  long long* ids_;
  int R_, lane_, rows_, row_, column_;
  long long next_;            // floats from x, grad_hs and hs to this lane's first piece
  const long long* next_id_;  // of the first row
  bool as_float4_;
};

}  // namespace rnnfast::cuda
