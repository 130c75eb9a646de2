// How a variant of recurrence.cu divides its work, from its macros: for the device and for whoever
// launches it on the host. No includes: NVRTC compiles this file as well.
#pragma once

namespace rnnfast::cuda {

enum ProductKind : int { kFfma = 0, kTf32 = 1 };  // RF_PRODUCT

// The members are the macros. A chunk is four consecutive k for each of a thread's columns.
struct RecurrenceShape {
  int hp, cluster, warps, rows;
  int smem_chunks, product;
  bool backward;

  constexpr bool on_tensor_cores() const { return product != kFfma; }
  constexpr int threads() const { return 32 * warps; }
  constexpr int block_columns() const { return hp / cluster; }
  constexpr int warp_columns() const { return block_columns() / warps; }

  // FFMA: the lanes of a warp share the sum over k, below H = 128 in several sets of columns.
  constexpr int k_lanes() const { return on_tensor_cores() || hp >= 128 ? 32 : hp / 4; }
  constexpr int lane_columns() const { return warp_columns() * k_lanes() / 32; }

  // Tensor cores: a warp has 16 columns and one of k_parts() parts of k, whose sums meet in shared
  // memory. A chunk is 16 k of 8 rows for the warp.
  constexpr int column_tiles() const { return block_columns() / 16; }
  constexpr int k_parts() const { return warps / column_tiles(); }

  constexpr int chunks() const {
    return on_tensor_cores() ? hp / k_parts() / 16 : hp / k_lanes() / 4;
  }
  constexpr int register_chunks() const { return chunks() - smem_chunks; }
  constexpr int chunk_columns() const { return on_tensor_cores() ? 2 : lane_columns(); }

  // Sums that a warp makes for one group of rows, and how its lanes own them. With fewer sums than
  // lanes that share them, several lanes hold each.
  constexpr int sums() const { return lane_columns() * rows; }
  constexpr int owners() const { return sums() < k_lanes() ? sums() : k_lanes(); }
  constexpr int copies() const { return k_lanes() / owners(); }
  constexpr int outputs() const { return sums() / owners(); }

  // Floats from one row of h to the next. The 16 spread the 8 rows that a tensor core's fragment
  // needs over all banks of the shared memory.
  constexpr int h_stride() const { return on_tensor_cores() ? hp + 16 : hp; }
  constexpr int partials_stride() const { return block_columns() + 4; }

  constexpr int inputs() const { return backward ? 2 : 1; }  // grad_hs and hs, or x

  // Shared memory: weights and partial sums, and what each group of rows needs.
  constexpr int weights_bytes() const { return smem_chunks * chunk_columns() * threads() * 16; }
  constexpr int partials_bytes() const {
    return on_tensor_cores() ? 2 * k_parts() * rows * partials_stride() * 4 : 0;
  }
  constexpr int h_bytes() const { return 2 * rows * h_stride() * 4; }
  constexpr int inputs_bytes() const { return 2 * inputs() * rows * block_columns() * 4; }
  constexpr int ids_bytes() const { return backward ? 0 : warps * 2 * rows * 8; }
  constexpr int group_bytes() const {
    return h_bytes() + inputs_bytes() + ids_bytes() + 2 * 8;  // 2 mbarriers
  }
  constexpr long long shared_bytes(int groups) const {
    return weights_bytes() + partials_bytes() + static_cast<long long>(groups) * group_bytes();
  }

  static constexpr bool is_power_of_2(int n) { return n > 0 && (n & (n - 1)) == 0; }

  constexpr bool is_valid() const {
    const bool padded = hp == 32 || hp == 64 || (hp > 0 && hp % 128 == 0);
    const bool clusters = is_power_of_2(cluster) && cluster <= 16;
    if (!padded || !clusters || warps < 1 || warps > 32 || !is_power_of_2(rows) || rows > 16 ||
        block_columns() % (4 * warps) != 0 || smem_chunks < 0 || product < kFfma ||
        product > kTf32) {
      return false;
    }
    // Every warp stages its inputs in pieces of four columns, and each lane has its own.
    if (!is_power_of_2(warp_columns() / 4) || warp_columns() > 128) return false;
    if (on_tensor_cores()) {
      if (hp < 64 || rows < 8 || block_columns() % 16 != 0 || warps % column_tiles() != 0 ||
          hp % (16 * k_parts()) != 0) {
        return false;
      }
    }
    return lane_columns() % 4 == 0 && is_power_of_2(sums()) && outputs() <= 4 &&
           register_chunks() >= 0;
  }
};

}  // namespace rnnfast::cuda
