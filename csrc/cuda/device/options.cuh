// What a call may have beyond the plain recurrence, for kernels that are compiled with
// RF_OPTIONS=1: lengths, resets and leaky cells (RecurrenceOptionsParams). Other kernels use
// nothing of it.
//
// The s-th step of a block is of time s, or backwards through time of T - 1 - s, with T the length
// of the block's first sequence: the longest one, so that padding costs no step.
//
// Predicted for an H100 by the instructions of a step, up to 15 % more time than without: at 64
// units 27 beside 117, and 40 in a leaky cell; in a cluster at 512 units 110 beside 370, of which
// most are issued while it waits.
#pragma once

#include "number_math.cuh"
#include "sequence.cuh"

#ifndef RF_OPTIONS
#define RF_OPTIONS 0
#endif

namespace rnnfast::cuda {

constexpr bool kOptions = RF_OPTIONS != 0;
constexpr bool kLeaky = cells::is_leaky(RF_CELL);
static_assert(kOptions || !kLeaky, "leaky cells are an option");

RF_DEVICE int length_of(const Sequence& p, int row) {
  return p.options.lengths ? static_cast<int>(p.options.lengths[row]) : p.T;
}

RF_DEVICE int time_of(const Sequence& p, int s) { return p.options.way < 0 ? p.T - 1 - s : s; }

// Where the rows of a step begin in x, hs, ...: how many rows lie before them. 0 without options.
RF_DEVICE long long start_of(const Sequence& p, int s) {
  if (!kOptions || s >= p.T) return 0;
  const long long t = time_of(p, s);
  return p.options.starts ? p.options.starts[t] : t * p.B;
}

// Where in, saved and out have an element of step s, which begins at `start`.
RF_DEVICE long long element(const Sequence& p, int s, long long start, int row, int column) {
  return kOptions ? (start + row) * p.row + column : element(p, s, row, column);
}

// Where ids have that of a row.
RF_DEVICE long long id_at(const Sequence& p, int s, long long start, int row) {
  if (!kOptions) return s * p.ids_stride_t + row * p.ids_stride_b;
  if (p.options.starts) return (start + row) * p.ids_stride_b;
  return time_of(p, s) * p.ids_stride_t + row * p.ids_stride_b;
}

// Whether (not 0) the state of a row of this length is reset before step s.
RF_DEVICE int reset_before(const Sequence& p, int row, int length, int s) {
  if (p.options.resets == nullptr || s >= p.T) return 0;
  const int t = time_of(p, s);
  return t < length ? p.options.resets[static_cast<long long>(t) * p.B + row] : 0;
}

// Whether a row begins with 0 in place of h0.
RF_DEVICE bool begins_with_0(const Sequence& p, int row) {
  if (!kOptions || p.options.resets_to_h0) return false;
  return reset_before(p, row, length_of(p, row), 0) != 0;
}

// What a step is for a row.
struct StepOfRow {
  bool takes_part;    // else the row holds its state
  bool is_cut;        // the state is reset between this step and the one after it in time's order
  bool adds_cut_off;  // backward: the next product is the one for grad_h0
};

// The way of a block's rows through time. Each lane of a warp looks up one step of 32, and does so
// 32 steps before they are taken: no step waits for what it finds.
template <int kRows, bool kBackward>
class Course {
 public:
  RF_DEVICE Course(const Sequence& p, int row0, int lane) : p_(p), row0_(row0), lane_(lane) {
    if constexpr (!kOptions) return;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      length_[r] = row0 + r < p.B ? length_of(p, row0 + r) : 0;
      now_cut_[r] = __ballot_sync(kAllLanes, look_up_cut(r, lane) != 0);
      next_cut_[r] = look_up_cut(r, 32 + lane);
    }
    now_start_ = start_of(p, lane), next_start_ = start_of(p, 32 + lane);
  }

  // In step s = 32 n.
  RF_DEVICE void turn(int s) {
    if (s == 0) return;
    turn_ = s;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      now_cut_[r] = __ballot_sync(kAllLanes, next_cut_[r] != 0);
      next_cut_[r] = look_up_cut(r, s + 32 + lane_);
    }
    now_start_ = next_start_, next_start_ = start_of(p_, s + 32 + lane_);
  }

  // start_of() a step of this turn or the next; by the whole warp.
  RF_DEVICE long long start(int s) const {
    if constexpr (!kOptions) return 0;
    return __shfl_sync(kAllLanes, s - turn_ < 32 ? now_start_ : next_start_, s);
  }

  // A row of the block; a block with one alone goes no further than that.
  RF_DEVICE bool takes_part(int r, int s) const {
    if constexpr (!kOptions || kRows == 1) return true;
    return time_of(p_, s) < of_row(r, length_);
  }

  // s: a step of this turn.
  RF_DEVICE StepOfRow at(int r, int s) const {
    const bool is_cut = of_row(r, now_cut_) >> (s & 31) & 1;
    return {takes_part(r, s), is_cut, kBackward && s == p_.T - 1 && p_.options.resets_to_h0 != 0};
  }

 private:
  // Whether what a step hands to the next is cut off: forward it is the reset before the next step,
  // backward the one before this step.
  RF_DEVICE int look_up_cut(int r, int s) const {
    return reset_before(p_, row0_ + r, length_[r], s + !kBackward);
  }

  // values[r], in registers where r is known at run time alone as well.
  template <class T>
  RF_DEVICE static T of_row(int r, const T (&values)[kRows]) {
    T value = values[0];
#pragma unroll
    for (int i = 1; i < kRows; ++i) value = r == i ? values[i] : value;
    return value;
  }

  const Sequence& p_;
  int row0_, lane_, turn_ = 0;
  int length_[kRows];        // 0: of a row behind the batch
  unsigned now_cut_[kRows];  // bit i: step turn_ + i
  int next_cut_[kRows];      // lane i: step turn_ + 32 + i
  long long now_start_, next_start_;
};

// A unit of one row: what a step makes of its sum, and what it leaves to others.
template <class Activation, class Math, bool kBackward>
class Unit {
 public:
  struct Result {
    float value;  // h_t or dz_t
    float next;   // what the product of the next step reads
  };

  RF_DEVICE void begin(const Sequence& p, int row, int column) {
    const long long at = state_element(p, row, column);
    leak_ = kLeaky ? p.options.leak[column] : 1.f;
    start_ = !kBackward && p.options.resets_to_h0 ? p.first[at] : 0.f;
    carry_ = kBackward && p.first ? p.first[at] : 0.f;
    activity_ = cut_off_ = carry_cut_off_ = leak_sum_ = leak_run_ = 0.f;
  }

  // What backward reaches h_t beside the product and grad_hs_t.
  RF_DEVICE float carry() const { return carry_; }

  // act(z_t), of a leaky cell.
  RF_DEVICE float activity() const { return activity_; }

  // held: what this step's product has read of the unit; saved and before: the backward inputs.
  RF_DEVICE Result step(StepOfRow step, float sum, float saved, float before, float held) {
    Result result{held, held};
    if (step.takes_part) {
      result.value = kBackward ? backward(sum, saved, before) : forward(sum, held);
      result.next = result.value;
    }
    if (step.is_cut) result.next = cut(result.value);
    if (step.adds_cut_off) result.next += cut_off_;
    return result;
  }

  // From time to time: a small number that is added to a large sum loses its last bits.
  RF_DEVICE void end_run() {
    if (!kLeaky || !kBackward) return;
    leak_sum_ += leak_run_;
    leak_run_ = 0.f;
  }
  RF_DEVICE float grad_leak() const { return leak_sum_ + leak_run_; }

  // What grad_h0 has beside the product.
  RF_DEVICE float carry_to_h0(const Sequence& p) const {
    return p.options.resets_to_h0 ? carry_ + carry_cut_off_ : carry_;
  }

 private:
  RF_DEVICE float forward(float z, float before) {
    activity_ = Activation::template of<Math>(z);
    return kLeaky ? cells::Leaky::forward(activity_, before, leak_) : activity_;
  }

  RF_DEVICE float backward(float grad, float saved, float before) {
    carry_ = 0.f;
    if (kLeaky) {
      leak_run_ += cells::Leaky::to_leak(grad, saved, before);
      carry_ = cells::Leaky::to_state(grad, leak_);
      grad = cells::Leaky::to_activation(grad, leak_);
    }
    return Activation::template through<Math>(grad, Activation::template slope<Math>(saved));
  }

  // What the next step finds where the state is reset between.
  RF_DEVICE float cut(float value) {
    if (!kBackward) return start_;
    cut_off_ += value;
    carry_cut_off_ += carry_;
    carry_ = 0.f;
    return 0.f;
  }

  float leak_;
  float start_, activity_;                 // forward
  float carry_, cut_off_, carry_cut_off_;  // backward, and what resets have cut off of it
  float leak_sum_, leak_run_;              // ... the gradient of the leak, and of the last steps
};

}  // namespace rnnfast::cuda
