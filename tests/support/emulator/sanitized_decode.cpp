// One launch of decode per seed under ThreadSanitizer, as in sanitized.cpp. Compiled with the
// macros of decode.cu. The second block has no logits of its own.
#include <cstdio>
#include <vector>

#include "cuda_cpu.h"
#include "decode.cu"
#include "emulator.h"

namespace {

void kernel(const void* params) { decode(*static_cast<const DecodeParams*>(params)); }

}  // namespace

int main() {
  constexpr int B = kRows + 1, H = RF_HP - 1, V = 3, kSteps = 4;
  std::vector<float> W_xh(V * H, 0.25f), W_hh(H * H, 1.0f / H), b_h(H), W_hq(H * V), h0(B * H);
  std::vector<float> b_q{0.5f, 0.5f, 0.25f}, h_last(B * H);
  std::vector<long long> first(B, 1), ids(kSteps * B);
  std::vector<double> uniforms(kSteps * B, 0.5);
  int error = 0;
  DecodeParams params{};
  params.B = B;
  params.H = H;
  params.V = V;
  params.steps = kSteps;
  params.first = first.data();
  params.W_xh = W_xh.data();
  params.W_hh = W_hh.data();
  params.b_h = b_h.data();
  params.W_hq = W_hq.data();
  params.b_q = b_q.data();
  params.h0 = h0.data();
  params.temperature = 1;
  params.ids = ids.data();
  params.h_last = h_last.data();
  params.wait_limit = 1ll << 40;
  params.error = &error;
  const auto bytes = static_cast<unsigned>(DecodeLayout(kShape, H, V, RF_HOLDS_TABLES).bytes);
  for (unsigned seed = 0; seed < 3; ++seed) {
    params.uniforms = seed % 2 == 0 ? nullptr : uniforms.data();
    const EmulatorGeometry geometry{2 * RF_CLUSTER, RF_CLUSTER, kThreads, bytes, seed, 1};
    if (emulator_launch(kernel, &params, &geometry) != 0) {
      std::printf("%s\n", emulator_message());
      return 1;
    }
  }
  return error;
}
