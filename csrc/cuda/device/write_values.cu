// Writes numbers that the host knows. As parameters of a kernel they need no copy, for which the
// host would have to wait, and become a part of a CUDA graph.
//
// Launch: a grid of blocks of 256 threads that covers the numbers.
#include "params.h"

using namespace rnnfast::cuda;

extern "C" __global__ void write_values(const __grid_constant__ WriteValuesParams p) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < p.count) p.to[i] = p.values[i];
}
