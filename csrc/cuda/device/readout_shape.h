// How a variant of readout.cu divides its work, from its macros: for the device and for whoever
// launches it on the host. No includes: NVRTC compiles this file as well.
#pragma once

namespace rnnfast::cuda {

struct ReadoutShape {
  int columns;  // classes per lane: V is at most 32 of them
  int real_bytes;

  static constexpr int kRows = 8;  // of hs, which a block reads out at once
  static constexpr int kWarps = 8;
  static constexpr int kThreads = 32 * kWarps;

  constexpr int classes() const { return 32 * columns; }

  // Rows of W_hq in shared memory: the same 33 KB in every variant.
  constexpr int tile() const { return 1024 / (columns * real_bytes); }

  // One more than the classes: the lanes of a warp read a column without bank conflicts.
  constexpr int weights_stride() const { return classes() + 1; }

  // In Reals: hs, the warps' sums, the logits' gradient, the losses, W_hq.
  constexpr int shared_bytes() const {
    return real_bytes * (kRows * tile() + kWarps * kRows * classes() + kRows * classes() + kRows +
                         tile() * weights_stride());
  }

  constexpr bool is_valid() const {
    return (columns == 1 || columns == 2 || columns == 4) && (real_bytes == 4 || real_bytes == 8);
  }
};

}  // namespace rnnfast::cuda
