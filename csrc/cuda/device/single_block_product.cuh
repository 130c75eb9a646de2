// The product of a step in one block: h M for the 32 columns of a warp.
//
// `kLanes` lanes share the sums over k of kLanes columns; lane q of them ends with column q. Slot s
// of lane q is column s ^ q, so that the exchange of sums needs no selects: a lane sends the upper
// half of its slots, which are the lower half of the lane that it exchanges with.
#pragma once

#include "options.cuh"
#include "single_block_shape.h"

namespace rnnfast::cuda {

constexpr SingleBlockShape kShape{RF_HP,         RF_LANES,         RF_ROWS,
                                  RF_SMEM_SLOTS, RF_BACKWARD != 0, kLeaky};
static_assert(kShape.is_valid(), "no such variant: see single_block_shape.h");

constexpr bool kBackward = RF_BACKWARD != 0, kGathers = RF_GATHERS != 0;
static_assert(!(kBackward && kGathers));
constexpr int kHp = RF_HP, kLanes = RF_LANES, kRows = RF_ROWS;
constexpr int kThreads = kShape.threads(), kAtOnce = kShape.rows_at_once();
// Any number. With 0, ptxas keeps a block of 64 threads with options to 128 registers, and spills.
constexpr int kLeastBlocks = kOptions ? 1 : 0;

using Activation = cells::ActivationOf<RF_CELL>::type;
using Math = BranchFreeMath;
using CourseHere = Course<kRows, kBackward>;
using UnitHere = Unit<Activation, Math, kBackward>;

RF_DEVICE float part(const float4& v, int e) {
  return e == 0 ? v.x : e == 1 ? v.y : e == 2 ? v.z : v.w;
}

// M[k .. k+3] of kLanes columns from `column` on. Rows of W_hh lie along k where M is a transpose.
RF_DEVICE void load_quad(const Sequence& p, int k, int column, float4 (&quad)[kLanes]) {
  const bool as_float4 = has_float4_rows(p.W_hh, p.H);
#pragma unroll
  for (int s = 0; s < kLanes; ++s) quad[s] = make_float4(0.f, 0.f, 0.f, 0.f);
  if constexpr (kBackward) {
#pragma unroll
    for (int s = 0; s < kLanes; ++s) {
      if (column + s >= p.H) continue;
      quad[s] = load4(p.W_hh + static_cast<long long>(column + s) * p.H, k, p.H, as_float4);
    }
  } else {
    constexpr int kRead = kLanes < 4 ? kLanes : 4;  // columns at a time
#pragma unroll
    for (int s = 0; s < kLanes; s += kRead) {
      float4 row[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        row[e] = make_float4(0.f, 0.f, 0.f, 0.f);
        if (k + e >= p.H) continue;
        const float* from = p.W_hh + static_cast<long long>(k + e) * p.H;
        row[e] = load4(from, column + s, p.H, as_float4 && kRead == 4);
      }
#pragma unroll
      for (int i = 0; i < kRead; ++i) {
        quad[s + i] =
            make_float4(part(row[0], i), part(row[1], i), part(row[2], i), part(row[3], i));
      }
    }
  }
}

// From columns s to columns s ^ q, in registers.
RF_DEVICE void order_for_lane(int q, float4 (&quad)[kLanes]) {
#pragma unroll
  for (int bit = 1; bit < kLanes; bit *= 2) {
    const bool swaps = q & bit;
#pragma unroll
    for (int s = 0; s < kLanes; ++s) {
      if (s & bit) continue;
      const float4 low = quad[s], high = quad[s | bit];
      quad[s] = make_float4(swaps ? high.x : low.x, swaps ? high.y : low.y, swaps ? high.z : low.z,
                            swaps ? high.w : low.w);
      quad[s | bit] = make_float4(swaps ? low.x : high.x, swaps ? low.y : high.y,
                                  swaps ? low.z : high.z, swaps ? low.w : high.w);
    }
  }
}

class Product {
 public:
  // Loads this thread's weights; `tail` is the shared memory for those that registers do not hold.
  RF_DEVICE Product(const Sequence& p, float* tail, int warp, int lane)
      : tail_(reinterpret_cast<float4*>(tail) + threadIdx.x) {
    const int q = lane % kLanes;
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      float4 quad[kLanes];
      load_quad(p, (i * kLanes + q) * 4, warp * 32 + lane / kLanes * kLanes, quad);
      order_for_lane(q, quad);
#pragma unroll
      for (int s = 0; s < kLanes; ++s) {
        if (s < kHeld) {
          held_[i * kHeld + s] = quad[s];
        } else {
          tail_[(i * kTail + s - kHeld) * kThreads] = quad[s];
        }
      }
    }
  }

  // sums[r] = add[r] + row r of h times this lane's column; h points to this lane's first quad.
  // between() is called when h is being read: it sets `add` and does what may be done meanwhile.
  template <class Between>
  RF_DEVICE void multiply(const float* h, const float (&add)[kAtOnce], float (&sums)[kAtOnce],
                          Between between) const {
    float slots[kAtOnce][kLanes];
    if constexpr (kShape.holds_h()) {
      float4 a[kAtOnce][kQuads];
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
#pragma unroll
        for (int i = 0; i < kQuads; ++i) a[r][i] = quad_of(h, r, i);
      }
      between();
      add_by_levels<kLanes / 2>(a, add, slots);
    } else {
      add_all(h, add, slots, between);
#pragma unroll
      for (int n = kLanes / 2; n >= 1; n /= 2) exchange(n, false, slots);
    }
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) sums[r] = slots[r][0];
  }

 private:
  static constexpr int kQuads = kShape.quads();
  static constexpr int kTail = kShape.smem_slots, kHeld = kLanes - kTail;

  RF_DEVICE static float4 quad_of(const float* h, int row, int i) {
    return *reinterpret_cast<const float4*>(h + row * kHp + i * kLanes * 4);
  }

  // Slots n .. 2n-1 go to the lane that has them as slots 0 .. n-1. is_first: there is nothing yet
  // in those.
  RF_DEVICE static void exchange(int n, bool is_first, float (&slots)[kAtOnce][kLanes]) {
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
#pragma unroll
      for (int s = 0; s < kLanes / 2; ++s) {
        if (s >= n) continue;
        const float got = __shfl_xor_sync(kAllLanes, slots[r][s + n], n);
        slots[r][s] = is_first ? got : slots[r][s] + got;
      }
    }
  }

  // The slots in the order in which the exchange needs them, so that it runs behind the products:
  // n .. 2n-1, then those below.
  template <int n>
  RF_DEVICE void add_by_levels(const float4 (&a)[kAtOnce][kQuads], const float (&add)[kAtOnce],
                               float (&slots)[kAtOnce][kLanes]) const {
    constexpr bool kIsFirst = n == kLanes / 2;
    if constexpr (n > 1) {
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) add_slots<n, n>(a[r], 0.f, kIsFirst, slots[r]);
      exchange(n, kIsFirst, slots);
      add_by_levels<n / 2>(a, add, slots);
    } else {
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) add_slots<0, 2>(a[r], add[r], kIsFirst, slots[r]);
      exchange(1, false, slots);
    }
  }

  // The sums of slots first .. first + count - 1; `add` belongs to slot 0. Two slots have two
  // chains each, since an FFMA waits four cycles for the one before it.
  template <int first, int count>
  RF_DEVICE void add_slots(const float4 (&a)[kQuads], float add, bool is_first,
                           float (&slots)[kLanes]) const {
    constexpr int kChains = count >= 4 ? 1 : 2;
    float chains[count][kChains];
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int s = 0; s < count; ++s) {
          const float x = part(a[i], e), w = part(held_[i * kHeld + first + s], e);
          float& sum = chains[s][e % kChains];
          if (i == 0 && e < kChains) {
            sum = first + s == 0 && e == 0 ? fmaf(x, w, add) : x * w;
          } else {
            sum = fmaf(x, w, sum);
          }
        }
      }
    }
#pragma unroll
    for (int s = 0; s < count; ++s) {
      float sum = chains[s][0];
      if constexpr (kChains == 2) sum += chains[s][1];
      slots[first + s] = is_first ? sum : slots[first + s] + sum;
    }
  }

  // All slots at once, h and the weights in shared memory read as they are needed: keep_order()
  // stops ptxas from reading all of them first, for which there are no registers.
  template <class Between>
  RF_DEVICE void add_all(const float* h, const float (&add)[kAtOnce],
                         float (&slots)[kAtOnce][kLanes], Between between) const {
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      if (kTail > 0) keep_order();
      float4 a[kAtOnce], tail[kTail > 0 ? kTail : 1];
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) a[r] = quad_of(h, r, i);
#pragma unroll
      for (int s = 0; s < kTail; ++s) tail[s] = tail_[(i * kTail + s) * kThreads];
      if (i == 0) {
        between();
#pragma unroll
        for (int r = 0; r < kAtOnce; ++r) {
#pragma unroll
          for (int s = 0; s < kLanes; ++s) slots[r][s] = s == 0 ? add[r] : 0.f;
        }
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int s = 0; s < kLanes; ++s) {
          const float w = s < kHeld ? part(held_[i * kHeld + (s < kHeld ? s : 0)], e)
                                    : part(tail[s < kHeld ? 0 : s - kHeld], e);
#pragma unroll
          for (int r = 0; r < kAtOnce; ++r) slots[r][s] = fmaf(part(a[r], e), w, slots[r][s]);
        }
      }
    }
  }

  float4* tail_;
  float4 held_[kQuads * kHeld];
};

}  // namespace rnnfast::cuda
