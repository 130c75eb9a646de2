// The PTX instructions that only large_batch.cu needs, each with its twin for the emulator
// (ptx.cuh has all others): float16 pairs, products of a warpgroup, copies between blocks.
#pragma once

#include "ptx.cuh"

namespace rnnfast::cuda {

// ---- float16, two in a register: the first in the low half

RF_DEVICE unsigned to_float16(float2 two) {
#ifdef RF_EMULATED
  return emulator::float16(two.x) | emulator::float16(two.y) << 16;
#else
  unsigned both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(two.y), "f"(two.x));
  return both;
#endif
}

RF_DEVICE float2 to_floats(unsigned both) {
#ifdef RF_EMULATED
  return make_float2(emulator::from_float16(both), emulator::from_float16(both >> 16));
#else
  float2 two;
  asm("{\n"
      ".reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.f32.f16 %0, low;\n"
      "cvt.f32.f16 %1, high;\n"
      "}"
      : "=f"(two.x), "=f"(two.y)
      : "r"(both));
  return two;
#endif
}

// ---- the largest of a warp (sm_80)

RF_DEVICE unsigned warp_max(unsigned value) {
#ifdef RF_EMULATED
  for (int bit = 16; bit >= 1; bit >>= 1) {
    const unsigned other = __shfl_xor_sync(~0u, value, bit);
    value = other > value ? other : value;
  }
  return value;
#else
  return __reduce_max_sync(~0u, value);
#endif
}

// ---- asynchronous copies from the block's shared memory to others' (sm_90)

// What this thread has written is seen by copies and by the tensor cores, once a barrier has
// ordered them after it.
RF_DEVICE void fence_async() {
#ifdef RF_EMULATED
  emulator::fence_async();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Of a multiple of 16 bytes; `barrier`, beside `to`, counts what has arrived.
RF_DEVICE void copy_to_block(ClusterAddress to, const void* from, int bytes,
                             ClusterAddress barrier) {
#ifdef RF_EMULATED
  emulator::copy_bulk(to, from, bytes, barrier);
#else
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(to),
      "r"(shared_address(from)), "r"(bytes), "r"(barrier)
      : "memory");
#endif
}

// The same to global memory, until wait_for_copies().
RF_DEVICE void copy_to_global(void* to, const void* from, int bytes) {
#ifdef RF_EMULATED
  emulator::copy_bulk_to_global(to, from, bytes);
#else
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
#endif
}

// What this thread has copied to global memory is there, and is seen by its copies from there.
RF_DEVICE void wait_for_copies() {
#ifdef RF_EMULATED
  emulator::wait_bulk_copies();
#else
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  asm volatile("fence.proxy.async;" ::: "memory");
#endif
}

// From global memory to this place in each of `blocks`, a bit for each rank of the cluster, where
// the mbarrier in that place counts what has arrived.
RF_DEVICE void copy_to_blocks(void* to, const void* from, int bytes, Mbarrier* barrier,
                              unsigned blocks) {
#ifdef RF_EMULATED
  emulator::multicast_bulk(to, from, bytes, barrier, blocks);
#else
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1], %2, [%3], %4;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier)), "h"(static_cast<unsigned short>(blocks))
      : "memory");
#endif
}

// ---- products of a warpgroup on the tensor cores (sm_90a)

// A matrix of float16 in shared memory, in core matrices of 8 rows by 8 k, 128 bytes each: from one
// to the next along k are `along_k` bytes, along the rows 128.
class CoreMatrices {
 public:
#ifdef RF_EMULATED
  RF_DEVICE CoreMatrices(const void* at, int along_k)
      : at_(static_cast<const unsigned char*>(at)), along_k_(along_k) {}
  RF_DEVICE CoreMatrices from(int bytes) const { return {at_ + bytes, along_k_}; }
  emulator::CoreMatrices twin() const { return {at_, along_k_}; }

 private:
  const unsigned char* at_;
  int along_k_;
#else
  RF_DEVICE CoreMatrices(const void* at, int along_k)
      : descriptor_(static_cast<unsigned long long>(shared_address(at) >> 4) |
                    static_cast<unsigned long long>(along_k >> 4) << 16 | 128ull >> 4 << 32) {}
  RF_DEVICE CoreMatrices from(int bytes) const {
    CoreMatrices moved = *this;
    moved.descriptor_ += static_cast<unsigned long long>(bytes >> 4);
    return moved;
  }
  RF_DEVICE unsigned long long descriptor() const { return descriptor_; }

 private:
  unsigned long long descriptor_;
#endif
};

#define RF_SUMS(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])

// D = A B + D, A [64, 16] float16 by rows, B [16, 2 kSums] float16, D float32, for all four warps
// of a warpgroup; D = A B where it is the `first` of a chain, for the compiler is free to clear d
// behind the fence, where a product must not find it. Lane 4g + q of warp w gives A[16 w + g][2q
// ..], A[16 w + g + 8][2q ..], the same two at 2q + 8 .., and has D[16 w + g][8 j + 2q ..] in d[4j
// .. 4j + 1], D[16 w + g + 8][...] in the two after. Rows of B^T from `real_rows` on may be
// anything: so are their sums. Neither d nor what the product reads may be touched before
// multiply_wait().
template <int kSums>
RF_DEVICE void multiply_async(float (&d)[kSums], const unsigned (&a)[4], CoreMatrices b,
                              [[maybe_unused]] int real_rows, bool first) {
#ifdef RF_EMULATED
  for (float& sum : d) sum = first ? 0.f : sum;
  emulator::wgmma(d, 2 * kSums, a, b.twin(), real_rows);
#else
  static_assert(kSums == 8 || kSums == 12 || kSums == 20);
  const int adds = !first;
  if constexpr (kSums == 8) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %13, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7}, {%8, "
        "%9, %10, %11}, %12, p, 1, 1, 0;\n"
        "}"
        : RF_SUMS(d, 0), RF_SUMS(d, 4)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor()), "r"(adds));
  } else if constexpr (kSums == 12) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %17, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n24k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
        "%9, %10, %11}, {%12, %13, %14, %15}, %16, p, 1, 1, 0;\n"
        "}"
        : RF_SUMS(d, 0), RF_SUMS(d, 4), RF_SUMS(d, 8)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor()), "r"(adds));
  } else {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %25, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n40k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
        "%9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19}, {%20, %21, %22, %23}, %24, p, 1, "
        "1, 0;\n"
        "}"
        : RF_SUMS(d, 0), RF_SUMS(d, 4), RF_SUMS(d, 8), RF_SUMS(d, 12), RF_SUMS(d, 16)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor()), "r"(adds));
  }
#endif
}

// The same with A from shared memory.
template <int kSums>
RF_DEVICE void multiply_async(float (&d)[kSums], CoreMatrices a, CoreMatrices b,
                              [[maybe_unused]] int real_rows, bool first) {
#ifdef RF_EMULATED
  for (float& sum : d) sum = first ? 0.f : sum;
  emulator::wgmma(d, 2 * kSums, a.twin(), b.twin(), real_rows);
#else
  static_assert(kSums == 8 || kSums == 12 || kSums == 20);
  const int adds = !first;
  if constexpr (kSums == 8) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %10, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7}, %8, "
        "%9, p, 1, 1, 0, 0;\n"
        "}"
        : RF_SUMS(d, 0), RF_SUMS(d, 4)
        : "l"(a.descriptor()), "l"(b.descriptor()), "r"(adds));
  } else if constexpr (kSums == 12) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %14, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n24k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
        "%9, %10, %11}, %12, %13, p, 1, 1, 0, 0;\n"
        "}"
        : RF_SUMS(d, 0), RF_SUMS(d, 4), RF_SUMS(d, 8)
        : "l"(a.descriptor()), "l"(b.descriptor()), "r"(adds));
  } else {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %22, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n40k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
        "%9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19}, %20, %21, p, 1, 1, 0, 0;\n"
        "}"
        : RF_SUMS(d, 0), RF_SUMS(d, 4), RF_SUMS(d, 8), RF_SUMS(d, 12), RF_SUMS(d, 16)
        : "l"(a.descriptor()), "l"(b.descriptor()), "r"(adds));
  }
#endif
}

#undef RF_SUMS

// Before the first product of a chain: registers written until here may be used by it.
RF_DEVICE void multiply_fence() {
#ifndef RF_EMULATED
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// All products of this warpgroup are in d.
template <int kCount>
RF_DEVICE void multiply_wait(float (&d)[kCount]) {
#ifdef RF_EMULATED
  emulator::wgmma_wait();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

}  // namespace rnnfast::cuda
