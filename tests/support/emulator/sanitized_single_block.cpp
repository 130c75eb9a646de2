// One forward launch per seed under ThreadSanitizer: no other thread may touch what a thread writes
// without a barrier or an arrival between them. Compiled with the macros of single_block.cu.
#include <cstdio>
#include <vector>

#include "cuda_cpu.h"
#include "emulator.h"
#include "single_block.cu"

namespace {

using namespace rnnfast::cuda;

void kernel(const void* params) { rnn_forward(*static_cast<const RnnForwardParams*>(params)); }

}  // namespace

int main() {
  constexpr int T = 37, V = 3, H = kHp - 1, rows = kRows, B = rows + 1;
  std::vector<float> x(V * H, 0.25f), W_hh(H * H, 1.0f / H), b_h(H, 0.5f), h0(B * H, 0.125f);
  std::vector<float> hs(T * B * H), h_last(B * H);
  std::vector<long long> ids(T * B, V - 1);
  int error = 0;
  const RnnForwardParams params{
      T,           B,          H,         V,         ids.data(),    B,    1,         x.data(),
      W_hh.data(), b_h.data(), h0.data(), hs.data(), h_last.data(), rows, 1ll << 40, &error};
  for (unsigned seed = 0; seed < 4; ++seed) {
    const EmulatorGeometry geometry{2,    1, kThreads, static_cast<unsigned>(kShape.shared_bytes()),
                                    seed, 1};
    if (emulator_launch(kernel, &params, &geometry) != 0) {
      std::printf("%s\n", emulator_message());
      return 1;
    }
  }
  return error;
}
