// The passes of a call that run at the same time: one, or both directions of a bidirectional layer.
// All have the same sizes and so the same split; worker w of the team is worker w of the first, or
// worker w - w_first of the second. They meet at common barriers.
#pragma once

#include "kernels.h"
#include "parallel.h"
#include "simd.h"

namespace rnnfast::RNNFAST_ISA {

template <class Pass>
class Directions {
 public:
  Directions(const Pass& first, const Pass* second) : first_(first), second_(second) {}

  const Pass& first() const { return first_; }
  int64_t workers() const { return first_.workers() * (second_ == nullptr ? 1 : 2); }

  // Calls phase(pass, worker of it) for the team's workers.
  template <class Phase>
  void each(const Team& team, const Phase& phase) const {
    const int64_t first_workers = first_.workers();
    team.each([&](int64_t worker) {
      const bool is_first = worker < first_workers;
      phase(is_first ? first_ : *second_, is_first ? worker : worker - first_workers);
    });
  }

  // Calls step(pass, worker, t) for each t: every worker on its own, or all together with a barrier
  // after each step.
  template <class Step>
  void each_step(const Team& team, int64_t first, int64_t end, int64_t increment,
                 const Step& step) const {
    if (first_.splits_rows()) {
      each(team, [&](const Pass& pass, int64_t worker) {
        for (int64_t t = first; t != end; t += increment) step(pass, worker, t);
      });
      return;
    }
    for (int64_t t = first; t != end; t += increment) {
      each(team, [&](const Pass& pass, int64_t worker) { step(pass, worker, t); });
      team.sync();
    }
  }

 private:
  const Pass& first_;
  const Pass* second_;  // or null
};

// What belongs to the second direction lies so many elements behind what belongs to the first.
template <class... Elements>
RNNFAST_INLINE void advance(int64_t elements, Elements*&... arrays) {
  ((arrays = arrays == nullptr ? nullptr : arrays + elements), ...);
}

// The arguments of one of both directions.
template <class Real>
RnnForwardArgs<Real> of_direction(RnnForwardArgs<Real> args, int64_t direction) {
  const int64_t H = direction * args.H;
  advance(H, args.x, args.b_h, args.hs, args.leak, args.saved);
  advance(H * args.H, args.W_hh);
  advance(H * args.B, args.h0, args.h_last);
  args.options.reverse = direction == 1;
  return args;
}

template <class Real>
RnnBackwardArgs<Real> of_direction(RnnBackwardArgs<Real> args, int64_t direction) {
  const int64_t H = direction * args.H;
  advance(H, args.grad_hs, args.hs, args.leak, args.saved);
  advance(H, args.grad_x, args.grad_b_h, args.grad_leak);
  advance(H * args.H, args.W_hh, args.grad_W_hh);
  advance(H * args.B, args.h0, args.grad_h_last, args.grad_h0);
  args.options.reverse = direction == 1;
  return args;
}

// Runs Pass::run for one direction or both.
template <class Pass, class Args>
void run_directions(const Args& args) {
  if (args.options.directions == 1) {
    const Pass pass(args);
    Pass::run(Directions<Pass>(pass, nullptr));
  } else {
    const Args forwards = of_direction(args, 0), backwards = of_direction(args, 1);
    const Pass first(forwards), second(backwards);
    Pass::run(Directions<Pass>(first, &second));
  }
}

}  // namespace rnnfast::RNNFAST_ISA
