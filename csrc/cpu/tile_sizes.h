// From a tile size that is known at run time only to the code for it.
#pragma once

#include "tile.h"

namespace rnnfast::RNNFAST_ISA {

// Calls task.run<Rows, vectors>() for 1 to Vectors vectors.
template <int Rows, int Vectors, class Task>
RNNFAST_INLINE void run_vectors(int vectors, const Task& task) {
  if constexpr (Vectors > 1) {
    if (vectors < Vectors) return run_vectors<Rows, Vectors - 1>(vectors, task);
  }
  task.template run<Rows, Vectors>();
}

// Calls task.run<rows, vectors>() for 1 to Rows rows and 1 to Vectors vectors.
template <int Rows, int Vectors, class Task>
RNNFAST_INLINE void run_sizes(int rows, int vectors, const Task& task) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return run_sizes<Rows - 1, Vectors>(rows, vectors, task);
  }
  run_vectors<Rows, Vectors>(vectors, task);
}

template <class Task>
void run_tile(int rows, int vectors, const Task& task) {
  run_sizes<kTileRows, kTileVectors>(rows, vectors, task);
}

}  // namespace rnnfast::RNNFAST_ISA
