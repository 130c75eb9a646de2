// The inputs of a step: read into registers before the wait for h, used after the product.
#pragma once

#include "large_batch_common.cuh"

namespace rnnfast::cuda {

constexpr int kPasses = (RF_ROWS + kWarps - 1) / kWarps;

// What a thread finishes in each step: of the block's rows warp, warp + 16, ... the columns 2 *
// lane and 2 * lane + 1.
struct Owned {
  int row0, rows;       // of the batch: the cluster's first, and how many it has
  int column, columns;  // of H: the first, and how many exist: 0, 1, 2
  bool as_float2;       // both, and in all tensors they begin at a multiple of 8 bytes

  RF_DEVICE Owned(const Sequence& p, int row0, int rows, int block_column)
      : row0(row0),
        rows(rows),
        column(block_column + 2 * static_cast<int>(threadIdx.x & 31)),
        columns(min(max(p.H - column, 0), 2)) {
    const auto bits = [](const void* at) { return reinterpret_cast<unsigned long long>(at); };
    const unsigned long long all =
        bits(p.in) | bits(p.saved) | bits(p.bias) | bits(p.first) | bits(p.out) | bits(p.last);
    as_float2 = p.H % 2 == 0 && all % 8 == 0;
  }

  RF_DEVICE static int row(int pass) { return static_cast<int>(threadIdx.x >> 5) + kWarps * pass; }
  RF_DEVICE bool has(int pass) const { return row(pass) < rows; }

  // Where its columns of a row begin, in a step and in [B, H]. The latter is computed anew wherever
  // it is needed, which is not in every step: there are no registers to keep it.
  RF_DEVICE long long at(const Sequence& p, int pass, int s) const {
    return element(p, s, row0 + row(pass), column);
  }
  RF_DEVICE long long in_state(const Sequence& p, int pass) const {
    return state_element(p, keep_in_register(row0) + row(pass), column);
  }

  RF_DEVICE float2 read(const float* from) const {
    if (as_float2) {
      return columns > 0 ? *reinterpret_cast<const float2*>(from) : make_float2(0.f, 0.f);
    }
    return make_float2(columns > 0 ? from[0] : 0.f, columns > 1 ? from[1] : 0.f);
  }

  // Padding is 0 whatever the real columns hold: infinity times its weights, 0, is NaN.
  RF_DEVICE float2 without_padding(float2 v) const {
    return make_float2(columns > 0 ? v.x : 0.f, columns > 1 ? v.y : 0.f);
  }

  RF_DEVICE void write(float* to, float2 v) const {
    if (as_float2) {
      if (columns > 0) *reinterpret_cast<float2*>(to) = v;
    } else {
      if (columns > 0) to[0] = v.x;
      if (columns > 1) to[1] = v.y;
    }
  }
};

class Inputs {
 public:
  // x + b_h or grad_hs, and in the backward pass hs. What lies in registers from one step to the
  // next is little: W_hh fills most of them.
  float2 in[kPasses], saved[kPasses];

  RF_DEVICE Inputs(const Sequence& p, const Owned& own) { fetch_ids(p, own, 0); }

  // Those of step s. Ids are read one step before their rows: one latency, not two.
  RF_DEVICE void read(const Sequence& p, const Owned& own, int s) {
    const float2 bias = p.bias ? own.read(p.bias + own.column) : make_float2(0.f, 0.f);
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      in[i] = saved[i] = make_float2(0.f, 0.f);
      if (!own.has(i) || s == p.T) continue;
      if (gathers(p)) {
        in[i] = own.read(p.in + static_cast<long long>(ids_[i]) * p.H + own.column);
      } else if (p.in) {
        in[i] = own.read(p.in + own.at(p, i, s));
      }
      if (kBackward) saved[i] = own.read(p.saved + own.at(p, i, s));
      if (!kBackward) in[i] = sum(in[i], bias);
      if (kBackward && s == 0 && p.first)
        in[i] = sum(in[i], own.read(p.first + own.in_state(p, i)));
    }
    if (s + 1 < p.T) fetch_ids(p, own, s + 1);
  }

 private:
  RF_DEVICE static float2 sum(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }

  RF_DEVICE static bool gathers(const Sequence& p) { return !kBackward && p.ids != nullptr; }

  RF_DEVICE void fetch_ids(const Sequence& p, const Owned& own, int s) {
    if (!gathers(p)) return;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      if (!own.has(i)) continue;
      ids_[i] = static_cast<int>(
          checked_id(p, p.ids[s * p.ids_stride_t + (own.row0 + own.row(i)) * p.ids_stride_b]));
    }
  }

  int ids_[kPasses];  // a table of 2^31 rows fits no memory
};

}  // namespace rnnfast::cuda
