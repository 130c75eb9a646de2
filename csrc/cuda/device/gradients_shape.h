// How gradients.cu divides its work: for the device and for whoever launches it on the host. No
// includes: NVRTC compiles this file as well.
#pragma once

namespace rnnfast::cuda {

struct GradientsShape {
  int real_bytes;

  static constexpr int kThreads = 256;
  static constexpr int kRows = 32;  // in shared memory at once
  static constexpr int kSide = 64;  // of a block's part of a product

  // Classes of a block's part of the sums by class, which is kThreads columns wide.
  constexpr int classes() const { return 128 / real_bytes; }

  // Two pieces of kRows x kSide Reals, or the sums by class and the classes of kRows rows.
  constexpr int shared_bytes() const { return real_bytes * classes() * kThreads + 4 * kRows; }
};

}  // namespace rnnfast::cuda
