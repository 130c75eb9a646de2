// The inputs of a step in one block: each thread fetches those of its own column, many steps ahead.
#pragma once

#include "single_block_product.cuh"

namespace rnnfast::cuda {

// Where a thread works: its column, and the rows of its block.
struct Place {
  int row0, column;
  bool is_real;     // the column is one of the H
  int read_column;  // one that can be read

  RF_DEVICE Place(const Sequence& p, int warp, int lane)
      : row0(static_cast<int>(blockIdx.x) * kRows),
        column(keep_in_register(warp * 32 + lane)),
        is_real(column < p.H),
        read_column(min(column, p.H - 1)) {}

  // A row of the batch that can be read; `r` counts from row0 on.
  RF_DEVICE int read_row(const Sequence& p, int r) const { return min(row0 + r, p.B - 1); }
};

// The ids of the block's rows. Lane i has those of step 32 n + kAhead + i while the warp is in
// steps 32 n to 32 n + 31, and loads the next ones meanwhile.
class Ids {
 public:
  static constexpr int kAhead = kShape.steps_ahead();

  RF_DEVICE Ids(const Sequence& p, const Place& place, const CourseHere& course, int lane)
      : p_(p), place_(place), course_(course), first_(kAhead + lane) {
    start_ = start_of(p, first_);
#pragma unroll
    for (int r = 0; r < kRows; ++r) next_[r] = load(r, first_, start_);
    start_ = start_of(p, 32 + first_);
  }

  // In step s = 32 n. Ids are checked only now that they have come.
  RF_DEVICE void turn(int s) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      now_[r] = static_cast<int>(checked_id(p_, next_[r]));
      next_[r] = load(r, s + 32 + first_, start_);
    }
    start_ = start_of(p_, s + 64 + first_);
  }

  // Of step s + kAhead; by the whole warp.
  RF_DEVICE int ahead_of(int r, int s) const { return __shfl_sync(kAllLanes, now_[r], s); }

  RF_DEVICE int at(int r, int s) const {
    return static_cast<int>(checked_id(p_, load(r, s, start_of(p_, s))));
  }

 private:
  RF_DEVICE long long load(int r, int s, long long start) const {
    const bool exists = s < p_.T && course_.takes_part(r, s);
    return exists ? p_.ids[id_at(p_, s, start, place_.read_row(p_, r))] : 0;
  }

  const Sequence& p_;
  const Place& place_;
  const CourseHere& course_;
  int first_;
  int now_[kRows];
  long long next_[kRows];
  long long start_;  // of the step whose ids are to be loaded next
};

// In place of ids where x is dense.
struct NoIds {
  RF_DEVICE NoIds(const Sequence&, const Place&, const CourseHere&, int) {}
  RF_DEVICE void turn(int) {}
  RF_DEVICE int ahead_of(int, int) const { return 0; }
  RF_DEVICE int at(int, int) const { return 0; }
};

#if RF_GATHERS
using IdsHere = Ids;
#else
using IdsHere = NoIds;
#endif

// Rows of x, of its table, or of grad_hs and hs, on their way into a ring in shared memory, [steps
// ahead][inputs][rows][kHp]: each thread reads what it has copied there itself.
class Inputs {
 public:
  RF_DEVICE Inputs(const Sequence& p, const Place& place, CourseHere& course, float* memory,
                   int lane)
      : p_(p),
        place_(place),
        course_(course),
        ids_(p, place, course, lane),
        ring_(memory + place.column),
        bias_(p.bias && place.is_real ? p.bias[place.column] : 0.f),
        H_(keep_in_register(p.H)),
        step_(keep_in_register(p.step)),
        at_(element(p, 0, place.row0, place.read_column)) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) row_[r] = (place.read_row(p, r) - place.row0) * p.row;
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (kOptions) move_to(u);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (u < p.T && course.takes_part(r, u)) fetch(u, r, ids_.at(r, u));
      }
      end_step();
    }
    if (kBackward && !kOptions && p.first != nullptr) add_to_first();
  }

  // In step s = 32 n.
  RF_DEVICE void turn(int s) {
    ids_.turn(s);
    if constexpr (kOptions) course_.turn(s);
  }

  RF_DEVICE const CourseHere& course() const { return course_; }

  // Until the inputs of this step are there.
  RF_DEVICE void wait() const { wait_copies_but<kAhead - 1>(); }

  // What step s, the u-th of its turn, adds in row r; backward, `h` is set as well. Their places
  // are filled for the step kAhead later.
  RF_DEVICE float take(int u, int r, int s, float& h) {
    const float x = *in_ring(u, 0, r) + bias_;
    if (kBackward) h = *in_ring(u, 1, r);
    const int id = ids_.ahead_of(r, s);
    if (kOptions && r == 0) move_to(s + kAhead);
    if (s + kAhead < p_.T && course_.takes_part(r, s + kAhead)) fetch(u, r, id);
    return x;
  }

  // h_{t-1} of a leaky cell's step, for the gradient of its leak; ahead of take().
  RF_DEVICE float before(int u, int r) const {
    return kBackward && kLeaky ? *in_ring(u, 2, r) : 0.f;
  }

  RF_DEVICE void end_step() {
    commit_copies();
    at_ += step_;
  }

 private:
  // With options, where the next step to be fetched lies is looked up.
  RF_DEVICE void move_to(int s) {
    at_ = element(p_, s, course_.start(s), place_.row0, place_.read_column);
  }

  static constexpr int kAhead = kShape.steps_ahead(), kInputs = kShape.inputs();

  RF_DEVICE float* in_ring(int u, int input, int r) const {
    return ring_ + ((u * kInputs + input) * kRows + r) * kHp;
  }

  // Those of the step after the last that was fetched.
  RF_DEVICE void fetch(int u, int r, int id) const {
    if (kGathers) {
      copy_async<4>(in_ring(u, 0, r), p_.in + static_cast<long long>(id) * H_ + place_.read_column);
    } else if (!kBackward || p_.in != nullptr) {
      copy_async<4>(in_ring(u, 0, r), p_.in + at_ + row_[r]);
    } else {
      *in_ring(u, 0, r) = 0.f;
    }
    if (kBackward) copy_async<4>(in_ring(u, 1, r), p_.saved + at_ + row_[r]);
    if (kBackward && kLeaky && p_.options.grad_leak != nullptr) {
      copy_async<4>(in_ring(u, 2, r), p_.options.before + at_ + row_[r]);
    }
  }

  // grad_h_last is a part of the first step's gradient.
  RF_DEVICE void add_to_first() const {
    wait();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      *in_ring(0, 0, r) += p_.first[state_element(p_, place_.read_row(p_, r), place_.read_column)];
    }
  }

  const Sequence& p_;
  const Place& place_;
  CourseHere& course_;
  IdsHere ids_;
  float* ring_;
  float bias_;
  int H_, row_[kRows];   // floats from the block's first row to the r-th
  long long step_, at_;  // floats from one step to the next; to the step to be fetched
};

}  // namespace rnnfast::cuda
