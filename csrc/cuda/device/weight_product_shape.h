// How weight_product.cu divides its work: for the device and for whoever launches it on the host.
// No includes: NVRTC compiles this file as well.
#pragma once

namespace rnnfast::cuda {

struct WeightProductShape {
  static constexpr int kThreads = 256;
  static constexpr int kRows = 32;   // of both factors in shared memory, and as many on their way
  static constexpr int kSide = 128;  // of a block's part of the product

  // The four rows that a warp reads at once begin in banks 0, 8, 16 and 24.
  static constexpr int kStride = kSide + 8;

  static constexpr int shared_bytes() { return 2 * 2 * kRows * kStride * 4; }
};

}  // namespace rnnfast::cuda
