// How a variant of decode.cu divides its work, and what it keeps in shared memory: for the device
// and for whoever launches it on the host. No includes: NVRTC compiles this file as well.
#pragma once

namespace rnnfast::cuda {

// The members are the macros RF_HP, RF_CLUSTER, RF_WARPS, RF_ROWS, RF_SMEM_CHUNKS. A chunk is four
// consecutive k of a thread's column.
struct DecodeShape {
  int hp;  // 0: W_hh is streamed, for any H
  int cluster, warps, rows, smem_chunks;

  constexpr bool is_streamed() const { return hp == 0; }
  constexpr int threads() const { return 32 * warps; }

  // Of a resident W_hh: a warp's columns, over how many lanes each one's k are spread, in chunks.
  constexpr int warp_columns() const { return hp / cluster / warps; }
  constexpr int k_lanes() const { return 32 / warp_columns(); }
  constexpr int chunks() const { return hp / (4 * k_lanes()); }
  constexpr int register_chunks() const { return chunks() - smem_chunks; }

  static constexpr bool is_power_of_2(int n) { return n > 0 && (n & (n - 1)) == 0; }
  constexpr bool is_valid() const {
    if (!is_power_of_2(cluster) || cluster > 16 || warps < 1 || warps > 32 || rows < 1)
      return false;
    if (is_streamed()) return smem_chunks == 0;
    if (hp % (cluster * warps) != 0 || !is_power_of_2(warp_columns()) || warp_columns() > 32) {
      return false;
    }
    return hp / cluster % 4 == 0 && hp % (4 * k_lanes()) == 0 && smem_chunks >= 0 &&
           register_chunks() >= 0;
  }
};

// Byte offsets in the shared memory of a block.
struct DecodeLayout {
  int hidden;      // H, padded: the row stride of h
  int columns;     // of h that this block computes
  int classes;     // whose logits this block computes, a multiple of 4
  int vocabulary;  // V, padded to 4: the row stride of the logits

  long long h;        // [2, rows, hidden]: for even and for odd steps
  long long logits;   // [rows, vocabulary]
  long long z;        // [2, rows, columns]: h W_hh, for even and for odd steps
  long long bias;     // [columns]
  long long weights;  // [smem_chunks, threads] of float4
  long long full;     // two mbarriers: all of h has come, all logits have come
  long long ids;      // [2, rows]: the inputs of even and of odd steps
  long long inputs;   // [V, columns]: this block's columns of W_xh, if it holds the tables
  long long readout;  // [H, readout_stride]: this block's columns of W_hq, if it holds the tables
  int readout_stride;
  long long bytes;

  constexpr DecodeLayout(DecodeShape shape, long long H, long long V, bool holds_tables)
      : hidden(shape.is_streamed() ? static_cast<int>(round_up(H, 4 * shape.cluster)) : shape.hp),
        columns(hidden / shape.cluster),
        classes(static_cast<int>(round_up((V + shape.cluster - 1) / shape.cluster, 4))),
        vocabulary(static_cast<int>(round_up(V, 4))),
        h(0),
        logits(h + 2ll * shape.rows * hidden * 4),
        z(logits + 1ll * shape.rows * vocabulary * 4),
        bias(z + 2ll * shape.rows * columns * 4),
        weights(bias + columns * 4ll),
        full(weights + 16ll * shape.smem_chunks * shape.threads()),
        ids(full + 16),
        inputs(ids + 16ll * shape.rows),
        readout(inputs + (holds_tables ? V * columns * 4 : 0)),
        // an odd number of float4: eight lanes that read one each touch all banks once
        readout_stride(classes / 4 % 2 == 1 ? classes : classes + 4),
        bytes(readout + (holds_tables ? H * readout_stride * 4 : 0)) {}

  static constexpr long long round_up(long long n, long long to) { return (n + to - 1) / to * to; }
};

}  // namespace rnnfast::cuda
