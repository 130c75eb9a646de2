// The kernel tables of all instruction sets, and the choice among them. Compiled once, for the
// baseline.
#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace rnnfast {

namespace {

struct InstructionSet {
  Kernels kernels;
  bool (*is_supported)();
  bool (*gains)() = [] { return true; };  // over the sets after it: whether it is chosen unasked
};

#define RNNFAST_KERNELS_OF(ISA, Real)                                  \
  {ISA::rnn_forward<Real>, ISA::rnn_backward<Real>, ISA::decode<Real>, \
   ISA::rnn_cross_entropy<Real>, ISA::train_step<Real>}
// NAME is ISA, or ISA with an instruction more that only kernels of bfloat16 use. Where such a
// kernel is no faster, the exact one stands in its place.
#define RNNFAST_KERNELS(NAME, ISA, FORWARD_BF16, DECODE_BF16) \
  {#NAME,                                                     \
   RNNFAST_KERNELS_OF(ISA, float),                            \
   RNNFAST_KERNELS_OF(ISA, double),                           \
   ISA::clip_grads,                                           \
   ISA::sgd,                                                  \
   FORWARD_BF16,                                              \
   DECODE_BF16}

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

bool has_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

// A layer takes 0.55 of the time on an EPYC, and 1.2 to 1.6 times as long on a Xeon, whose cores
// multiply bfloat16 no faster than float32. Generation, which waits for weights, gains on both.
bool gains_in_layers() { return __builtin_cpu_is("amd"); }
#endif

// What is faster comes first.
const InstructionSet kInstructionSets[] = {
#if defined(__x86_64__)
    {RNNFAST_KERNELS(avx512_bf16, avx512, avx512_bf16::rnn_forward_bf16, avx512_bf16::decode_bf16),
     has_bf16, gains_in_layers},
    {RNNFAST_KERNELS(avx512_bf16_decode, avx512, avx512::rnn_forward, avx512_bf16::decode_bf16),
     has_bf16},
    {RNNFAST_KERNELS(avx512, avx512, avx512::rnn_forward, avx512::decode_bf16), has_avx512},
    {RNNFAST_KERNELS(avx2, avx2, avx2::rnn_forward, avx2::decode_bf16),
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {RNNFAST_KERNELS(baseline, baseline, baseline::rnn_forward, baseline::decode),
     [] { return true; }},
};

const Kernels& fastest() {
  for (const InstructionSet& set : kInstructionSets) {
    if (set.is_supported() && set.gains()) return set.kernels;
  }
  return kInstructionSets[0].kernels;  // never reached: the baseline runs everywhere
}

const Kernels& named(const std::string& name) {
  const std::string where = "rnnfast: RNNFAST_CPU_ISA is '" + name + "'";
  for (const InstructionSet& set : kInstructionSets) {
    if (name != set.kernels.isa) continue;
    if (set.is_supported()) return set.kernels;
    throw std::runtime_error(where + ", which this CPU does not support");
  }
  throw std::runtime_error(where + "; it must be one of: " + built_instruction_sets());
}

}  // namespace

const char* built_instruction_sets() {
  static const std::string names = [] {
    std::string joined;
    for (const InstructionSet& set : kInstructionSets) {
      if (!joined.empty()) joined += ' ';
      joined += set.kernels.isa;
    }
    return joined;
  }();
  return names.c_str();
}

const Kernels& kernels() {
  static const Kernels& chosen = [&]() -> const Kernels& {
    const char* name = std::getenv("RNNFAST_CPU_ISA");
    return name == nullptr || *name == '\0' ? fastest() : named(name);
  }();
  return chosen;
}

}  // namespace rnnfast
