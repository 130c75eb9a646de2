// Generation in the arguments' own type.
#include "decode.h"

#include "isa.h"

namespace rnnfast::RNNFAST_ISA {

template <class Real>
void decode(const DecodeArgs<Real>& args) {
  if (args.B == 0) return;
  Decoder<Real, Real>(args).run();
}

template void decode(const DecodeArgs<float>&);
template void decode(const DecodeArgs<double>&);

}  // namespace rnnfast::RNNFAST_ISA
