// The plain cell: h_t = act(z_t), which says by itself what the way back needs.
#pragma once

namespace rnnfast::cells {

struct Plain {
  static constexpr int kGates = 1;   // products of width H in a step
  static constexpr int kStates = 1;  // arrays that a step hands to the next
  static constexpr int kSaved = 0;   // arrays [T, B, H] kept for the way back beside the states
};

}  // namespace rnnfast::cells
