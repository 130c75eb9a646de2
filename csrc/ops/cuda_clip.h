// The clip norm of gradients on a GPU, and SGD (cuda/device/clip_norm.cu): two launches, or one
// where the squares are known.
#pragma once

#include <optional>
#include <vector>

#include "cuda/device/params.h"
#include "cuda_call.h"
#include "torch/abi.h"
#include "torch/extents.h"

namespace rnnfast::cuda {

class ClipNorm {
 public:
  explicit ClipNorm(const Call& call) : call_(call) {}

  // A gradient of any strides, and where given the contiguous parameter that takes its step; the
  // gradient is contiguous then. Both are float32 or float64, of one shape.
  void add(const Tensor& gradient, const Tensor* parameter = nullptr);

  // norm (0-dim, float32 or float64) = the 2-norm of all gradients, which are scaled by d2l's rule
  // or torch's.
  void run(double max_norm, bool d2l, const Tensor& norm);

  // The gradients, the sum of whose squares is that of `squares` [n], are scaled by d2l's rule;
  // then parameter -= lr * gradient. Without squares nothing is scaled.
  void step(const std::optional<Tensor>& squares, double max_norm, double lr);

 private:
  // Of one launch, as both kernels take them.
  struct Table {
    GradientRows rows[kMostGradients];
    int num_rows = 0, num_chunks = 0;
    void append(const GradientRows& added);
  };

  void append(const GradientRows& rows);
  int blocks_of(const Table& table) const;
  void scale(ClipScaleParams params) const;
  template <class Params>
  void launch_with(const Table& table, const char* kernel, Params params) const;

  const Call& call_;
  std::vector<Table> tables_;
  std::vector<Extent> extents_;
};

}  // namespace rnnfast::cuda
