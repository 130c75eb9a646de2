// The kernel of a recurrence, for the units that have run_sequence(), kThreads, and kLeastBlocks,
// for which a multiprocessor must have room: by RF_BACKWARD rnn_forward or rnn_backward.
#pragma once

#include "sequence.cuh"

namespace rnnfast::cuda {

#if RF_BACKWARD

extern "C" __global__ void __launch_bounds__(kThreads, kLeastBlocks)
    rnn_backward(const __grid_constant__ RnnBackwardParams p) {
  run_sequence(sequence_of(p));
}

#else

extern "C" __global__ void __launch_bounds__(kThreads, kLeastBlocks)
    rnn_forward(const __grid_constant__ RnnForwardParams p) {
  run_sequence(sequence_of(p));
}

#endif

}  // namespace rnnfast::cuda
