// One forward launch per seed under ThreadSanitizer: no other thread may touch what a thread writes
// without a barrier or an arrival between them. Compiled with the macros of a unit, EMULATED_UNIT,
// and the launch: STEPS, CLUSTERS of CLUSTER blocks, ROWS of the batch for each, SHARED_BYTES, and
// SCRATCH_BYTES for each block.
#include <cstdio>
#include <vector>

#include "cuda_cpu.h"
#include "emulator.h"

// Behind the machine that it runs on.
#include EMULATED_UNIT

namespace {

using namespace rnnfast::cuda;

void kernel(const void* params) { rnn_forward(*static_cast<const RnnForwardParams*>(params)); }

}  // namespace

int main() {
  constexpr int T = STEPS, V = 3, H = RF_HP - 1, B = CLUSTERS * ROWS;
  std::vector<float> x(V * H, 0.25f), W_hh(H * H, 1.0f / H), b_h(H, 0.5f), h0(B * H, 0.125f);
  std::vector<float> hs(T * B * H), h_last(B * H);
  std::vector<long long> ids(T * B, V - 1);
  std::vector<unsigned char> scratch(CLUSTERS * CLUSTER * SCRATCH_BYTES);
  int error = 0;
  RnnForwardParams params{
      T,           B,          H,         V,         ids.data(),    B, 1,     x.data(),
      W_hh.data(), b_h.data(), h0.data(), hs.data(), h_last.data(), H, B * H, ROWS,
      1ll << 40,   &error};
  params.scratch = scratch.data();
  for (unsigned seed = 0; seed < 3; ++seed) {
    const EmulatorGeometry geometry{CLUSTERS * CLUSTER, CLUSTER, kThreads, SHARED_BYTES, seed, 1};
    if (emulator_launch(kernel, &params, &geometry) != 0) {
      std::printf("%s\n", emulator_message());
      return 1;
    }
  }
  return error;
}
