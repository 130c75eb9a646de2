// Gradients of weights as sums over the rows of all steps, in one launch (cuda/device/gradients.cu)
// and one more that adds up its parts. The same bits at every run.
#pragma once

#include "cuda/device/params.h"
#include "cuda_call.h"
#include "cuda_part_sums.h"
#include "ops/recurrence_arguments.h"
#include "torch/abi.h"

namespace rnnfast::cuda {

class Gradients {
 public:
  // N: rows of every matrix.
  Gradients(const Call& call, int64_t N, int32_t dtype) : call_(call), N_(N), dtype_(dtype) {}

  // out [I, J] = A^T B, with A [N, I] and B [N, J].
  void add_product(const MatrixRows& a, const MatrixRows& b, const Tensor& out);

  // table [V, C]: row v is the sum of the rows of x [N, C] whose id is v; ids [T, B].
  void add_table(const Tensor& x, const Tensor& ids, const Tensor& table);

  // sum [C]: of all rows of x [N, C], which is that of the table where there is one.
  void add_sum(const Tensor& x, const Tensor& sum);

  // Leaves all parts; `sums` adds them up.
  void run(PartSums& sums);

 private:
  void take_rows(const Tensor& x, int64_t C);

  const Call& call_;
  int64_t N_;
  int32_t dtype_;
  GradientsParams params_{};
  int num_products_ = 0;
  const Tensor* outs_[kMostProducts] = {};
  const Tensor *table_ = nullptr, *sum_ = nullptr;
};

// All rows of a matrix [N, columns].
MatrixRows rows_of(const Tensor& matrix, int64_t columns);

// In pairs, the state before each step and the step's dz: from h0 [B, H], hs and dz [T, B, H].
struct StepRows {
  MatrixRows before, after;
};
StepRows step_rows(const Tensor& h0, const Tensor& hs, const Tensor& dz, bool reverse);

// grad_W_hh [H, H] = sum_t h_{t-1}^T dz_t, or its transpose where the weights are, in a launch of
// its own, whose parts `sums` adds up, or by cuBLAS. h0, hs and dz are contiguous.
void weight_product(const Call& call, const Tensor& h0, const Tensor& hs, const Tensor& dz,
                    const RecurrenceOptions& options, const Tensor& grad_W_hh, PartSums& sums);

}  // namespace rnnfast::cuda
