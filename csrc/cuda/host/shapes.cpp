// What a launch of a unit's variant needs, by the headers that the device code itself uses: one
// truth for kernel_table.py, which calls this by ctypes.
#include <cstdint>
#include <cstring>

#include "cuda/device/cluster_shape.h"
#include "cuda/device/decode_shape.h"
#include "cuda/device/large_batch_shape.h"
#include "cuda/device/single_block_shape.h"

namespace rnnfast::cuda {

namespace {

struct Needs {
  int64_t threads;            // of a block
  int64_t shared_bytes;       // ... dynamic
  int64_t scratch_bytes = 0;  // of global memory, for each block
};

// `m` has the macros in the order of the shape's members, then whether the pass is backward and the
// cell leaky.
bool needs_of_cluster(const int* m, Needs* needs) {
  const ClusterShape shape{m[0], m[1], m[2], m[3], m[4] != 0, m[5] != 0};
  if (!shape.is_valid()) return false;
  *needs = {shape.threads(), shape.shared_bytes()};
  return true;
}

// `m` has the macros in the order of the shape's members.
bool needs_of_large_batch(const int* m, Needs* needs) {
  const LargeBatchShape shape{m[0], m[1], m[2], m[3], m[4], m[5]};
  if (!shape.is_valid()) return false;
  *needs = {shape.kThreads, shape.shared_bytes(), shape.scratch_bytes()};
  return true;
}

// `m` has the macros in the order of the shape's members, then whether the pass is backward and the
// cell leaky.
bool needs_of_single_block(const int* m, Needs* needs) {
  const SingleBlockShape shape{m[0], m[1], m[2], m[3], m[4] != 0, m[5] != 0};
  if (!shape.is_valid()) return false;
  *needs = {shape.threads(), shape.shared_bytes()};
  return true;
}

// `m` has the macros in the order of the shape's members, then whether a block holds the tables.
bool needs_of_decode(const int* m, int64_t H, int64_t V, Needs* needs) {
  const DecodeShape shape{m[0], m[1], m[2], m[3], m[4]};
  if (!shape.is_valid()) return false;
  *needs = {shape.threads(), DecodeLayout(shape, H, V, m[5] != 0).bytes};
  return true;
}

}  // namespace

}  // namespace rnnfast::cuda

// Returns 0 where there is no such shape.
extern "C" __attribute__((visibility("default"))) int rnnfast_cuda_needs(
    const char* unit, const int* macros, int64_t H, int64_t V, rnnfast::cuda::Needs* needs) {
  using namespace rnnfast::cuda;
  if (std::strcmp(unit, "cluster") == 0) return needs_of_cluster(macros, needs);
  if (std::strcmp(unit, "large_batch") == 0) return needs_of_large_batch(macros, needs);
  if (std::strcmp(unit, "single_block") == 0) return needs_of_single_block(macros, needs);
  if (std::strcmp(unit, "decode") == 0) return needs_of_decode(macros, H, V, needs);
  return 0;
}
