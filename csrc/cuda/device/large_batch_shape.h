// How a variant of large_batch.cu divides its work, from its macros: for the device and for whoever
// launches it on the host. No includes: NVRTC compiles this file as well.
#pragma once

namespace rnnfast::cuda {

// A block has 64 columns of W_hh, a cluster all of them. The members are the macros.
struct LargeBatchShape {
  int hp, cluster;  // H rounded up to 64 columns a block
  int rows;         // of the batch, at most, in a cluster
  int product;      // 1: as exact as TF32, 2: as exact as float32
  int buffers;      // for h: 2, or 1 where two leave no room for the rows
  int multicasts;   // 0: a block sends its part of h to each other block, 1: once to all of them

  static constexpr int kColumns = 64, kWarps = 16, kThreads = 512;
  static constexpr int kGroups = 4;  // of four warps, each with its own part of k
  static constexpr int kBarrierBytes = 256, kMostBytes = 227 * 1024;

  constexpr int sources() const { return cluster / kGroups; }  // blocks that feed a group's part

  // float16 numbers that a factor of a product is the sum of, and the rows of them that the tensor
  // cores multiply at once.
  constexpr int halves() const { return product; }
  constexpr int tile() const {
    const int needed = halves() * rows;
    return needed <= 16 ? 16 : needed <= 24 ? 24 : 40;
  }

  // The registers hold 64 float16 pairs of weights a thread. What is more lies in shared memory.
  constexpr bool low_in_shared() const { return halves() == 2 && hp > 512; }

  // h is kept as the tensor cores read it: units of 8 k, each with 16 bytes for each half of a row.
  // Where h lies twice, an odd number of them spreads the units over all banks of the shared
  // memory; where it lies once, there is no room for that.
  constexpr int unit_bytes(int rows) const { return (halves() * rows | (buffers - 1)) * 16; }
  // The part of h that a block makes, and a factor for each row.
  constexpr int slice_bytes(int rows) const {
    return kColumns / 8 * unit_bytes(rows) + (rows + 3) / 4 * 16;
  }

  // A slice for all goes to global memory, and from there to the others. It pays where 16 blocks
  // wait for large slices. A step of a prototype took so many cycles on an H100, and with a copy to
  // each: 6,008 and 7,367 (19 rows of two halves), 3,305 and 3,637 (19 of one), but 4,578 and 4,502
  // (10 of two), and in a cluster of 8 blocks 2,861 and 2,395 (18 of one).
  constexpr int scratch_bytes() const { return multicasts * buffers * slice_bytes(rows); }

  // Floats from one row of partial sums to the next: those that write meet on no bank, or where h
  // lies once on two.
  constexpr int partials_stride() const { return kColumns + 4 * (buffers == 1 ? 1 : halves()); }

  // Shared memory: mbarriers, the columns' maxima, low halves of weights, partial sums, h, and
  // what the tensor cores read past the last row.
  constexpr int maxima_at() const { return kBarrierBytes; }
  constexpr int low_at() const { return maxima_at() + kColumns * 4; }
  constexpr int partials_at() const { return low_at() + (low_in_shared() ? hp * kColumns * 2 : 0); }
  constexpr int state_at() const { return partials_at() + kGroups * rows * partials_stride() * 4; }
  constexpr int shared_bytes() const {
    return state_at() + buffers * cluster * slice_bytes(rows) + (tile() - halves() * rows) * 16;
  }

  constexpr bool is_valid() const {
    return (cluster == 4 || cluster == 8 || cluster == 16) && hp == kColumns * cluster &&
           (product == 1 || product == 2) && rows > 0 && halves() * rows <= 40 &&
           (buffers == 1 || buffers == 2) && (multicasts == 0 || multicasts == 1) &&
           shared_bytes() <= kMostBytes;
  }
};

}  // namespace rnnfast::cuda
