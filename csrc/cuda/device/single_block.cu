// The recurrence over all steps in one launch, W_hh held by one block: rnn_forward, rnn_backward.
//
// A block runs `rows` sequences of the batch; several blocks share a multiprocessor where there is
// room. Nothing is exchanged between blocks.
//
// Macros, given with -D:
//   RF_BACKWARD    0: rnn_forward(RnnForwardParams), 1: rnn_backward(RnnBackwardParams)
//   RF_HP          H rounded up to a multiple of 32
//   RF_LANES       lanes that share a sum over k
//   RF_ROWS        batch rows per block: 1 or an even number
//   RF_SMEM_SLOTS  of a lane's RF_LANES columns, the weights of how many lie in shared memory; the
//                  others lie in registers
//   RF_GATHERS     forward, whether x is a table of which ids choose the rows
//   RF_CELL        a code of csrc/cells/cells.h
//   RF_OPTIONS     1: knows lengths, resets and leaky cells (options.cuh); may be left out
// Launch: grid ceil(B / RF_ROWS), block RF_HP, dynamic shared memory of
// SingleBlockShape::shared_bytes() (single_block_shape.h).
//
// C++20; nvcc also needs --expt-relaxed-constexpr, NVRTC needs -default-device.
#include "single_block_steps.cuh"

// Behind what it calls.
#include "entry.cuh"
