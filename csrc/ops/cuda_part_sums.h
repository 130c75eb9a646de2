// Sums of the parts that kernels leave, and the squares of all gradients for their norm, in one
// launch (cuda/device/sum_parts.cu). The same bits at every run.
#pragma once

#include <optional>
#include <vector>

#include "cuda/device/params.h"
#include "cuda_call.h"
#include "torch/abi.h"

namespace rnnfast::cuda {

class PartSums {
 public:
  PartSums(const Call& call, int32_t dtype) : call_(call), dtype_(dtype) {}

  // Memory for a kernel to leave [num_parts, out.numel()] in; out will be their sum. One part is
  // out itself.
  void* parts_of(const Tensor& out, int64_t num_parts, bool is_gradient = true);

  // What a kernel has left in `gradient` belongs to the norm as well.
  void add_to_norm(const Tensor& gradient) { parts_of(gradient, 1); }

  // `to` becomes `from`, after all else that was launched before.
  void copy(const Tensor& from, const Tensor& to);

  // Computes all that was added; kMostPartSums at most. Where wanted, returns the sums [grid] of
  // the squares of the gradients, float64.
  std::optional<Tensor> run(bool wants_squares);

 private:
  void append(const void* parts, int64_t num_parts, const Tensor& out, bool is_gradient);

  const Call& call_;
  int32_t dtype_;
  std::vector<PartSum> jobs_;
  std::vector<Tensor> parts_;
};

}  // namespace rnnfast::cuda
