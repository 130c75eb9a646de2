// The steps of the recurrence in one block: the same loop for both passes.
#pragma once

#include "recurrence_exchange.cuh"
#include "recurrence_inputs.cuh"
#include "recurrence_product.cuh"

namespace rnnfast::cuda {

// Where everything lies in the dynamic shared memory: recurrence_shape.h counts the same.
struct Places {
  float4* weights;
  float *h, *stages;
  long long* ids;
  Mbarrier* full;

  RF_DEVICE explicit Places(int groups) {
    unsigned char* at = dynamic_shared();
    weights = reinterpret_cast<float4*>(at);
    at += kShape.weights_bytes();
    h = reinterpret_cast<float*>(at);
    at += groups * kShape.h_bytes();
    stages = reinterpret_cast<float*>(at);
    at += groups * kShape.inputs_bytes();
    ids = reinterpret_cast<long long*>(at);
    at += groups * kShape.ids_bytes();
    full = reinterpret_cast<Mbarrier*>(at);
  }
};

// h_0 in the first buffer, 0 in padding: of the forward pass; the backward one begins with no
// state.
RF_DEVICE void begin_state(const Sequence& p, float* h, int R, int row0, int rows) {
  for (int i = threadIdx.x; i < R * kHp; i += kThreads) {
    const int row = i / kHp, k = i % kHp;
    const bool exists = !kBackward && row < rows && k < p.H;
    h[i] = exists ? p.first[state_element(p, row0 + row, k)] : 0.f;
  }
}

// From a group of rows to the next, where `row` is from one row to the next.
RF_DEVICE long long group_floats(int row) { return static_cast<long long>(kRows) * row; }

// What a lane owns of each group of rows: kOutputs columns of one row.
struct Owned {
  int row, column;         // in the group and among the warp's columns
  int columns, real_rows;  // that are real: of its own columns, and from its row on
  long long at, in_state;  // floats from the beginning of a step and of [B, H], in group 0
  int saved;               // floats from its grad_hs to its hs, among the inputs
  float bias[kOutputs];

  RF_DEVICE Owned(const Sequence& p, int lane, int row0, int rows, int R, int warp_column)
      : saved(R * kWarpColumns) {
    const int first = lane % kShape.owners() * kOutputs;
    row = first / kWarpColumns;
    column = first % kWarpColumns;
    columns = p.H - (warp_column + column);
    at = element(p, 0, row0 + row, warp_column + column);
    in_state = state_element(p, row0 + row, warp_column + column);
    const bool has_copy = lane >= kShape.owners();  // of what another lane owns
    real_rows = has_copy || columns <= 0 ? 0 : rows - row;
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) {
      bias[j] = p.bias && j < columns ? p.bias[warp_column + column + j] : 0.f;
    }
  }

  RF_DEVICE void store(float* to, const float (&v)[kOutputs]) const {
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) {
      if (j < columns) to[j] = v[j];
    }
  }
};

// h_last from the last of hs: each lane what it has itself written.
RF_DEVICE void copy_last(const Sequence& p, const Owned& own) {
  const float* from = p.out + (p.T - 1) * p.step + own.at;
  float* to = p.last + own.in_state;
  for (int r = 0; r < own.real_rows; r += kRows) {
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) {
      if (j < own.columns) to[j] = from[j];
    }
    from += group_floats(p.row);
    to += group_floats(p.H);
  }
}

// All rows of the block, group by group, from h_s to h_{s+1}. The lane's inputs begin at `in` and
// its outputs go to `out`, whose rows are `row` floats apart. `is_extra`: the product alone, for
// grad_h0.
RF_DEVICE void run_step(Product& product, Exchange& exchange, const Owned& own, int s, int groups,
                        bool is_extra, const float* in, float* out, int row) {
  const float* h = exchange.begin_step(s) + product.h_offset();
#pragma unroll 1
  for (int g = 0; g < groups; ++g) {
    float v[kOutputs], add[kOutputs], slope[kOutputs], sent[kOutputs];
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) {  // read before the wait, which they would prolong
      v[j] = 0.f;
      add[j] = is_extra ? 0.f : in[j] + own.bias[j];
      slope[j] = kBackward && !is_extra ? Activation::slope<Math>(in[own.saved + j]) : 1.f;
    }
    exchange.wait();
    if (!kBackward || s > 0) product.multiply(h, v);
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) {
      v[j] = kBackward ? Activation::through<Math>(add[j] + v[j], slope[j])
                       : Activation::of<Math>(add[j] + v[j]);
      // Padding stays 0 whatever the real columns hold: infinity times its weights, 0, is NaN.
      sent[j] = j < own.columns ? v[j] : 0.f;
    }
    exchange.send(sent);
    if (g * kRows < own.real_rows) own.store(out, v);
    h += kRows * kHp;
    in += kRows * kWarpColumns;
    out += group_floats(row);
    exchange.next_group();
  }
}

RF_DEVICE void run_sequence(const Sequence& p) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int rank = static_cast<int>(cluster_rank());
  const int row0 = static_cast<int>(blockIdx.x / kCluster) * p.rows;
  const int rows = min(p.rows, p.B - row0), groups = (rows + kRows - 1) / kRows;
  const int groups_at_most = (p.rows + kRows - 1) / kRows, R = groups_at_most * kRows;
  const int block_column = rank * kShape.block_columns();
  const int warp_column = block_column + warp * kWarpColumns;
  const Places places(groups_at_most);
  const Owned own(p, lane, row0, rows, R, warp_column);

  // Backward, one more step multiplies dz_0 by W_hh^T, for grad_h0.
  const int steps = kBackward && p.last ? p.T + 1 : p.T;
  Product product(p, places.weights, warp, lane, block_column);
  begin_state(p, places.h, R, row0, rows);
  Exchange exchange(p, places.h, places.full, R, groups, steps - 1, own.row,
                    warp_column + own.column, lane, rank);
  cluster_barrier();
  Inputs inputs(p, places.stages, places.ids, R, warp, lane, row0, rows, warp_column);
  if (kBackward && p.first) {
    inputs.add_to_first(own.row, own.column, own.real_rows, own.columns, p.first + own.in_state,
                        group_floats(p.H));
  }

  float* out = p.out + own.at;
  for (int s = 0; s < steps; ++s) {
    inputs.advance(s);
    const bool is_extra = kBackward && s == p.T;
    run_step(product, exchange, own, s, groups, is_extra, inputs.at(s, own.row, own.column),
             is_extra ? p.last + own.in_state : out, is_extra ? p.H : p.row);
    out += p.step;
  }
  if (!kBackward && p.last) copy_last(p, own);
  cluster_barrier();  // no block leaves while another could still address it
}

}  // namespace rnnfast::cuda
