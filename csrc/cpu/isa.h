// The kernels as each instruction set provides them.
//
// Every kernel source is compiled once per instruction set, with RNNFAST_ISA defined to its name on
// the command line (-DRNNFAST_ISA=avx512), inside namespace rnnfast::RNNFAST_ISA; isa.cpp, compiled
// once and for the baseline, collects them into tables and picks one at run time.
//
// A source that is compiled per instruction set must not emit an inline function of a shared
// namespace (std::vector, std::sort, ...): the linker keeps one copy of such a function, and that
// copy may use instructions that the machine lacks. What has state or needs the standard library
// stands in parallel.cpp and workspace.cpp, which are compiled once.
#pragma once

#include "kernels.h"

#define RNNFAST_DECLARE_KERNELS(ISA)                     \
  namespace rnnfast::ISA {                               \
  template <class Real>                                  \
  void rnn_forward(const RnnForwardArgs<Real>&);         \
  template <class Real>                                  \
  void rnn_backward(const RnnBackwardArgs<Real>&);       \
  template <class Real>                                  \
  void decode(const DecodeArgs<Real>&);                  \
  template <class Real>                                  \
  void rnn_cross_entropy(const CrossEntropyArgs<Real>&); \
  template <class Real>                                  \
  void train_step(const TrainStepArgs<Real>&);           \
  void clip_grads(const ClipGradsArgs&);                 \
  void sgd(const SgdArgs&);                              \
  void rnn_forward_bf16(const RnnForwardArgs<float>&);   \
  void decode_bf16(const DecodeArgs<float>&);            \
  }

#ifdef RNNFAST_ISA
RNNFAST_DECLARE_KERNELS(RNNFAST_ISA)
#else
RNNFAST_DECLARE_KERNELS(avx512_bf16)  // those of *_bf16.cpp alone
RNNFAST_DECLARE_KERNELS(avx512)
RNNFAST_DECLARE_KERNELS(avx2)
RNNFAST_DECLARE_KERNELS(baseline)
#endif
