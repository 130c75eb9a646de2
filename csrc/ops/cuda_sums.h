// Sums of rows by class on a GPU, several of them in one launch (cuda/row_sums.cu): the gradients
// of biases and of a table of which rows were gathered. The same bits at every run.
#pragma once

#include <vector>

#include "cuda/device/params.h"
#include "cuda_call.h"
#include "cuda_part_sums.h"
#include "torch/abi.h"

namespace rnnfast::cuda {

class RowSumJobs {
 public:
  RowSumJobs(const Call& call, int32_t dtype) : call_(call), dtype_(dtype), parts_(call, dtype) {}

  // out [C] = the sum of all N rows of x [N, C].
  void add(const Tensor& x, int64_t N, int64_t C, const Tensor& out);

  // out [V, C]: row v is the sum of the rows of x [T * B, C] whose id is v; ids [T, B].
  void add(const Tensor& x, int64_t C, const Tensor& ids, int64_t V, const Tensor& out);

  // Computes all that was added; kMostRowSums at most.
  void run();

 private:
  void add(RowSums sums, const Tensor& out);

  const Call& call_;
  int32_t dtype_;
  std::vector<RowSums> jobs_;
  PartSums parts_;  // of jobs whose rows are summed in slices
};

}  // namespace rnnfast::cuda
