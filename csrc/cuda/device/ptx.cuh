// Every PTX instruction that the kernels write out, each with its twin for the emulator on the CPU
// (RF_EMULATED, tests/support/emulator/cuda_cpu.h). large_batch_ptx.cuh has those that one kernel
// alone needs; no other file has inline assembly.
#pragma once

#define RF_DEVICE __device__ __forceinline__

namespace rnnfast::cuda {

// ---- shared memory

// The block's dynamic shared memory, aligned to 128 bytes.
RF_DEVICE unsigned char* dynamic_shared() {
#ifdef RF_EMULATED
  return emulator::shared();
#else
  extern __shared__ __align__(128) unsigned char shared_memory[];
  return shared_memory;
#endif
}

// A place in the shared memory of some block of the cluster.
#ifdef RF_EMULATED
using ClusterAddress = unsigned char*;
#else
using ClusterAddress = unsigned;
RF_DEVICE unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
#endif

// ---- values and order

// Keeps a value in a register, as something that only this line has computed: it is neither read
// anew from the kernel's parameters in each turn of a loop, nor is what follows from it kept
// instead.
RF_DEVICE int keep_in_register(int value) {
#ifndef RF_EMULATED
  asm volatile("" : "+r"(value));
#endif
  return value;
}
RF_DEVICE float keep_in_register(float value) {
#ifndef RF_EMULATED
  asm volatile("" : "+f"(value));
#endif
  return value;
}

RF_DEVICE long long keep_in_register(long long value) {
#ifndef RF_EMULATED
  asm volatile("" : "+l"(value));
#endif
  return value;
}

// The compiler moves no memory access across.
RF_DEVICE void keep_order() {
#ifndef RF_EMULATED
  asm volatile("" ::: "memory");
#endif
}

// ---- approximations of the special function unit: 2 and 1 units in the last place

RF_DEVICE float approximate_exp2(float x) {
#ifdef RF_EMULATED
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

RF_DEVICE float approximate_reciprocal(float x) {
#ifdef RF_EMULATED
  return 1.f / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// ---- clusters (sm_90)

RF_DEVICE unsigned cluster_rank() {
#ifdef RF_EMULATED
  return emulator::cluster_rank();
#else
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#endif
}

// All threads of the cluster have come here, and what they wrote is seen.
RF_DEVICE void cluster_barrier() {
#ifdef RF_EMULATED
  emulator::cluster_barrier();
#else
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The same in two halves: between them a thread goes on with what waits for nobody. What was read
// before is read; what was written may be seen later.
RF_DEVICE void cluster_arrive() {
#ifdef RF_EMULATED
  emulator::cluster_arrive();
#else
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
RF_DEVICE void cluster_wait() {
#ifdef RF_EMULATED
  emulator::cluster_wait();
#else
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The same place in the shared memory of another block of the cluster.
RF_DEVICE ClusterAddress in_block(const void* mine, unsigned rank) {
#ifdef RF_EMULATED
  return emulator::shared_of(mine, rank);
#else
  ClusterAddress address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(address)
      : "r"(shared_address(mine)), "r"(rank));
  return address;
#endif
}

// ---- mbarriers (sm_90: the transaction counts)

struct alignas(8) Mbarrier {
#ifdef RF_EMULATED
  emulator::Mbarrier state;
#else
  unsigned long long state;
#endif
};

RF_DEVICE void mbarrier_init(Mbarrier* barrier, unsigned count) {
#ifdef RF_EMULATED
  emulator::mbarrier_init(&barrier->state, count);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
#endif
}

// Before the cluster barrier that lets others use the new mbarriers.
RF_DEVICE void mbarrier_init_fence() {
#ifndef RF_EMULATED
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// One arrival; the phase also waits for this many bytes of asynchronous stores.
RF_DEVICE void mbarrier_expect(Mbarrier* barrier, int bytes) {
#ifdef RF_EMULATED
  emulator::mbarrier_arrive(&barrier->state, bytes);
#else
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
#endif
}

// Whether the phase of this parity is over; the hardware may wait a while before it says no.
//
// The default acquires for the block. With .acquire.cluster ptxas drops the whole L1 cache after
// each wait; what was waited for lies in shared memory, which has no such cache.
RF_DEVICE bool mbarrier_done(Mbarrier* barrier, unsigned parity) {
#ifdef RF_EMULATED
  return emulator::mbarrier_done(&barrier->state, parity);
#else
  unsigned done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
#endif
}

// ---- asynchronous stores into a block of the cluster, counted by an mbarrier there (sm_90)

RF_DEVICE void store_async(ClusterAddress to, float4 value, ClusterAddress barrier) {
#ifdef RF_EMULATED
  emulator::store_async(to, &value, sizeof value, barrier);
#else
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(to),
      "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w), "r"(barrier)
      : "memory");
#endif
}

// ---- asynchronous copies from global to shared memory (sm_80)

template <int kBytes>
RF_DEVICE void copy_async(void* to, const void* from) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#ifdef RF_EMULATED
  emulator::copy_async(to, from, kBytes);
#else
  if constexpr (kBytes == 16) {  // past the L1 cache: each value is read once
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(to)), "l"(from),
                 "n"(kBytes)
                 : "memory");
  }
#endif
}

// Of this thread's own copies: all are complete.
RF_DEVICE void wait_copies() {
#ifdef RF_EMULATED
  emulator::wait_copies(0);
#else
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// This thread's copies since the last call are one group.
RF_DEVICE void commit_copies() {
#ifdef RF_EMULATED
  emulator::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// ... all of its groups are complete, but for the last kGroups.
template <int kGroups>
RF_DEVICE void wait_copies_but() {
#ifdef RF_EMULATED
  emulator::wait_copies(kGroups);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

// ---- tensor cores (sm_80)

// D = A B + D by the whole warp, A [16, 8] by rows, B [8, 8] by columns, D [16, 8], in TF32: the
// low 13 bits of the factors are ignored. Lane 4g + q gives A[g][q], A[g+8][q], A[g][q+4],
// A[g+8][q+4], B[q][g], B[q+4][g] and has D[g][2q], D[g][2q+1], D[g+8][2q], D[g+8][2q+1].
RF_DEVICE void mma_tf32(float (&d)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
#ifdef RF_EMULATED
  emulator::mma_tf32(d, {{a0, a1, a2, a3}, {b0, b1}});
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)),
        "r"(__float_as_uint(a3)), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
#endif
}

}  // namespace rnnfast::cuda
