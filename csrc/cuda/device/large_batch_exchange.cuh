// How the blocks of a cluster give each other the new h, and wait for it.
//
// h is kept twice, for odd and for even steps, or once where that leaves room for more rows; each
// block has the whole h of its rows. When a block has its slice of h_{s+1} together, it sends it to
// each other block as one bulk copy, or where it multicasts, as one to a place in global memory
// (which stays in the L2 cache; there is one for each buffer) and one from there to all others. For
// each buffer and each other block there is one mbarrier, full[buffer][source], whose phase ends
// when that slice has come. Of the four groups of warps each waits for the slices that it
// multiplies. With two buffers there is no other synchronisation between blocks from the first step
// to the last.
//
// Why two buffers suffice. A slice of h_{s+2} overwrites one of h_s in block c. Its sender has
// waited for all slices of h_{s+1}, that of c among them, which c sends after the barrier of the
// block behind which all its warps have read h_s. For the same reason the slice of h_s that a block
// still copies from, in shared or in global memory, is not overwritten: the block writes its part
// of h_{s+2} when it has all of h_{s+1}, and its senders had received h_s before they sent that.
//
// Why one buffer suffices. In each step all threads of the cluster arrive at a barrier when they
// have read all that they need of h_s, and wait there before they write h_{s+1}. What a block then
// overwrites, its own slice of h_s, in shared memory and in global memory, is not copied from any
// more, for who has multiplied h_s has received it. Between the two halves of the barrier a thread
// computes tanh.
//
// Why no phase is missed. No byte of the next state in the same buffer comes to c before each warp
// of c has come to that barrier, and so has seen the phase of h_s end: the parity never flips twice
// under a warp that waits.
//
// One lane announces the bytes of that state after its own wait for h_s. They may come earlier than
// that: the phase stays open, for one arrival is missing.
//
// What threads write the copies read through another proxy: fence_async() of the writers and then a
// barrier of the block stand between them, and also before the block's own products. One thread
// asks for both copies by way of global memory: it waits until the first has written all, which its
// fence then shows to the second.
//
// No deadlock: each block sends h_{s+1} unconditionally after its waits for h_s, h_0 lies there
// from the start, and the blocks of one cluster run at the same time by the rules of the launch.
// Where a wait passes its limit nevertheless, the warp goes through its remaining steps without
// waiting or sending, so that all meet at the barriers of the block, and the error is reported.
#pragma once

#include "large_batch_state.cuh"

namespace rnnfast::cuda {

class Exchange {
 public:
  // `last` is the last state that is sent.
  RF_DEVICE Exchange(const Sequence& p, const State& state, int rank, int last)
      : state_(state),
        scratch_(p.scratch),
        limit_(p.wait_limit),
        error_(p.error),
        rank_(rank),
        last_(last) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kBuffers * kCluster; ++i) {
        mbarrier_init(full(0, i), 1);
        mbarrier_expect(full(0, i), state.slice_bytes());
      }
      mbarrier_init_fence();
    }
  }

  // Until the slice of h_s from this block has come.
  RF_DEVICE void wait(int s, int source) {
    if (s == 0 || source == rank_) return;
    Mbarrier* arrived = full(s, source);
    if (running_ && !ends_in_time(arrived, (s - 1) >> (kBuffers - 1) & 1, limit_, error_))
      running_ = false;
    const bool announces = threadIdx.x % 128 == 0 && s + kBuffers <= last_;
    if (running_ && announces) mbarrier_expect(arrived, state_.slice_bytes());
  }

  // This thread reads nothing of h_s any more.
  RF_DEVICE void release(int s) const {
    if (kBuffers == 1 && s < last_) cluster_arrive();
  }

  // Until h_{s+1} may be written: with one buffer, where all threads of the cluster have read h_s.
  RF_DEVICE void wait_for_room(int s) const {
    if (kBuffers == 1 && s < last_) cluster_wait();
  }

  // The slice of h_{s+1}, when all of the block have written it and passed a barrier.
  RF_DEVICE void send(int s) const {
    // Not kept from step to step: W_hh fills the registers.
    const int warp = keep_in_register(static_cast<int>(threadIdx.x >> 5));
    constexpr int kSenders = kShape.multicasts ? 1 : kCluster - 1;
    if (!running_ || s >= last_ || warp >= kSenders || threadIdx.x % 32 != 0) return;
    unsigned char* slice = state_.slice(s + 1, rank_);
    if constexpr (kShape.multicasts) {
      send_to_all(slice, full(s + 1, rank_), s + 1 & (kBuffers - 1));
    } else {
      send_to_one(slice, full(s + 1, rank_), warp);
    }
  }

 private:
  RF_DEVICE void send_to_all(unsigned char* slice, Mbarrier* arrives, int buffer) const {
    const unsigned others = ((1u << kCluster) - 1) & ~(1u << rank_);
    const int bytes = state_.slice_bytes();
    const long long block = keep_in_register(static_cast<int>(blockIdx.x));
    unsigned char* scratch = scratch_ + (block * kBuffers + buffer) * bytes;
    copy_to_global(scratch, slice, bytes);
    wait_for_copies();
    copy_to_blocks(slice, scratch, bytes, arrives, others);
  }

  // Each of the first warps serves one block; each block begins behind itself, which spreads the
  // traffic.
  RF_DEVICE void send_to_one(const unsigned char* slice, Mbarrier* arrives, int warp) const {
    const unsigned block = (rank_ + 1 + warp) % kCluster;
    copy_to_block(in_block(slice, block), slice, state_.slice_bytes(), in_block(arrives, block));
  }

  RF_DEVICE static Mbarrier* full(int s, int source) {
    return reinterpret_cast<Mbarrier*>(dynamic_shared()) + (s & (kBuffers - 1)) * kCluster + source;
  }

  const State& state_;
  unsigned char* scratch_;
  long long limit_;
  int* error_;
  int rank_, last_;
  bool running_ = true;
};

}  // namespace rnnfast::cuda
