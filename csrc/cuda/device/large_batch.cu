// The recurrence over all steps in one launch for large batches, on the tensor cores of sm_90a:
// rnn_forward, rnn_backward.
//
// A cluster of blocks holds one copy of W_hh, 64 columns in each block, and runs `rows` rows of the
// batch; the rows are independent recurrences, so nothing is exchanged between clusters.
//
// Macros, given with -D (large_batch_shape.h says what a valid variant is):
//   RF_BACKWARD    0: rnn_forward(RnnForwardParams), 1: rnn_backward(RnnBackwardParams)
//   RF_HP          H rounded up to 256, 512 or 1024
//   RF_CLUSTER     blocks per cluster: RF_HP / 64
//   RF_ROWS        batch rows of a cluster, at most
//   RF_PRODUCT     1: as exact as TF32, 2: as exact as float32
//   RF_BUFFERS     2: h is kept twice; 1: once, where more rows need the room
//   RF_MULTICASTS  0: a block sends its part of h to each other block, 1: once to all of them
//   RF_CELL        a code of csrc/cells/cells.h
// Launch: grid ceil(B / rows) * RF_CLUSTER, block 512, dynamic shared memory of
// LargeBatchShape::shared_bytes(), scratch of its scratch_bytes() for each block.
//
// Predicted for an H100, in cycles a step, from what a prototype took there (this kernel has not
// run): the products take 14.5 for each 16 k and half where a tile has up to 24 rows, 20 where it
// has 40; 0.85 go to each 16 bytes sent to each block, of which a half hides behind products; 500
// to the barriers, the partial sums and tanh. Where h is kept once, up to 150 go to a barrier of
// the cluster, a part of them behind tanh.
#include "large_batch_inputs.cuh"
#include "large_batch_product.cuh"

namespace rnnfast::cuda {

// h_0 into the first buffer, by each block alone.
RF_DEVICE void begin_state(const Sequence& p, const State& state, const Owned& own) {
  for (int source = 0; source < kCluster; ++source) {
    Owned part = own;
    part.column = source * kColumns + 2 * static_cast<int>(threadIdx.x & 31);
    part.columns = min(max(p.H - part.column, 0), 2);
    for (int row = threadIdx.x >> 5, i = 0; row < p.rows; row += kWarps, ++i) {
      const float2 h =
          part.has(i) ? part.read(p.first + part.in_state(p, i)) : make_float2(0.f, 0.f);
      state.put(state.slice(0, source), row, h, State::largest(h));
    }
  }
  fence_async();
}

// h_s M in this thread's columns of a row.
RF_DEVICE float2 product_of_row(const Sequence& p, const State& state, const Product& product,
                                const Owned& own, int s, int pass) {
  if (kBackward && s == 0) return make_float2(0.f, 0.f);
  float2 sum = product.sum(own.row(pass));
  // Where a factor is infinite or NaN, or a product too large, halves do not add up to the whole.
  if (!is_finite(sum.x) || !is_finite(sum.y)) {
    if (own.columns > 0) sum.x = state.product(p, s, own.row(pass), own.column);
    if (own.columns > 1) sum.y = state.product(p, s, own.row(pass), own.column + 1);
  }
  return sum;
}

RF_DEVICE float result(float z, float saved) {
  return kBackward ? Activation::through<Math>(z, Activation::slope<Math>(saved))
                   : Activation::of<Math>(z);
}

// Outputs of step s; those of the last step are h_last as well. The backward pass's step T has
// grad_h0 alone.
RF_DEVICE void store(const Sequence& p, const Owned& own, int s, const float2 (&v)[kPasses]) {
  s = keep_in_register(s);  // No address is kept since inputs were read: W_hh fills the registers.
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    if (!own.has(i)) continue;
    if (s < p.T) own.write(p.out + own.at(p, i, s), v[i]);
    if (p.last && s == (kBackward ? p.T : p.T - 1)) own.write(p.last + own.in_state(p, i), v[i]);
  }
}

RF_DEVICE void run_sequence(const Sequence& p) {
  const int rank = static_cast<int>(cluster_rank());
  const State state(p.rows);
  // Backward, one more step multiplies dz_0 by W_hh^T, for grad_h0.
  const int last = kBackward && p.last ? p.T : p.T - 1;
  Exchange exchange(p, state, rank, last);
  const Product product(p, rank * kColumns, p.rows);
  const int row0 = static_cast<int>(blockIdx.x / kCluster) * p.rows;
  const Owned own(p, row0, min(p.rows, p.B - row0), rank * kColumns);
  if constexpr (!kBackward) begin_state(p, state, own);
  cluster_barrier();
  Inputs inputs(p, own);
#pragma unroll 1
  for (int s = 0; s <= last; ++s) {
    inputs.read(p, own, s);
    if (!kBackward || s > 0) product.multiply(state, exchange, s);
    __syncthreads();
    float2 v[kPasses];
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      if (own.row(i) >= p.rows) continue;
      v[i] = product_of_row(p, state, product, own, s, i);
    }
    exchange.release(s);
    // Of all passes, without a branch. In one that has no row v is whatever it was, also
    // afterwards: it is neither sent nor stored.
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      if (s < p.T) {
        v[i] = make_float2(result(v[i].x + inputs.in[i].x, inputs.saved[i].x),
                           result(v[i].y + inputs.in[i].y, inputs.saved[i].y));
      }
      v[i] = own.without_padding(v[i]);
    }
    exchange.wait_for_room(s);
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      if (own.row(i) >= p.rows || s == last) continue;
      const unsigned largest = kBounded ? finite_magnitude(1.f) : State::largest(v[i]);
      state.put(state.slice(s + 1, rank), own.row(i), v[i], largest);
    }
    fence_async();
    __syncthreads();
    exchange.send(s);
    store(p, own, s, v);
  }
  cluster_barrier();  // no block leaves while another could still address it
}

}  // namespace rnnfast::cuda

// Behind what it calls.
#include "entry.cuh"
