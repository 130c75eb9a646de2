// Which kernels serve what a training step does beside the recurrence: by H, V and the device.
#pragma once

#include <cstdint>

#include "cuda/device/readout_shape.h"
#include "launch.h"

namespace rnnfast::cuda {

struct TrainingChoice {
  // Classes per lane of the one kernel for readout, loss and their gradients (readout.cu); 0: two
  // products of cuBLAS with a kernel for the loss between them.
  int columns;
  // Whether gradients.cu makes the gradient of W_hh, too, and not cuBLAS.
  bool own_product;
};

// Up to here the product with all other gradients in one launch is predicted to take less than one
// by cuBLAS, which at H = 512 took twice the time of its multiplications on an H100 and often adds
// a launch that sums parts.
constexpr int64_t kMostUnitsOfOwnProduct = 256;

// Above, a block had to keep more of W_hq than shared memory has room for.
constexpr int64_t kMostClassesOfReadout = 128;

inline bool has_few_classes(int64_t V) { return V <= kMostClassesOfReadout; }
inline bool has_own_product(int64_t H) { return H <= kMostUnitsOfOwnProduct; }

inline TrainingChoice training_choice(int64_t H, int64_t V, int real_bytes, int device) {
  if (!has_few_classes(V)) return {0, false};
  const int columns = V <= 32 ? 1 : V <= 64 ? 2 : 4;
  const bool fits =
      ReadoutShape{columns, real_bytes}.shared_bytes() <= limits_of(device).shared_bytes;
  return {fits ? columns : 0, fits && has_own_product(H)};
}

}  // namespace rnnfast::cuda
