// Generation with h and W_hh rounded to bfloat16 for their product: half the memory to read in each
// step. W_hq stays in float32: it decides which logit is the largest, and is small beside W_hh.
#include "decode.h"
#include "isa.h"

namespace rnnfast::RNNFAST_ISA {

void decode_bf16(const DecodeArgs<float>& args) {
  if (args.B == 0) return;
  Decoder<float, Pair>(args).run();
}

}  // namespace rnnfast::RNNFAST_ISA
