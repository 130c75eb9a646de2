// What the parts of recurrence.cu share: the variant, the problem, loads, errors, the activation.
#pragma once

#include "number_math.cuh"
#include "params.h"
#include "ptx.cuh"
#include "recurrence_shape.h"

namespace rnnfast::cuda {

constexpr RecurrenceShape kShape{
    .hp = RF_HP,
    .cluster = RF_CLUSTER,
    .warps = RF_WARPS,
    .rows = RF_ROWS,
    .smem_chunks = RF_SMEM_CHUNKS,
    .product = RF_PRODUCT,
    .backward = RF_BACKWARD != 0,
};
static_assert(kShape.is_valid(), "no such variant: see recurrence_shape.h");

constexpr bool kBackward = RF_BACKWARD != 0;
constexpr int kHp = RF_HP, kCluster = RF_CLUSTER, kWarps = RF_WARPS, kRows = RF_ROWS;
constexpr int kThreads = kShape.threads();
constexpr int kWarpColumns = kShape.warp_columns();
constexpr int kLaneColumns = kShape.lane_columns();
constexpr int kStride = kShape.h_stride();
constexpr int kOutputs = kShape.outputs();
constexpr unsigned kAllLanes = ~0u;

// Both directions as one problem: out_s = f(in_s, out_{s-1} M), with M = W_hh or W_hh^T.
struct Sequence {
  int T, B, H, rows;
  long long V;
  const long long* ids;
  long long ids_stride_t, ids_stride_b;
  const float* in;     // x, or grad_hs (or null)
  const float* saved;  // backward: hs
  const float* W_hh;
  const float* bias;   // forward: b_h or null
  const float* first;  // h0, or grad_h_last (or null)
  float* out;          // hs, or dz
  float* last;         // h_last (or null), or grad_h0 (or null)
  long long wait_limit;
  int* error;
};

RF_DEVICE void report(int* error, Error code) { atomicCAS(error, int{kErrorNone}, int{code}); }

RF_DEVICE bool is_aligned(const void* p) {
  return (reinterpret_cast<unsigned long long>(p) & 15) == 0;
}

// Whether rows of H floats can be read as float4. H need not be a multiple of 4, and a tensor may
// begin anywhere in its storage.
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

// M[k .. k+3][column] for kColumns columns that lie `apart` from each other: one chunk of a thread.
// W_hh is read along its rows: along k where M is a transpose, else across columns.
template <int kColumns>
RF_DEVICE void load_chunk(const Sequence& p, int k, int column, int apart,
                          float4 (&chunk)[kColumns]) {
  const bool as_float4 = has_float4_rows(p.W_hh, p.H);
  if (kBackward || kColumns % 4 != 0) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int j = column + c * apart;
      float4 w = make_float4(0.f, 0.f, 0.f, 0.f);
      if (j < p.H) {
        if (kBackward) {
          w = load4(p.W_hh + static_cast<long long>(j) * p.H, k, p.H, as_float4);
        } else {
          const float* at = p.W_hh + static_cast<long long>(k) * p.H + j;
          if (k + 0 < p.H) w.x = at[0];
          if (k + 1 < p.H) w.y = at[p.H];
          if (k + 2 < p.H) w.z = at[2ll * p.H];
          if (k + 3 < p.H) w.w = at[3ll * p.H];
        }
      }
      chunk[c] = w;
    }
  } else {
#pragma unroll
    for (int c = 0; c < kColumns; c += 4) {
      float4 row[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        row[e] = make_float4(0.f, 0.f, 0.f, 0.f);
        if (k + e < p.H) {
          row[e] = load4(p.W_hh + static_cast<long long>(k + e) * p.H, column + c, p.H, as_float4);
        }
      }
      chunk[c] = make_float4(row[0].x, row[1].x, row[2].x, row[3].x);
      chunk[c + 1] = make_float4(row[0].y, row[1].y, row[2].y, row[3].y);
      chunk[c + 2] = make_float4(row[0].z, row[1].z, row[2].z, row[3].z);
      chunk[c + 3] = make_float4(row[0].w, row[1].w, row[2].w, row[3].w);
    }
  }
}

using Activation = cells::ActivationOf<RF_CELL>::type;
using Math = NumberMath<float>;

}  // namespace rnnfast::cuda
