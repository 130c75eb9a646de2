// The recurrence over all steps in one launch, W_hh held on the chip: rnn_forward, rnn_backward.
//
// One cluster of blocks holds one copy of W_hh and runs `rows` rows of the batch, in groups; the
// rows are independent recurrences, so nothing is exchanged between clusters.
//
// Macros, given with -D:
//   RF_BACKWARD       0: rnn_forward(RnnForwardParams), 1: rnn_backward(RnnBackwardParams)
//   RF_HP             H rounded up to a multiple of 128
//   RF_CLUSTER        blocks per cluster: 2, 4, 8, 16 (16 needs the attribute for sizes that are
//   not
//                     portable)
//   RF_WARPS          warps per block
//   RF_ROWS           batch rows per group: 1, 2, 4, 8, 16
//   RF_CELL           a code of csrc/cells/cells.h
//   RF_SMEM_CHUNKS    of each thread's RecurrenceShape::chunks() chunks of weights, how many lie in
//                     shared memory; the others lie in registers
// Launch: grid ceil(B / rows) * RF_CLUSTER, block 32 * RF_WARPS, dynamic shared memory of
// RecurrenceShape::shared_bytes() (recurrence_shape.h, which also says what a valid variant is).
//
// C++20; nvcc also needs --expt-relaxed-constexpr, NVRTC needs -default-device.
#include "recurrence_steps.cuh"

// Behind what it calls.
#include "entry.cuh"
