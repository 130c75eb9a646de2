// How a variant of recurrence.cu divides its work, from its macros: for the device and for whoever
// launches it on the host. No includes: NVRTC compiles this file as well.
#pragma once

namespace rnnfast::cuda {

// The members are the macros. A chunk is four consecutive k for each of a thread's columns.
struct RecurrenceShape {
  int hp, cluster, warps, rows;
  int smem_chunks;
  bool backward;

  constexpr int threads() const { return 32 * warps; }
  constexpr int block_columns() const { return hp / cluster; }

  // The lanes of a warp share the sums over k of its columns.
  constexpr int warp_columns() const { return block_columns() / warps; }
  constexpr int chunks() const { return hp / 128; }
  constexpr int register_chunks() const { return chunks() - smem_chunks; }

  // Sums that a warp makes for one group of rows, and how its lanes own them. With fewer sums than
  // lanes, several lanes hold each.
  constexpr int sums() const { return warp_columns() * rows; }
  constexpr int owners() const { return sums() < 32 ? sums() : 32; }
  constexpr int copies() const { return 32 / owners(); }
  constexpr int outputs() const { return sums() / owners(); }

  constexpr int inputs() const { return backward ? 2 : 1; }  // grad_hs and hs, or x

  // Shared memory: weights, and what each group of rows needs.
  constexpr int weights_bytes() const { return smem_chunks * warp_columns() * threads() * 16; }
  constexpr int h_bytes() const { return 2 * rows * hp * 4; }
  constexpr int inputs_bytes() const { return 2 * inputs() * rows * block_columns() * 4; }
  constexpr int ids_bytes() const { return backward ? 0 : warps * 2 * rows * 8; }
  constexpr int group_bytes() const {
    return h_bytes() + inputs_bytes() + ids_bytes() + 2 * 8;  // 2 mbarriers
  }
  constexpr long long shared_bytes(int groups) const {
    return weights_bytes() + static_cast<long long>(groups) * group_bytes();
  }

  static constexpr bool is_power_of_2(int n) { return n > 0 && (n & (n - 1)) == 0; }

  constexpr bool is_valid() const {
    const bool clusters = is_power_of_2(cluster) && cluster > 1 && cluster <= 16;
    if (hp <= 0 || hp % 128 != 0 || !clusters || warps < 1 || warps > 32 || !is_power_of_2(rows) ||
        rows > 16 || block_columns() % (4 * warps) != 0) {
      return false;
    }
    // Every warp stages its inputs in pieces of four columns, and each lane has its own.
    return is_power_of_2(warp_columns() / 4) && warp_columns() <= 128 && outputs() <= 4 &&
           smem_chunks >= 0 && register_chunks() >= 0;
  }
};

}  // namespace rnnfast::cuda
