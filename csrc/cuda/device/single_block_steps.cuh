// The steps of the recurrence in one block: the same loop for both directions and all inputs.
//
// h is kept twice, for even and for odd steps, so that one barrier per step suffices: what a step
// overwrites was read in the step before, by threads that have passed the barrier since.
#pragma once

#include "single_block_inputs.cuh"

namespace rnnfast::cuda {

class Steps {
 public:
  // h lies at `h`, [2, kRows, kHp].
  RF_DEVICE Steps(const Sequence& p, const Place& place, float* h, Inputs& inputs,
                  const Product& product, int lane)
      : p_(p),
        place_(place),
        h_(h),
        inputs_(inputs),
        product_(product),
        first_quad_(lane % kLanes * 4),
        step_floats_(kSpares ? p.step : keep_in_register(p.step)) {
    out_ = p.out + element(p, 0, place.row0, place.column);
    if constexpr (kOptions) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) units_[r].begin(p, place.read_row(p, r), place.read_column);
    }
  }

  RF_DEVICE void run() {
    begin_state();
    __syncthreads();
    const int whole = p_.T / kTurn * kTurn;
    int s = 0;
#pragma unroll 1
    while (s < whole) {
      begin_turn(s);
      const int end = min(s + 32, whole);
#pragma unroll 1
      do {
        run_turn(s);
        s += kTurn;
      } while (s < end);
    }
    if (s % 32 == 0) begin_turn(s);
    run_rest(s);
    store_step(p_.T - 1);
    if (p_.last) finish();
    if (kBackward && kLeaky && p_.options.grad_leak != nullptr) store_grad_leak();
  }

 private:
  static constexpr int kTurn = kShape.steps_ahead();  // steps in a turn of the loop
  // Where the weights leave no registers for h, none is for what can be had anew in each step.
  static constexpr bool kSpares = !kShape.holds_h() && !kOptions;

  // In step s = 32 n.
  RF_DEVICE void begin_turn(int s) {
    inputs_.turn(s);
    if constexpr (kOptions) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) units_[r].end_run();
    }
  }

  // A turn, and the steps after the last whole one. By templates: NVRTC does not unroll loops over
  // so much.
  template <int u = 0>
  RF_DEVICE void run_turn(int s) {
    step(u, s + u);
    if constexpr (u + 1 < kTurn) run_turn<u + 1>(s);
  }
  template <int u = 0>
  RF_DEVICE void run_rest(int s) {
    if (s + u >= p_.T) return;
    step(u, s + u);
    if constexpr (u + 2 < kTurn) run_rest<u + 1>(s);
  }

  // Where h of the step before the u-th of a turn lies, and where that of the step goes.
  RF_DEVICE float* h_before(int u) const { return h_ + u % 2 * kRows * kHp; }

  // h_0 in the first buffer, 0 in padding: of the forward pass; the backward one begins with no
  // state.
  RF_DEVICE void begin_state() const {
    for (int i = threadIdx.x; i < 2 * kRows * kHp; i += kThreads) {
      const int r = i / kHp, k = i % kHp;
      const bool is_state =
          !kBackward && r < kRows && k < p_.H && !begins_with_0(p_, place_.read_row(p_, r));
      h_[i] = is_state ? p_.first[state_element(p_, place_.read_row(p_, r), k)] : 0.f;
    }
  }

  // From h_s to h_{s+1}: step s, the u-th of its turn. What the step before has computed is stored
  // when the loads of this one have begun.
  RF_DEVICE void step(int u, int s) {
    const float* from = h_before(u) + (kSpares ? keep_in_register(first_quad_) : first_quad_);
    float* to = h_before(u + 1) + place_.column;
#pragma unroll
    for (int g = 0; g < kRows; g += kAtOnce) {
      float add[kAtOnce], sums[kAtOnce], saved[kAtOnce], before[kAtOnce];
      product_.multiply(from + g * kHp, add, sums, [&] {
        if (g == 0) {
          if (u > 0 || s > 0) {
            store_step(s - 1);
            out_ += step_floats_;
          }
          if constexpr (kOptions) {
            const long long start = inputs_.course().start(s);
            out_ = p_.out + element(p_, s, start, place_.row0, place_.column);
          }
          inputs_.wait();
        }
#pragma unroll
        for (int r = 0; r < kAtOnce; ++r) {
          before[r] = inputs_.before(u, g + r);
          add[r] = inputs_.take(u, g + r, s, saved[r]);
          if (kOptions && kBackward) add[r] += units_[g + r].carry();
        }
        if (g + kAtOnce == kRows) inputs_.end_step();
      });
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        const float next = end_row(u, g + r, s, sums[r], saved[r], before[r]);
        if (place_.is_real) to[(g + r) * kHp] = next;  // padding stays 0
      }
    }
    if (kShape.warps() == 1) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  // Sets a row's value of the step; what the next product reads of it.
  RF_DEVICE float end_row(int u, int r, int s, float sum, float saved, float before) {
    if constexpr (kOptions) {
      const float held = h_before(u)[r * kHp + place_.column];
      const auto result = units_[r].step(inputs_.course().at(r, s), sum, saved, before, held);
      values_[r] = result.value;
      return result.next;
    }
    values_[r] = kBackward ? Activation::through<Math>(sum, Activation::slope<Math>(saved))
                           : Activation::of<Math>(sum);
    return values_[r];
  }

  // Of step s, the last one that is computed.
  RF_DEVICE void store_step(int s) const {
    if constexpr (!kOptions) return store(out_, p_.row);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!place_.is_real || !inputs_.course().takes_part(r, s)) continue;
      out_[r * p_.row] = values_[r];
      if (kLeaky && !kBackward && p_.options.saved != nullptr) {
        p_.options.saved[out_ - p_.out + r * p_.row] = units_[r].activity();
      }
    }
  }

  // `row`: floats from one row to the next.
  RF_DEVICE void store(float* to, int row) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (place_.is_real && (kRows == 1 || place_.row0 + r < p_.B)) to[r * row] = values_[r];
    }
  }

  RF_DEVICE void store_grad_leak() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) values_[r] = units_[r].grad_leak();
    store(p_.options.grad_leak + state_element(p_, place_.row0, place_.column), p_.H);
  }

  // h_last; backward, grad_h0, which takes one more product.
  RF_DEVICE void finish() {
    if (kBackward) {
      const float* from = h_before(p_.T) + first_quad_;
#pragma unroll
      for (int g = 0; g < kRows; g += kAtOnce) {
        const float nothing[kAtOnce] = {};
        float sums[kAtOnce];
        product_.multiply(from + g * kHp, nothing, sums, [] {});
#pragma unroll
        for (int r = 0; r < kAtOnce; ++r) {
          values_[g + r] = sums[r];
          if (kOptions) values_[g + r] += units_[g + r].carry_to_h0(p_);
        }
      }
    }
    store(p_.last + state_element(p_, place_.row0, place_.column), p_.H);
  }

  const Sequence& p_;
  const Place& place_;
  float* h_;
  Inputs& inputs_;
  const Product& product_;
  int first_quad_;  // of h, that this lane multiplies
  long long step_floats_;
  float* out_;           // where the values of the last step go
  float values_[kRows];  // of the last step
  UnitHere units_[kRows];
};

RF_DEVICE void run_sequence(Sequence p) {
  const int lane = keep_in_register(static_cast<int>(threadIdx.x & 31));
  const int warp = keep_in_register(static_cast<int>(threadIdx.x >> 5));
  float* const weights = reinterpret_cast<float*>(dynamic_shared());
  float* const h = weights + kShape.weights_floats();
  const Place place(p, warp, lane);
  if constexpr (kOptions) p.T = length_of(p, place.row0);
  CourseHere course(p, place.row0, lane);
  Inputs inputs(p, place, course, h + kShape.h_floats(), lane);
  const Product product(p, weights, warp, lane);
  Steps(p, place, h, inputs, product, lane).run();
}

}  // namespace rnnfast::cuda
