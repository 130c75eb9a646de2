// The norm of a gradient H^T Z before the gradient itself is there: |H^T Z|^2 is the sum over all
// pairs of rows of <h_r, h_s> <z_r, z_s>. With few rows that is far less work than a pass over the
// gradient, which can then be scaled, and moved along, while it is still in registers.
#pragma once

#include "readout.h"
#include "steps.h"

namespace rnnfast::RNNFAST_ISA {

template <class Real>
Real dot(const Real* a, const Real* b, int64_t count) {
  Vec<Real> sums[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes<Real> <= count; i += 2 * kLanes<Real>) {
    sums[0] += load(a + i) * load(b + i);
    sums[1] += load(a + i + kLanes<Real>) * load(b + i + kLanes<Real>);
  }
  for (; i < count; i += kLanes<Real>)
    sums[0] += load_first(a + i, count - i) * load_first(b + i, count - i);
  return sum_lanes<Real>(sums[0] + sums[1]);
}

// A worker's part of |grad_W_hh|^2 + |grad_W_hq|^2 for a region that kept all its steps. The first
// is made of h_{t-1} and dz_t, the second of h_t and dlogits_t: the same products of rows of h
// serve both.
template <class Real>
double squares_of_weight_gradients(const Layer<Real>& layer, const Region<Real>& region,
                                   const Readout<Real>& readout, Share every) {
  const int64_t tokens = layer.T * region.count, lag = region.count;
  const Logits<Real> dlogits{region.dlogits, tokens};
  const auto dot_dlogits = [&](int64_t r, int64_t s) {
    Real sum = 0;
    for (int64_t p = 0; p < readout.panels.count; ++p) {
      const Panel panel(readout.panels, p);
      sum += dot<Real>(dlogits.at(panel, r), dlogits.at(panel, s), panel.vectors * kLanes<Real>);
    }
    return sum;
  };
  double squares = 0;
  for (int64_t r = every.begin; r < tokens + lag; r += every.end) {
    for (int64_t s = 0; s <= r; ++s) {
      double z = 0;
      if (r < tokens)
        z += dot<Real>(region.dz + r * layer.stride, region.dz + s * layer.stride, layer.H);
      if (s >= lag) z += dot_dlogits(r - lag, s - lag);
      const double h = dot<Real>(region.h + r * layer.stride, region.h + s * layer.stride, layer.H);
      squares += (r == s ? 1 : 2) * h * z;
    }
  }
  return squares;
}

}  // namespace rnnfast::RNNFAST_ISA
