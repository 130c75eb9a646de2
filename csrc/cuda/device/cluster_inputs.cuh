// The inputs of a step, copied into shared memory many steps ahead by the thread that uses them.
#pragma once

#include "cluster_product.cuh"

namespace rnnfast::cuda {

// An owner's element of x_t (or of W_xh's row that the id names), or of grad_hs_t and hs_t. Nobody
// else reads what it copies, so it waits for its own copies alone.
//
// Ids come twice as many steps ahead as inputs: when x_s is there, the id is that names
// x_{s+kAhead}.
class Inputs {
 public:
  // `exists`: the thread owns an output of a real row and column.
  RF_DEVICE Inputs(const Sequence& p, const CourseHere& course, int row, int row_in_cluster,
                   int column, bool exists)
      : p_(p),
        course_(course),
        row_(row),
        row_in_cluster_(row_in_cluster),
        column_(column),
        exists_(exists) {
    if (p.bias && exists) added_ = p.bias[column];
    if (kBackward && !kOptions && p.first && exists) {
      added_ = p.first[state_element(p, row, column)];
    }
    if (gathers()) {
      for (int s = 0; s < kAhead; ++s) fetch_id(s);
      wait_copies();
    }
    for (int s = 0; s < kAhead; ++s) fetch(s);
  }

  float in, saved, before;  // x + b_h or grad_hs; backward hs, and of a leaky cell h_{t-1}

  // Those of step s; asks for later ones.
  RF_DEVICE void advance(int s) {
    wait_copies_but<kAhead - 1>();
    in = saved = before = 0.f;
    if (exists_ && s < p_.T) {
      if (kBackward) saved = *place(s, 1);
      if (kBackward && kLeaky) before = *place(s, 2);
      in = (p_.in ? *place(s, 0) : 0.f) + added_;
      if (kBackward) added_ = 0.f;
    }
    fetch(s + kAhead);
  }

 private:
  static constexpr int kAhead = ClusterShape::kAhead;

  RF_DEVICE bool gathers() const { return !kBackward && p_.ids != nullptr; }

  RF_DEVICE float* place(int s, int input) const {
    return reinterpret_cast<float*>(dynamic_shared() + kShape.inputs_at()) +
           (s % kAhead * kShape.inputs() + input) * kThreads + threadIdx.x;
  }
  RF_DEVICE long long* id_place(int s) const {
    return reinterpret_cast<long long*>(dynamic_shared() + kShape.ids_at()) +
           s % (2 * kAhead) * kThreads + threadIdx.x;
  }
  RF_DEVICE long long at(int s, long long start) const {
    return element(p_, s, start, row_, column_);
  }

  RF_DEVICE bool is_needed(int s) const {
    return exists_ && s < p_.T && course_.takes_part(row_in_cluster_, s);
  }

  RF_DEVICE void fetch_id(int s) const {
    const long long start = course_.start(s);
    if (is_needed(s)) copy_async<8>(id_place(s), p_.ids + id_at(p_, s, start, row_));
  }

  // One group of copies for each step, whether there is one or not.
  RF_DEVICE void fetch(int s) const {
    const long long start = course_.start(s);
    if (is_needed(s)) {
      if (gathers()) {
        copy_async<4>(place(s, 0), p_.in + checked_id(p_, *id_place(s)) * p_.H + column_);
      } else if (p_.in) {
        copy_async<4>(place(s, 0), p_.in + at(s, start));
      }
      if (kBackward) copy_async<4>(place(s, 1), p_.saved + at(s, start));
      if (kBackward && kLeaky && p_.options.grad_leak != nullptr) {
        copy_async<4>(place(s, 2), p_.options.before + at(s, start));
      }
    }
    if (gathers()) fetch_id(s + kAhead);
    commit_copies();
  }

  const Sequence& p_;
  const CourseHere& course_;
  int row_, row_in_cluster_, column_;
  bool exists_;
  float added_ = 0.f;  // b_h, or grad_h_last to the first step of the backward pass
};

}  // namespace rnnfast::cuda
