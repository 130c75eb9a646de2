// The parameters of streamed.cu. No includes: NVRTC compiles this file as well. Arrays are of the
// type RF_REAL, which the host knows by the options it launches with. Those of a step have `row`
// elements from one row to the next, H or 2 H, and all others are contiguous.
#pragma once

namespace rnnfast::cuda {

// h = act(u + h + b_h) in place, where h is h_{t-1} W_hh before; u = x[ids] or x.
struct StepForwardParams {
  long long B, H, V, row;
  const long long* ids;  // [B] of this step, or null
  long long ids_stride;
  const void* x;    // [V, H] with ids, [B, H] of this step without
  const void* b_h;  // [H] or null
  void* h;          // [B, H] of this step
  void* h_last;     // [B, H], written as well; or null
  int* error;
};

// dz = (grad + carry) act'(h); carry may be dz itself.
struct StepBackwardParams {
  long long B, H, row;
  const void* grad;   // [B, H] of this step, or null
  const void* carry;  // [B, H] or null
  long long carry_row;
  const void* h;  // [B, H] of this step
  void* dz;       // [B, H] of this step
};

}  // namespace rnnfast::cuda
