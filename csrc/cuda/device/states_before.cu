// The state before each step, rows as hs: with it, the gradient of W_hh is one product over all
// rows. One thread per element.
//
// Macros, given with -D:
//   RF_REAL  float or double
// Launch: a grid of blocks of 256 threads that covers T * B * H elements.
#include "params.h"

using namespace rnnfast::cuda;
using Real = RF_REAL;

extern "C" __global__ void states_before(const __grid_constant__ StatesBeforeParams p) {
  const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  const RecurrenceOptionsParams& o = p.options;
  const long long t = i / (p.B * p.H), n = i / p.H % p.B, j = i % p.H;
  const auto start = [&](long long time) {
    return o.starts == nullptr ? time * p.B : o.starts[time];
  };
  const long long length = o.lengths == nullptr ? p.T : o.lengths[n], earlier = t - o.way;
  if (t >= length) return;  // or behind the last element
  const bool is_reset = o.resets != nullptr && o.resets[t * p.B + n] != 0;
  const bool is_first = earlier < 0 || earlier >= length;
  Real before = 0;
  if (is_reset ? o.resets_to_h0 != 0 : is_first) {
    before = static_cast<const Real*>(p.h0)[n * p.H + j];
  } else if (!is_reset) {
    before = static_cast<const Real*>(p.hs)[(start(earlier) + n) * p.row + j];
  }
  static_cast<Real*>(p.before)[(start(t) + n) * p.row + j] = before;
}
