// How a variant of cluster.cu divides its work, from its macros: for the device and for whoever
// launches it on the host. No includes: NVRTC compiles this file as well.
#pragma once

namespace rnnfast::cuda {

// The members are the macros.
struct ClusterShape {
  int hp, cluster, rows;  // H padded; blocks, and batch rows, of a cluster
  int smem_chunks;        // of a thread's weights
  bool backward, leaky;

  // A warp has 8 columns, whose sums over k its lanes share: a lane has four k of each chunk.
  static constexpr int kWarpColumns = 8, kChunk = 128;
  constexpr int columns() const { return hp / cluster; }
  constexpr int threads() const { return columns() / kWarpColumns * 32; }
  constexpr int chunks() const { return hp / kChunk; }

  // Inputs are on their way for so many steps, ids for twice as many.
  static constexpr int kAhead = 8;
  constexpr int inputs() const { return backward ? 2 + leaky : 1; }

  // Shared memory: mbarriers, weights, h twice, and each thread's inputs and ids.
  constexpr int weights_at() const { return 16; }
  constexpr int state_at() const {
    return weights_at() + smem_chunks * kWarpColumns * threads() * 16;
  }
  constexpr int inputs_at() const { return state_at() + 2 * rows * hp * 4; }
  constexpr int ids_at() const { return inputs_at() + kAhead * inputs() * threads() * 4; }
  constexpr int shared_bytes() const {
    return ids_at() + (backward ? 0 : 2 * kAhead * threads() * 8);
  }

  constexpr bool is_valid() const {
    return hp > 0 && hp % kChunk == 0 &&
           (cluster == 2 || cluster == 4 || cluster == 8 || cluster == 16) &&
           columns() % kWarpColumns == 0 && threads() <= 512 &&
           (rows == 1 || rows == 2 || rows == 4) && smem_chunks >= 0 && smem_chunks <= chunks();
  }
};

}  // namespace rnnfast::cuda
