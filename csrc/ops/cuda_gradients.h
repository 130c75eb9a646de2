// Gradients of weights as sums over the rows of all steps, in one launch (cuda/device/gradients.cu)
// and one more that adds up its parts. The same bits at every run.
#pragma once

#include <vector>

#include "cuda/device/params.h"
#include "cuda_call.h"
#include "cuda_direction.h"
#include "cuda_part_sums.h"
#include "torch/abi.h"

namespace rnnfast::cuda {

// The states of a call, contiguous, of one direction or both.
struct States {
  const Tensor& h0;                // [B, H]
  const Tensor& hs;                // [T, B, H]
  const Tensor* before = nullptr;  // as hs: those before each step, unless they are h0 and hs
};

class Gradients {
 public:
  // N: rows of every matrix. `sums` adds up what is left in parts.
  Gradients(const Call& call, int64_t N, int32_t dtype, PartSums& sums)
      : call_(call), N_(N), dtype_(dtype), sums_(sums) {}

  // grad_W_hh [H, H] = sum_t h_{t-1}^T dz_t, or its transpose where the weights are, of a
  // direction. A large one takes a launch of its own, at once.
  void add_recurrence(const Direction&, const States&, const Tensor& dz, bool transposed,
                      const Tensor& grad_W_hh);

  // out [I, J] = A^T B, with A [N, I] and B [N, J].
  void add_product(const MatrixRows& a, const MatrixRows& b, Tensor out);

  // table [V, C]: row v is the sum of the rows of x [N, C] whose id is v; ids [T, B].
  void add_table(const Tensor& x, const Tensor& ids, const Tensor& table);

  // sum, of C elements: of all rows of x [N, C], which is that of the table where there is one.
  void add_sum(const Tensor& x, const Tensor& sum);

  // Leaves all parts.
  void run();

 private:
  void take_rows(const Tensor& x, int64_t C);

  const Call& call_;
  int64_t N_;
  int32_t dtype_;
  PartSums& sums_;
  GradientsParams params_{};
  std::vector<Tensor> outs_;  // of the products
  const Tensor *table_ = nullptr, *sum_ = nullptr;
};

// All rows of a matrix [N, columns].
MatrixRows rows_of(const Tensor& matrix, int64_t columns);

}  // namespace rnnfast::cuda
