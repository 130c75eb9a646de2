// The recurrence over all steps in one launch by clusters of blocks, each with up to four rows of
// the batch, W_hh held on the chip: rnn_forward, rnn_backward.
//
// Macros, given with -D (cluster_shape.h says what a valid variant is):
//   RF_BACKWARD     0: rnn_forward(RnnForwardParams), 1: rnn_backward(RnnBackwardParams)
//   RF_HP           H rounded up to a multiple of 128
//   RF_CLUSTER      blocks per cluster: 2, 4, 8, 16 (16 needs the attribute for sizes that are not
//                   portable)
//   RF_ROWS         batch rows of a cluster: 1, 2 or 4
//   RF_SMEM_CHUNKS  of each thread's RF_HP / 128 chunks of weights, how many lie in shared memory;
//                   the others lie in registers
//   RF_CELL         a code of csrc/cells/cells.h
//   RF_OPTIONS      1: knows lengths, resets and leaky cells (options.cuh); may be left out
// Launch: grid ceil(B / rows) * RF_CLUSTER, block ClusterShape::threads(), dynamic shared memory of
// ClusterShape::shared_bytes().
//
// Predicted for an H100 at H = 512 and one row: 815 cycles a step with 16 blocks and 1005 with 8,
// of which 320 go to the exchange. A prototype of the kernel has taken so many; this one has not
// run.
#include "cluster_exchange.cuh"
#include "cluster_inputs.cuh"

namespace rnnfast::cuda {

// h_0, by each block alone, and 0 in padding.
RF_DEVICE void begin_state(const Sequence& p, int row0, int rows) {
  float* h = Exchange::state(0);
  for (int i = threadIdx.x; i < kRows * kHp; i += kThreads) {
    const int row = i / kHp, k = i % kHp;
    const bool exists = !kBackward && row < rows && k < p.H && !begins_with_0(p, row0 + row);
    h[i] = exists ? p.first[state_element(p, row0 + row, k)] : 0.f;
  }
}

// Of an output, from the sum and its inputs.
RF_DEVICE float result(float sum, const Inputs& inputs) {
  if (!kBackward) return Activation::of<Math>(sum + inputs.in);
  return Activation::through<Math>(sum + inputs.in, Activation::slope<Math>(inputs.saved));
}

// The same with options; held: what the product has read of the output itself.
RF_DEVICE UnitHere::Result result(float sum, const Inputs& inputs, UnitHere& unit, StepOfRow step,
                                  float held) {
  return unit.step(step, sum + (inputs.in + unit.carry()), inputs.saved, inputs.before, held);
}

RF_DEVICE void run_sequence(Sequence p) {
  const int rank = static_cast<int>(cluster_rank());
  const Output output(rank);
  const Product product(p, output);
  const int row0 = static_cast<int>(blockIdx.x / kCluster) * p.rows;
  const int rows = min(p.rows, p.B - row0);
  if constexpr (kOptions) p.T = length_of(p, row0);
  CourseHere course(p, row0, threadIdx.x & 31);
  // Backward, one more step multiplies dz_0 by W_hh^T, for grad_h0.
  const int last = kBackward && p.last ? p.T : p.T - 1;
  Exchange exchange(p, rank, last);
  begin_state(p, row0, rows);
  cluster_barrier();
  const bool exists = output.is_owner && output.row < rows && output.column < p.H;
  const int row = row0 + output.row;
  UnitHere unit;
  if constexpr (kOptions) unit.begin(p, min(row, p.B - 1), min(output.column, p.H - 1));
  Inputs inputs(p, course, row, output.row, output.column, exists);
  float v = 0.f;
#pragma unroll 1
  for (int s = 0; s <= last; ++s) {
    if (kOptions && s % 32 == 0) {
      course.turn(s);
      unit.end_run();
    }
    inputs.advance(s);
    exchange.wait(s);
    v = kBackward && s == 0 ? 0.f : product.multiply(Exchange::state(s));
    float next = v;
    if (s < p.T) {
      if constexpr (kOptions) {
        const float held = Exchange::state(s)[output.row * kHp + output.column];
        const auto both = result(v, inputs, unit, course.at(output.row, s), held);
        v = both.value, next = both.next;
      } else {
        v = next = result(v, inputs);
      }
    } else if (kOptions) {
      v += unit.carry_to_h0(p);
    }
    // Padding stays 0 whatever the real columns hold: infinity times its weights, 0, is NaN.
    if (output.is_owner) {
      Exchange::state(s + 1)[output.row * kHp + output.column] = exists ? next : 0.f;
    }
    __syncthreads();
    exchange.send(s);
    const long long start = course.start(s);
    if (exists && s < p.T && course.takes_part(output.row, s)) {
      // The address is computed anew, for W_hh leaves no registers to keep it in.
      const long long at = element(p, s, start, keep_in_register(row), output.column);
      p.out[at] = v;
      if (!kBackward && kLeaky && p.options.saved != nullptr) p.options.saved[at] = unit.activity();
    }
  }
  if (exists && p.last) p.last[state_element(p, keep_in_register(row), output.column)] = v;
  if (kBackward && kLeaky && exists && p.options.grad_leak != nullptr) {
    p.options.grad_leak[state_element(p, keep_in_register(row), output.column)] = unit.grad_leak();
  }
  cluster_barrier();  // no block leaves while another could still address it
}

}  // namespace rnnfast::cuda

// Behind what it calls.
#include "entry.cuh"
