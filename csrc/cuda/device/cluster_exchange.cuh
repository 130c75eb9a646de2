// How the blocks of a cluster give each other the new h, and wait for it.
//
// h is kept twice, for odd and for even steps; each block has the whole h of its rows. The owners
// of a block's outputs write its part of h_{s+1} into its own buffer; behind a barrier of the block
// all its threads send that part to the other blocks with st.async, 16 bytes each, side by side for
// one block after the other. For each buffer a block has one mbarrier, full[b], whose phase ends
// when the parts of all other blocks have come; each warp waits for h_s once per step.
//
// Why two buffers suffice. A part of h_{s+2} overwrites h_s in block c. Its sender has waited for
// h_{s+1}, of which c sends a part, and c does so behind the barrier at which all its warps have
// read h_s. The same barrier stands between the reads of h_s in c and c's own part of h_{s+2}.
//
// Why no phase is missed. By the same chain no byte of h_{s+2} comes to c before each warp of c has
// seen the phase of h_s end: the parity never flips twice under a warp that waits.
//
// Thread 0 announces the bytes of h_{s+2} after its own wait for h_s. They may come earlier than
// that: the phase stays open, for one arrival is missing.
//
// No deadlock: each block sends h_{s+1} unconditionally after its wait for h_s, h_0 lies there from
// the start, and the blocks of one cluster run at the same time by the rules of the launch. Lengths
// and resets change what is sent, but all blocks take as many steps and send in each. Where a
// wait passes its limit nevertheless, the warp goes through its remaining steps without waiting or
// sending, so that all meet at the barriers of the block, and the error is reported.
#pragma once

#include "cluster_product.cuh"

namespace rnnfast::cuda {

class Exchange {
 public:
  // `last` is the last state that is sent.
  RF_DEVICE Exchange(const Sequence& p, int rank, int last)
      : limit_(p.wait_limit), error_(p.error), last_(last) {
    if (threadIdx.x == 0) {
      for (int b = 0; b < 2; ++b) {
        mbarrier_init(full(b), 1);
        mbarrier_expect(full(b), kBytes);
      }
      mbarrier_init_fence();
    }
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int vector = (threadIdx.x + i * kThreads) % kVectors;
      part_[i] = vector / (kColumns / 4) * kHp + rank * kColumns + vector % (kColumns / 4) * 4;
      target_[i] = in_block(dynamic_shared(), (rank + peer(i)) % kCluster);
    }
  }

  RF_DEVICE static float* state(int s) {
    return reinterpret_cast<float*>(dynamic_shared() + kShape.state_at()) + (s & 1) * kRows * kHp;
  }

  // Until all of h_s has come.
  RF_DEVICE void wait(int s) {
    if (s == 0) return;
    if (running_ && !ends_in_time(full(s & 1), (s - 1) >> 1 & 1, limit_, error_)) running_ = false;
    if (running_ && threadIdx.x == 0 && s + 2 <= last_) mbarrier_expect(full(s & 1), kBytes);
  }

  // This block's part of h_{s+1}, which all of it have written before a barrier.
  RF_DEVICE void send(int s) const {
    if (!running_ || s >= last_) return;
    const float* from = state(s + 1);
    const unsigned barrier = offset(full(~s & 1));
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (peer(i) >= kCluster) continue;
      const float4 part = *reinterpret_cast<const float4*>(from + part_[i]);
      store_async(target_[i] + offset(from + part_[i]), part, target_[i] + barrier);
    }
  }

 private:
  static constexpr int kVectors = kRows * kColumns / 4;  // of 16 bytes, in a block's part
  static constexpr int kBytes = kVectors * 16 * (kCluster - 1);
  static constexpr int kTurns = (kVectors * (kCluster - 1) + kThreads - 1) / kThreads;

  // How many blocks behind this one the target of turn i is.
  RF_DEVICE static int peer(int i) {
    return 1 + (static_cast<int>(threadIdx.x) + i * kThreads) / kVectors;
  }

  RF_DEVICE static Mbarrier* full(int buffer) {
    return reinterpret_cast<Mbarrier*>(dynamic_shared()) + buffer;
  }
  RF_DEVICE static unsigned offset(const void* in_shared) {
    return static_cast<unsigned>(static_cast<const unsigned char*>(in_shared) - dynamic_shared());
  }

  long long limit_;
  int* error_;
  int last_;
  bool running_ = true;
  int part_[kTurns];  // floats from the beginning of h
  ClusterAddress target_[kTurns];
};

}  // namespace rnnfast::cuda
