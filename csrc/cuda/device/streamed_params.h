// The parameters of streamed.cu. No includes: NVRTC compiles this file as well. Arrays are of the
// type RF_REAL, which the host knows by the options it launches with. Those of a step have `row`
// elements from one row to the next, H or 2 H, and all others are contiguous.
//
// `rows`: how many rows of the batch, always its first ones, take part in the step.
#pragma once

namespace rnnfast::cuda {

// h = act(u + h_{t-1} W_hh + b_h), or what a leaky cell makes of it; u = x[ids] or x.
struct StepForwardParams {
  long long rows, H, V, row;
  const long long* ids;  // [rows] of this step, or null
  long long ids_stride;
  const void* x;                // [V, H] with ids, [rows, H] of this step without
  const void* b_h;              // [H] or null
  const unsigned char* resets;  // [rows] of this step: where not 0, h_{t-1} is `start`; or null
  const void* start;            // [B, H], or null: zero
  const void* start_product;    // [B, H]: start W_hh, or null: zero
  const void* leak;             // [H], of a leaky cell
  void* saved;                  // [rows, H] of this step, of a leaky cell: act; or null
  void* hs;                     // [rows, H] of this step: h_{t-1} W_hh before, h afterwards
  void* state;                  // [B, H]: the last state of each row
  int* error;
};

// dz = (grad_hs + carry) act'(z), where carry is what the step after sends back to the state: of
// its product and, of a leaky cell, beside it. grad_h_last is that of a row's last step; what its
// first step sends, and a step with a reset, is added to grad_h0 or to nothing.
struct StepBackwardParams {
  long long rows, H, row;
  long long rows_after;         // of the step after
  const unsigned char* resets;  // [rows_after] of the step after, or null
  int resets_to_h0;
  const void* grad_hs;      // [rows, H] of this step, or null
  const void* grad_h_last;  // [B, H] or null
  const void* product;      // [B, H]: dz W_hh^T of the step after
  void* beside;             // [B, H], of a leaky cell
  const void* activity;     // [rows, H] of this step: act(z)
  const void* leak;         // [H], of a leaky cell
  const void* before;       // [rows, H] of this step, of a leaky cell: the state before
  void* grad_leak;          // [B, H], of a leaky cell, or null: added to
  void* dz;                 // [rows, H] of this step
  void* grad_h0;            // [B, H] or null
};

}  // namespace rnnfast::cuda
