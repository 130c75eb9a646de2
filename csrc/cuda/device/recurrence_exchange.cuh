// How the blocks of a cluster give each other the new hidden state, and wait for it.
//
// h is kept twice, for odd and for even steps; each block has the whole h of its rows. For each
// group of rows and each of the two buffers a block has one mbarrier, full[g][b], whose phase ends
// when all bytes of that h have come. Each warp sends its columns of h_{s+1} with st.async to every
// block of the cluster, its own included; each warp waits for h_s once per step and group. There is
// no other synchronisation between blocks from the first step to the last.
//
// Why two buffers suffice. A part of h_{s+2} overwrites h_s in block c. Its sender has waited for
// h_{s+1}, of which every warp of c sends a part, and sends it only when it has read h_s: what it
// sends depends on what it read. So no read of h_s in c is left. This needs every warp to send in
// every step: warps whose columns are all padding send zeros.
//
// Why no phase is missed. By the same chain no byte of h_{s+2} comes to c before each warp of c has
// seen the phase of h_s end, and that of h_{s+2} cannot end before each warp of c has sent its
// parts of h_{s+1} and h_{s+2}: the parity never flips twice under a warp that waits.
//
// Thread 0 announces the bytes of h_{s+2} after its own wait for h_s. They may come earlier than
// that: the phase stays open, for one arrival is missing.
//
// No deadlock: each warp sends h_{s+1} unconditionally after its wait for h_s, h_0 lies there from
// the start, and the blocks of one cluster run at the same time by the rules of the launch. Where a
// wait passes its limit nevertheless, the warp goes through its remaining steps without waiting or
// sending, so that all warps meet at the barrier that ends the kernel, and the error is reported.
#pragma once

#include "recurrence_common.cuh"

namespace rnnfast::cuda {

class Exchange {
 public:
  static constexpr int kGroupBytes = kRows * kHp * 4;  // of h

  // `full` are the mbarriers, [groups][2]. `last` is the last state that is sent. The outputs of
  // this lane begin in `row` of a group and in `column` of h.
  RF_DEVICE Exchange(const Sequence& p, float* h, Mbarrier* full, int R, int groups, int last,
                     int row, int column, int lane, int rank)
      : h_(h), full_(full), limit_(p.wait_limit), error_(p.error), last_(last) {
    buffer_ = keep_in_register(R * kHp);
    part_ = row * kHp + column;
    part_ &= ~3;  // sent in fours
    if (threadIdx.x == 0) {
      for (int i = 0; i < 2 * groups; ++i) mbarrier_init(&full[i], 1);
      for (int g = 0; g < groups && last >= 1; ++g) mbarrier_expect(&full[2 * g + 1], kGroupBytes);
      mbarrier_init_fence();
    }
#pragma unroll
    for (int i = 0; i < kTargets; ++i) {  // each block begins at itself, which spreads the traffic
      const int block = first_target(lane) + i * kLanesPerValue;
      target_[i] = in_block(dynamic_shared(), (rank + block) % kCluster);
    }
  }

  // Turns to the first group of rows in step s. Returns h_s in this block.
  RF_DEVICE const float* begin_step(int s) {
    const int now = s & 1, next = now ^ 1;
    sends_ = running_ && s < last_;
    announces_ = running_ && threadIdx.x == 0 && s + 2 <= last_;
    arrived_ = full_ + now;
    parity_ = (s - 1) >> 1 & 1;  // s = 0: of the phase before the first, which is over
    to_ = next * buffer_ + part_;
    filled_ = next;
    return h_ + now * buffer_;
  }

  RF_DEVICE void next_group() {
    arrived_ += 2;
    filled_ += 2;
    to_ += kRows * kHp;
  }

  // Until all of h_s has come, for this group of rows.
  RF_DEVICE void wait() {
    if (running_ && !ends_in_time(arrived_, parity_, limit_, error_))
      running_ = sends_ = announces_ = false;
    if (announces_) mbarrier_expect(arrived_, kGroupBytes);
  }

  // This lane's outputs as a part of h_{s+1}.
  RF_DEVICE void send(const float (&v)[kOutputs]) const {
    const int lane = threadIdx.x & 31;
    const float4 four = gather_four(v, lane);
    if (!sends_) return;
    const unsigned to = offset(h_) + to_ * static_cast<unsigned>(sizeof(float));
    const unsigned filled = offset(full_) + filled_ * static_cast<unsigned>(sizeof(Mbarrier));
#pragma unroll
    for (int i = 0; i < kTargets; ++i) {
      if (kCluster % kLanesPerValue == 0 || first_target(lane) + i * kLanesPerValue < kCluster) {
        store_async(target_[i] + to, four, target_[i] + filled);
      }
    }
  }

 private:
  // Four consecutive columns go out together, from one of the lanes that have them after
  // gather_four(): each of those serves other blocks.
  static constexpr int kLanesPerValue = kShape.copies() * (4 / kOutputs);
  static constexpr int kTargets = (kCluster + kLanesPerValue - 1) / kLanesPerValue;

  RF_DEVICE static int first_target(int lane) {
    constexpr int kPerFour = 4 / kOutputs;
    return lane % kPerFour + kPerFour * (lane / kShape.owners());
  }

  RF_DEVICE static float4 gather_four(const float (&v)[kOutputs], int lane) {
    if constexpr (kOutputs == 1) {
      const int from = lane & ~3;
      return make_float4(__shfl_sync(kAllLanes, v[0], from), __shfl_sync(kAllLanes, v[0], from + 1),
                         __shfl_sync(kAllLanes, v[0], from + 2),
                         __shfl_sync(kAllLanes, v[0], from + 3));
    } else if constexpr (kOutputs == 2) {
      const int from = lane & ~1;
      return make_float4(__shfl_sync(kAllLanes, v[0], from), __shfl_sync(kAllLanes, v[1], from),
                         __shfl_sync(kAllLanes, v[0], from + 1),
                         __shfl_sync(kAllLanes, v[1], from + 1));
    } else {
      return make_float4(v[0], v[1], v[2], v[3]);
    }
  }

  RF_DEVICE static unsigned offset(const void* in_shared) {
    return static_cast<unsigned>(static_cast<const unsigned char*>(in_shared) - dynamic_shared());
  }

  float* h_;
  Mbarrier* full_;
  long long limit_;
  int* error_;
  int last_;
  int buffer_, part_;  // floats from one buffer to the other; from a group to this lane's outputs
  bool running_ = true;
  ClusterAddress target_[kTargets];
  // Of the group that it is at.
  bool sends_, announces_;
  Mbarrier* arrived_;
  unsigned parity_;
  int to_, filled_;
};

}  // namespace rnnfast::cuda
