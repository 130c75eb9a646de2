// The next ids from the logits of all sequences: a step of generation where decode.cu does not
// serve.
//
// Macros: RF_REAL   float or double
// Launch: a warp per sequence, so a grid of blocks of 256 threads that covers 32 B of them.
#include "decode_choice.cuh"

using namespace rnnfast::cuda;
using Real = RF_REAL;

extern "C" __global__ void __launch_bounds__(256) next_id(const __grid_constant__ ChooseParams p) {
  const int lane = threadIdx.x % 32, V = static_cast<int>(p.V);
  const long long b = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (b >= p.B) return;  // a whole warp
  Real* logits = static_cast<Real*>(p.logits) + b * p.V;
  for (int v = lane; v < V; v += 32) logits[v] += static_cast<const Real*>(p.bias)[v];
  __syncwarp();
  const int id = p.uniforms == nullptr
                     ? largest(logits, V)
                     : sample(logits, V, p.temperature, checked_uniform(p.uniforms[b], p.error));
  if (lane == 0) p.ids[b] = id;
}
