// recurrence_shape.h and decode_shape.h for choose_recurrence.py and choose_decode.py: one truth
// about what a variant needs.
#include <cstdint>

#include "cuda/device/decode_shape.h"
#include "cuda/device/recurrence_shape.h"

using rnnfast::cuda::DecodeLayout;
using rnnfast::cuda::DecodeShape;
using rnnfast::cuda::RecurrenceShape;

// `macros` is in the order of RecurrenceShape's members. Writes threads, chunks, chunks in
// registers, columns per thread, fixed bytes of shared memory and bytes per group of rows; returns
// whether the shape is valid.
extern "C" __attribute__((visibility("default"))) int rnnfast_cuda_shape(const int* macros,
                                                                         int backward, int* facts) {
  const RecurrenceShape shape{macros[0], macros[1], macros[2], macros[3],    macros[4],
                              macros[5], macros[6], macros[7], backward != 0};
  if (!shape.is_valid()) return 0;
  facts[0] = shape.threads();
  facts[1] = shape.chunks();
  facts[2] = shape.register_chunks();
  facts[3] = shape.chunk_columns();
  facts[4] = static_cast<int>(shape.shared_bytes(0));
  facts[5] = static_cast<int>(shape.shared_bytes(1) - shape.shared_bytes(0));
  return 1;
}

// `macros` is in the order of DecodeShape's members. Returns the bytes of shared memory that a
// block of decode.cu needs, or -1 where there is no such shape.
extern "C" __attribute__((visibility("default"))) int64_t
rnnfast_cuda_decode_bytes(const int* macros, int64_t H, int64_t V, int holds_tables) {
  const DecodeShape shape{macros[0], macros[1], macros[2], macros[3], macros[4]};
  if (!shape.is_valid()) return -1;
  return DecodeLayout(shape, H, V, holds_tables != 0).bytes;
}
