// Generation: each step's choice is the next step's input. All steps in one launch; the host sees
// only the finished ids.
//
// One cluster of blocks runs RF_ROWS sequences. Each block computes its share of the columns of h
// and, when it has all of h, its share of the logits; each share goes to every block of the
// cluster, and then every block makes the same choice for itself. So a step exchanges twice, and
// while the logits are under way h W_hh of the next step is computed, which needs no id.
//
// Macros, given with -D (decode_shape.h says what is valid):
//   RF_HP           H rounded up, for W_hh held on the chip; 0: streamed from the L2 cache, any H
//   RF_CLUSTER      blocks per cluster: 1 (any device), 2, 4, 8, 16 (sm_90 and newer)
//   RF_WARPS        warps per block
//   RF_ROWS         sequences per cluster
//   RF_SMEM_CHUNKS  of each thread's weights, the float4 in shared memory; all others in registers
//   RF_HOLDS_TABLES 1: each block keeps its columns of W_xh and W_hq in shared memory; 0: in L2
//   RF_CELL         a code of csrc/cells/cells.h
// Launch: grid ceil(B / RF_ROWS) * RF_CLUSTER, block 32 * RF_WARPS, DecodeLayout.bytes of shared
// memory.
//
// Why the exchange is safe. Step t: every block computes its part of h_{t+1} from h_t and id_t and
// sends it (advance); has all of h_{t+1}; sends its logits; has all logits; chooses id_{t+1}; a
// barrier of the block ends the step. Only some blocks have logits to send where V is small.
//
// h: who sends a part of h_{t+2} to block c has ended step t, so some block has sent logits of step
// t, which needs c's part of h_{t+1}, sent in its step t. All reads of h_t in c belong to its step
// t-1, and h_{t+2} is written where h_t was: two buffers.
//
// Logits: who sends those of step t+1 to c has c's part of h_{t+2}, sent in its step t+1. All reads
// of the logits of step t belong to c's step t: one buffer.
//
// h W_hh and ids: a block may have all of h_{t+1}, even all logits, while some of its threads still
// send their part of h_{t+1} to other blocks, so what advance reads is not overwritten within the
// step: two buffers.
//
// Mbarriers: no phase ends before c has sent its part of h in that step, so none ends twice while a
// thread of c waits. Bytes may come before they are announced: the phase stays open, for one
// arrival is missing.
//
// No block waits for anything but these, and the blocks of a cluster run at the same time, so all
// waits end; one that passes its limit ends the kernel with an error at the end of the step.
#include "decode_choice.cuh"
#include "decode_products.cuh"
#include "number_math.cuh"
#include "params.h"

namespace rnnfast::cuda {

constexpr bool kShares = RF_CLUSTER > 1;

using Activation = cells::ActivationOf<RF_CELL>::type;

class Decoder {
 public:
  __device__ Decoder(const DecodeParams& p)
      : p_(p),
        layout_(kShape, p.H, p.V, RF_HOLDS_TABLES),
        rank_(kShares ? static_cast<int>(cluster_rank()) : 0),
        H_(static_cast<int>(p.H)),
        V_(static_cast<int>(p.V)),
        first_column_(rank_ * layout_.columns),
        first_class_(rank_ * layout_.classes),
        first_row_(static_cast<long long>(blockIdx.x) / RF_CLUSTER * kRows),
        product_(p.W_hh, H_, first_column_, at<float4>(layout_.weights)) {}

  __device__ void run() {
    load();
    bool expired = false;
    for (long long step = 0; step < p_.steps; ++step) {
      const bool goes_on = step + 1 < p_.steps;
      advance(step);
      expired = expired || !wait(kHidden, step);
      read_out(step);
      if (goes_on) product_.multiply(h(step + 1), z(step + 1), layout_.columns);
      expired = expired || !wait(kLogits, step);
      choose(step);
      if (__syncthreads_or(expired)) break;
    }
    if (kShares) cluster_barrier();  // no block leaves while another could still address it
    store_last();
  }

 private:
  enum Exchanged { kHidden = 0, kLogits = 1 };

  template <class Value>
  __device__ Value* at(long long offset) const {
    return reinterpret_cast<Value*>(dynamic_shared() + offset);
  }
  __device__ float* h(long long step) const {
    return at<float>(layout_.h) + (step % 2) * kRows * layout_.hidden;
  }
  __device__ float* z(long long step) const {
    return at<float>(layout_.z) + (step % 2) * kRows * layout_.columns;
  }
  __device__ long long* ids(long long step) const {
    return at<long long>(layout_.ids) + step % 2 * kRows;
  }
  __device__ Mbarrier* full(Exchanged what) const { return at<Mbarrier>(layout_.full) + what; }
  __device__ int bytes_of(Exchanged what) const {
    return 4 * kRows * (what == kHidden ? layout_.hidden : layout_.vocabulary);
  }

  // State, first ids, this block's part of the weights that lie in shared memory; h_0 W_hh.
  __device__ void load() {
    for (int i = threadIdx.x; i < kRows * layout_.hidden; i += kThreads) {
      const int r = i / layout_.hidden, c = i % layout_.hidden;
      h(0)[i] = exists(r) && c < H_ ? p_.h0[(first_row_ + r) * H_ + c] : 0.0f;
    }
    for (int c = threadIdx.x; c < layout_.columns; c += kThreads) {
      at<float>(layout_.bias)[c] = first_column_ + c < H_ ? p_.b_h[first_column_ + c] : 0.0f;
    }
    for (int r = threadIdx.x; r < kRows; r += kThreads) {
      ids(0)[r] = exists(r) ? checked(p_.first[first_row_ + r]) : 0;
      ids(1)[r] = 0;  // what stays where no sequence is
    }
    if (RF_HOLDS_TABLES) {
      hold(p_.W_xh, V_, H_, first_column_, layout_.columns, layout_.inputs);
      hold(p_.W_hq, H_, V_, first_class_, layout_.readout_stride, layout_.readout);
    }
    if (kShares && threadIdx.x == 0) {
      open(kHidden);
      open(kLogits);
      mbarrier_init_fence();
    }
    __syncthreads();
    product_.multiply(h(0), z(0), layout_.columns);
    if constexpr (kShares) {
      cluster_barrier();
    } else {
      __syncthreads();
    }
  }

  // Columns [first, first + count) of a [rows, columns] matrix to shared memory, 0 beyond the last.
  __device__ void hold(const float* matrix, int rows, int columns, int first, int count,
                       long long offset) const {
    const int total = rows * count;
    for (int i = threadIdx.x; i < total; i += kThreads) {
      const int row = i / count, c = first + i % count;
      at<float>(offset)[i] = c < columns ? matrix[static_cast<long long>(row) * columns + c] : 0.0f;
    }
  }

  __device__ bool exists(int r) const { return first_row_ + r < p_.B; }

  __device__ long long checked(long long id) const {
    if (id >= 0 && id < V_) return id;
    report(p_.error, kErrorId);
    return 0;
  }

  // h_{t+1} of this block's columns, four per thread, to every block of the cluster.
  __device__ void advance(long long step) const {
    const int fours = layout_.columns / 4, values = kRows * fours;
    for (int i = threadIdx.x; i < values * RF_CLUSTER; i += kThreads) {
      const int r = i % values / fours, c = i % fours * 4;
      float* to = h(step + 1) + r * layout_.hidden + first_column_ + c;
      send(to, next_state(step, r, c), i / values, kHidden);
    }
  }

  static __device__ float act(float z) { return Activation::of<NumberMath<float>>(z); }

  __device__ float4 next_state(long long step, int r, int c) const {
    const float4 h_W = *reinterpret_cast<const float4*>(z(step) + r * layout_.columns + c);
    const float4 b = *at<const float4>(layout_.bias + 4ll * c);
    const long long id = ids(step)[r];
    float4 u;
    if constexpr (RF_HOLDS_TABLES) {
      u = *at<const float4>(layout_.inputs + 4 * (id * layout_.columns + c));
    } else {
      u = FourOf(p_.W_xh, H_, first_column_ + c)(id);
    }
    // Padding stays 0 whatever the real columns hold: infinity times its weights, 0, is NaN.
    const int exist = H_ - first_column_ - c;
    const auto unit = [&](int i, float z) { return i < exist ? act(z) : 0.0f; };
    return make_float4(unit(0, u.x + h_W.x + b.x), unit(1, u.y + h_W.y + b.y),
                       unit(2, u.z + h_W.z + b.z), unit(3, u.w + h_W.w + b.w));
  }

  // The logits of this block's classes, four per warp, to every block of the cluster.
  __device__ void read_out(long long step) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int v = 4 * warp; v < layout_.classes && first_class_ + v < V_; v += 4 * RF_WARPS) {
      float4 logits[kRows];
      if constexpr (RF_HOLDS_TABLES) {
        const float* W_hq = at<const float>(layout_.readout) + v;
        const int stride = layout_.readout_stride;
        const auto load = [&](int k) {
          return *reinterpret_cast<const float4*>(W_hq + k * stride);
        };
        four_columns(h(step + 1), layout_.hidden, H_, load, logits);
      } else {
        const FourOf load(p_.W_hq, V_, first_class_ + v);
        four_columns(h(step + 1), layout_.hidden, H_, load, logits);
      }
      const float4 b = FourOf(p_.b_q, V_, first_class_ + v)(0);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 sum =
            make_float4(logits[r].x + b.x, logits[r].y + b.y, logits[r].z + b.z, logits[r].w + b.w);
        float* to = logits_of(r) + first_class_ + v;
        if (lane < RF_CLUSTER) send(to, sum, lane, kLogits);
      }
    }
  }

  __device__ float* logits_of(int r) const {
    return at<float>(layout_.logits) + r * layout_.vocabulary;
  }

  __device__ void choose(long long step) const {
    for (int r = threadIdx.x / 32; r < kRows; r += RF_WARPS) {
      if (!exists(r)) continue;
      const long long place = step * p_.B + first_row_ + r;
      const int id = p_.uniforms == nullptr ? largest(logits_of(r), V_)
                                            : sample(logits_of(r), V_, p_.temperature,
                                                     checked_uniform(p_.uniforms[place], p_.error));
      if (threadIdx.x % 32 != 0) continue;
      ids(step + 1)[r] = id;
      if (rank_ == 0) p_.ids[place] = id;
    }
  }

  // To the same place in the block `rank` of the cluster.
  __device__ void send(float* to, float4 value, int rank, Exchanged what) const {
    if constexpr (kShares) {
      store_async(in_block(to, rank), value, in_block(full(what), rank));
    } else {
      *reinterpret_cast<float4*>(to) = value;
    }
  }

  __device__ void open(Exchanged what) const {
    mbarrier_init(full(what), 1);
    if (p_.steps > 0) mbarrier_expect(full(what), bytes_of(what));
  }

  // Until all of it has come from all blocks; false where that takes longer than allowed.
  __device__ bool wait(Exchanged what, long long step) const {
    if constexpr (kShares) {
      if (!is_complete(what, static_cast<unsigned>(step % 2))) return false;
      if (threadIdx.x == 0 && step + 1 < p_.steps) mbarrier_expect(full(what), bytes_of(what));
    } else {
      __syncthreads();
    }
    return true;
  }

  __device__ bool is_complete(Exchanged what, unsigned parity) const {
    if (mbarrier_done(full(what), parity)) return true;
    const long long start = clock64();
    while (!mbarrier_done(full(what), parity)) {
      if (clock64() - start < p_.wait_limit) continue;
      report(p_.error, kErrorTimeout);
      return false;
    }
    return true;
  }

  __device__ void store_last() const {
    for (int i = threadIdx.x; i < kRows * layout_.columns; i += kThreads) {
      const int r = i / layout_.columns, c = first_column_ + i % layout_.columns;
      if (!exists(r) || c >= H_) continue;
      p_.h_last[(first_row_ + r) * H_ + c] = h(p_.steps)[r * layout_.hidden + c];
    }
  }

  const DecodeParams& p_;
  const DecodeLayout layout_;
  const int rank_, H_, V_;
  const int first_column_, first_class_;  // of this block
  const long long first_row_;             // of this cluster
  const HiddenProduct product_;
};

}  // namespace rnnfast::cuda

using namespace rnnfast::cuda;

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    decode(const __grid_constant__ DecodeParams p) {
  Decoder(p).run();
}
