// The time axis of a call: in which order its steps are taken, and where a step's rows lie in
// arrays [T, B, H]. Step s is the s-th to be taken. In the arrays it is step s or, where time runs
// backwards, step T - 1 - s; everything that a call keeps for itself is numbered by s.
//
// Sequences of different lengths are sorted, the longest first, so that the sequences of a step are
// the first few of the batch; the arrays hold the rows of these alone, one step behind the other.
#pragma once

#include "kernels.h"
#include "workspace.h"

namespace rnnfast::RNNFAST_ISA {

class Steps {
 public:
  Steps(int64_t T, int64_t B, const RnnOptions& options = {})
      : T_(T),
        B_(B),
        reverse_(options.reverse),
        // An only sequence is as long as the call.
        batch_sizes_(B == 1 ? nullptr : options.batch_sizes) {}

  bool are_ragged() const { return batch_sizes_ != nullptr; }

  void lay_out(Workspace& memory) {
    if (are_ragged()) memory.take(rows_before_, T_ + 1);
  }
  void prepare() {
    if (!are_ragged()) return;
    rows_before_[0] = 0;
    for (int64_t t = 0; t < T_; ++t) rows_before_[t + 1] = rows_before_[t] + batch_sizes_[t];
  }

  // Where batch row n of step s lies in the arrays.
  int64_t row(int64_t s, int64_t n) const {
    const int64_t t = in_arrays(s);
    return (are_ragged() ? rows_before_[t] : t * B_) + n;
  }

  // How many batch rows have a step s; 0 for the steps before the first and after the last.
  int64_t rows(int64_t s) const {
    if (s < 0 || s >= T_) return 0;
    return are_ragged() ? batch_sizes_[in_arrays(s)] : B_;
  }

  // The steps of the batch rows [0, rows) together.
  int64_t length(int64_t rows) const {
    if (!are_ragged()) return T_ * rows;
    int64_t sum = 0;
    for (int64_t t = 0; t < T_; ++t) sum += batch_sizes_[t] < rows ? batch_sizes_[t] : rows;
    return sum;
  }

  // The first batch rows whose steps are, together, `part` of `parts` of all.
  int64_t rows_of_length(int64_t part, int64_t parts) const {
    const int64_t target = length(B_) * part / parts;
    int64_t low = 0, high = B_;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (length(middle) < target) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  // ids [T, B], or [rows of all steps]: those of step s, `stride_b` apart.
  const int64_t* ids_of(int64_t s, const int64_t* ids, int64_t stride_t, int64_t stride_b) const {
    const int64_t t = in_arrays(s);
    return ids + (are_ragged() ? rows_before_[t] * stride_b : t * stride_t);
  }

  // resets [T, B]: those before step s
  const uint8_t* resets_of(int64_t s, const uint8_t* resets) const {
    return resets + in_arrays(s) * B_;
  }

 private:
  int64_t in_arrays(int64_t s) const { return reverse_ ? T_ - 1 - s : s; }

  int64_t T_, B_;
  bool reverse_;
  const int64_t* batch_sizes_;      // [T] in the arrays' order, none larger than the one before
  int64_t* rows_before_ = nullptr;  // [T + 1]: rows of the arrays before each step
};

}  // namespace rnnfast::RNNFAST_ISA
