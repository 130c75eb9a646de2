// The leaky cell: h_t = (1 - a) h_{t-1} + a act(z_t), where each unit has a leak a.
#pragma once

#include "cells/activation.h"

namespace rnnfast::cells {

struct Leaky {
  static constexpr int kGates = 1;   // products of width H in a step
  static constexpr int kStates = 1;  // arrays that a step hands to the next
  static constexpr int kSaved = 1;   // arrays [T, B, H] kept for the way back: act(z_t)

  template <class V>
  static RNNFAST_CELL V forward(V act, V before, V leak) {
    return before + leak * (act - before);
  }
  // What the gradient of h_t is for act(z_t), for h_{t-1} beside the product, and for the leak.
  template <class V>
  static RNNFAST_CELL V to_activation(V grad, V leak) {
    return leak * grad;
  }
  template <class V>
  static RNNFAST_CELL V to_state(V grad, V leak) {
    return grad - leak * grad;
  }
  template <class V>
  static RNNFAST_CELL V to_leak(V grad, V act, V before) {
    return grad * (act - before);
  }
};

}  // namespace rnnfast::cells
