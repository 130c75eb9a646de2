// The plain cell: h_t = act(z_t), which says by itself what the way back needs.
#pragma once

namespace rnnfast::cells {

struct Plain {
  static constexpr int kSaved = 0;  // arrays [T, B, H] kept for the way back beside the states
};

}  // namespace rnnfast::cells
