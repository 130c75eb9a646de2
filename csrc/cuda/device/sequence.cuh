// The problem that every kernel of a recurrence solves, and what they read and report alike.
#pragma once

#include "params.h"
#include "ptx.cuh"

namespace rnnfast::cuda {

constexpr unsigned kAllLanes = ~0u;

// Both directions as one problem: out_s = f(in_s, out_{s-1} M), with M = W_hh or W_hh^T.
struct Sequence {
  int T, B, H, rows;  // rows: of the batch, for a cluster
  int row;            // floats of in, saved and out from one row to the next
  long long step;     // ... from one step to the next
  long long V;
  const long long* ids;
  long long ids_stride_t, ids_stride_b;
  const float* in;     // x, whose table has rows of H floats, or grad_hs (or null)
  const float* saved;  // backward: hs
  const float* W_hh;
  const float* bias;   // forward: b_h or null
  const float* first;  // h0, or grad_h_last (or null)
  float* out;          // hs, or dz
  float* last;         // h_last (or null), or grad_h0 (or null)
  long long wait_limit;
  int* error;
  unsigned char* scratch;
  RecurrenceOptionsParams options;
};

RF_DEVICE void set_arrays(Sequence& s, const RnnForwardParams& p) {
  s.V = p.V, s.ids = p.ids, s.ids_stride_t = p.ids_stride_t, s.ids_stride_b = p.ids_stride_b;
  s.in = p.x, s.bias = p.b_h, s.first = p.h0, s.out = p.hs, s.last = p.h_last;
}

RF_DEVICE void set_arrays(Sequence& s, const RnnBackwardParams& p) {
  s.in = p.grad_hs, s.saved = p.hs, s.first = p.grad_h_last, s.out = p.dz, s.last = p.grad_h0;
}

template <class Params>
RF_DEVICE Sequence sequence_of(const Params& p) {
  Sequence s{.T = static_cast<int>(p.T),
             .B = static_cast<int>(p.B),
             .H = static_cast<int>(p.H),
             .rows = static_cast<int>(p.rows),
             .row = static_cast<int>(p.row),
             .step = p.step,
             .W_hh = p.W_hh,
             .wait_limit = p.wait_limit,
             .error = p.error,
             .scratch = p.scratch,
             .options = p.options};
  set_arrays(s, p);
  return s;
}

// Where in, saved and out have an element of the step that is taken as the s-th.
RF_DEVICE long long element(const Sequence& p, int s, int row, int column) {
  return s * p.step + static_cast<long long>(row) * p.row + column;
}

// Where first and last have one.
RF_DEVICE long long state_element(const Sequence& p, int row, int column) {
  return static_cast<long long>(row) * p.H + column;
}

RF_DEVICE void report(int* error, Error code) { atomicCAS(error, int{kErrorNone}, int{code}); }

// Waits for a phase of an mbarrier; false: its end has not come within the limit, which is
// reported. The same answer for the whole warp, so that it never parts.
RF_DEVICE bool ends_in_time(Mbarrier* barrier, unsigned parity, long long limit, int* error) {
  if (__all_sync(kAllLanes, mbarrier_done(barrier, parity))) return true;
  const long long start = clock64();
  while (!__all_sync(kAllLanes, mbarrier_done(barrier, parity))) {
    if (__any_sync(kAllLanes, clock64() - start > limit)) {
      report(error, kErrorTimeout);
      return false;
    }
  }
  return true;
}

// An id that is safe to use. The host cannot check ids without waiting for the device.
RF_DEVICE long long checked_id(const Sequence& p, long long id) {
  if (static_cast<unsigned long long>(id) < static_cast<unsigned long long>(p.V)) return id;
  report(p.error, kErrorId);
  return 0;
}

RF_DEVICE bool is_aligned(const void* p) {
  return (reinterpret_cast<unsigned long long>(p) & 15) == 0;
}

// Whether rows of H floats, H or 2 H apart, can be read as float4. H need not be a multiple of 4,
// and a tensor may begin anywhere in its storage.
RF_DEVICE bool has_float4_rows(const float* p, int H) { return H % 4 == 0 && is_aligned(p); }

// row[first .. first + 3], 0 from H on.
RF_DEVICE float4 load4(const float* row, int first, int H, bool as_float4) {
  float4 four = make_float4(0.f, 0.f, 0.f, 0.f);
  if (as_float4) {
    if (first < H) four = *reinterpret_cast<const float4*>(row + first);
  } else {
    if (first + 0 < H) four.x = row[first];
    if (first + 1 < H) four.y = row[first + 1];
    if (first + 2 < H) four.z = row[first + 2];
    if (first + 3 < H) four.w = row[first + 3];
  }
  return four;
}

}  // namespace rnnfast::cuda
