// Which kernels serve what a training step does beside the recurrence: by H, V and the device.
#pragma once

#include <cstdint>

#include "cuda/device/readout_shape.h"
#include "launch.h"

namespace rnnfast::cuda {

// What makes the gradient of W_hh.
enum class Product : int {
  kCublas,      // and kernels that sum its parts, where it chooses to
  kWithOthers,  // gradients.cu, in one launch with the gradients of all other weights
  kTensorCores  // weight_product.cu
};

// Up to here its multiplications take so little that a launch of their own would be most of it.
constexpr int64_t kMostUnitsWithOthers = 256;

// On these, tensor cores multiply TF32 more than three times as fast as other units float32, so
// that three products for one pay. By rows of 16 bytes.
inline bool has_tensor_product(int64_t H, int real_bytes, int device) {
  const int capability = limits_of(device).compute_capability;
  return real_bytes == 4 && H % 4 == 0 && (capability == 80 || capability == 90);
}

inline Product product_for(int64_t H, int real_bytes, int device) {
  if (H <= kMostUnitsWithOthers) return Product::kWithOthers;
  return has_tensor_product(H, real_bytes, device) ? Product::kTensorCores : Product::kCublas;
}

// Above, a block had to keep more of W_hq, or of sums by class, than shared memory has room for.
constexpr int64_t kMostClasses = 128;

inline bool has_few_classes(int64_t V) { return V <= kMostClasses; }

// Classes per lane of the one kernel for readout, loss and their gradients (readout.cu); 0: cuBLAS
// around a kernel for the loss.
inline int readout_columns(int64_t V, int real_bytes, int device) {
  if (!has_few_classes(V)) return 0;
  const int columns = V <= 32 ? 1 : V <= 64 ? 2 : 4;
  const int needed = ReadoutShape{columns, real_bytes}.shared_bytes();
  return needed <= limits_of(device).shared_bytes ? columns : 0;
}

}  // namespace rnnfast::cuda
