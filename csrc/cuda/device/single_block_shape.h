// How a variant of single_block.cu divides its work, from its macros: for the device and for
// whoever launches it on the host. No includes: NVRTC compiles this file as well.
#pragma once

namespace rnnfast::cuda {

// The members are the macros.
struct SingleBlockShape {
  int hp, lanes, rows, smem_slots;
  bool backward, leaky;

  // A warp has 32 columns, one for each of its lanes. `lanes` of them share the sums over k of as
  // many columns, their slots, and each has some quads: four consecutive k.
  constexpr int warps() const { return hp / 32; }
  constexpr int threads() const { return hp; }
  constexpr int quads() const { return hp / lanes / 4; }

  // How many rows are multiplied side by side, each with a chain of sums of its own.
  constexpr int rows_at_once() const { return rows < 2 ? rows : 2; }

  // Above, the weights leave no registers for h, which is read as it is needed.
  constexpr bool holds_h() const { return hp < 192; }

  // How many steps ahead inputs are fetched. Even, since h is kept for even and for odd steps; it
  // divides 32, the steps whose ids a warp has.
  constexpr int steps_ahead() const { return rows == 1 ? 4 : 2; }

  // Shared memory, in floats: weights, h, and inputs that are on their way.
  constexpr int weights_floats() const { return quads() * smem_slots * threads() * 4; }
  constexpr int h_floats() const { return 2 * rows * hp; }
  // x, or grad_hs, what is saved, and of a leaky cell the states before.
  constexpr int inputs() const { return backward ? 2 + leaky : 1; }
  constexpr int inputs_floats() const { return steps_ahead() * inputs() * rows * hp; }
  constexpr int shared_bytes() const {
    return (weights_floats() + h_floats() + inputs_floats()) * 4;
  }

  constexpr bool is_valid() const {
    const bool shares = lanes == 2 || lanes == 4 || lanes == 8 || lanes == 16;
    return hp >= 32 && hp <= 1024 && hp % 32 == 0 && shares && hp % (4 * lanes) == 0 &&
           (rows == 1 || (rows > 0 && rows % 2 == 0)) && smem_slots >= 0 && smem_slots < lanes &&
           (smem_slots == 0 || !holds_h());
  }
};

}  // namespace rnnfast::cuda
