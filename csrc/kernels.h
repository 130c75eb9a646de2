// The interface between the operators (ops/) and the kernels (cpu/): raw pointers and sizes, no
// tensors.
//
// Letters: T steps, B batch, H hidden, V vocabulary. Every array is contiguous in the order given
// by its comment, except ids, which have strides. Arguments are already checked; a kernel trusts
// them. A null output is not computed. Kernels may be called from several threads at once; they
// throw std::bad_alloc when there is no memory for their workspace, and nothing else.
#pragma once

#include <cstdint>

namespace rnnfast {

// The thread pool the kernels run on. ops/schemas.cpp hands over torch's own once, at load time, so
// that no second pool competes with it; without one, everything runs on the calling thread.
struct ThreadPool {
  // Calls body(begin, end, context) on disjoint chunks that cover [0, tasks) and returns when all
  // are done. The chunks run at the same time, or [0, tasks) is one single chunk: the kernels'
  // barriers rely on that.
  void (*parallel_for)(int64_t tasks, void (*body)(int64_t begin, int64_t end, void* context),
                       void* context);
  int64_t (*num_threads)();
};
void set_thread_pool(const ThreadPool& pool);

// How a call of the recurrence goes through time, and which way its weights lie.
struct RnnOptions {
  bool transposed = false;  // the product is h W_hh^T; the gradient has the orientation of W_hh
  bool reverse = false;     // step t follows step t + 1, and h_last is the state after step 0
  // Sequences of different lengths: how many have a step t, [T], B at first and never more than
  // before; or null. Arrays [T, B, ...] then hold these rows alone, one step behind the other.
  const int64_t* batch_sizes = nullptr;
  // 2: both directions of a layer, the second in reverse. x, hs and their gradients are
  // [T, B, 2, H], weights and states [2, ...]; there are no ids and no readout.
  int64_t directions = 1;
  // [T, B]: where not 0, the state before step t becomes 0, or that of h0; or null.
  const uint8_t* resets = nullptr;
  bool resets_to_h0 = false;
  // u_t gets this times normal numbers that follow from the seed; forward alone.
  double noise = 0;
  uint64_t seed = 0;
};

// h_t = act(u_t + h_{t-1} W_hh + b_h),  u_t = x[ids_t] (a row of the table) or x_t.
template <class Real>
struct RnnForwardArgs {
  int64_t T, B, H, V;  // V: rows of the table; unused without ids
  const int64_t* ids;  // [T, B] in [0, V), or null
  int64_t ids_stride_t, ids_stride_b;
  const Real* x;     // [V, H] with ids, [T, B, H] without
  const Real* W_hh;  // [H, H]
  const Real* b_h;   // [H] or null
  const Real* h0;    // [B, H]
  int cell;          // cells/cells.h
  Real* hs;          // [T, B, H]
  Real* h_last;      // [B, H]
  // With a readout, logits_t = h_t W_hq + b_q; without one, classes is 0 and the rest null.
  int64_t classes;
  const Real* W_hq;  // [H, classes]
  const Real* b_q;   // [classes]
  Real* logits;      // [T, B, classes]
  RnnOptions options;
  // Of a cell that has them, see cells/.
  const Real* leak;  // [H]
  Real* saved;       // [T, B, H] or null
};

// dz_t = (grad_hs_t + grad_logits_t W_hq^T + [t = T-1] grad_h_last + dz_{t+1} W_hh^T) act'(hs_t),
// and what follows from it.
template <class Real>
struct RnnBackwardArgs {
  int64_t T, B, H, V;
  const int64_t* ids;  // as in the forward call
  int64_t ids_stride_t, ids_stride_b;
  const Real* grad_hs;      // [T, B, H] or null
  const Real* grad_h_last;  // [B, H] or null
  const Real* hs;           // [T, B, H]
  const Real* W_hh;         // [H, H]
  const Real* h0;           // [B, H]
  int cell;
  Real* grad_x;     // [V, H] with ids (rows that no id names become 0), else [T, B, H]
  Real* grad_W_hh;  // [H, H] or null
  Real* grad_b_h;   // [H] or null
  Real* grad_h0;    // [B, H] or null
  // Of a readout; without one, classes is 0 and the rest null. (grad_logits is null for B = 0,
  // too.)
  int64_t classes;
  const Real* grad_logits;  // [T, B, classes]
  const Real* W_hq;         // [H, classes]
  Real* grad_W_hq;          // [H, classes]
  Real* grad_b_q;           // [classes]
  RnnOptions options;
  // Of a cell that has them, see cells/.
  const Real* leak;   // [H]
  const Real* saved;  // [T, B, H]
  Real* grad_leak;    // [H] or null
};

// Gradients as runs of equal stride: one for a contiguous tensor, one for each row of another.
struct GradientSpan {
  void* values;  // float* or double*
  int64_t count, stride;
  bool is_double;
};

// norm = sqrt(sum of all squares), then every gradient is scaled in place.
struct ClipGradsArgs {
  const GradientSpan* spans;
  int64_t num_spans;
  bool shares_memory;  // between gradients: scaled as often as they are listed, in order
  double max_norm;
  bool d2l;  // scale by max_norm / norm where norm > max_norm; else by min(1, max_norm / (norm +
             // 1e-6))
  double* norm;  // before the scaling
};

// A contiguous parameter and its gradient.
struct SgdSpan {
  void* param;  // float* or double*
  void* grad;
  int64_t count;
  bool is_double;
};

// param -= step * grad, then grad = 0.
struct SgdArgs {
  const SgdSpan* spans;
  int64_t num_spans;
  bool shares_memory;  // between any two tensors: they are passed over in order
  double step;
};

// h = act(W_xh[id] + h W_hh + b_h), logits = h W_hq + b_q, and the next id, `steps` times.
template <class Real>
struct DecodeArgs {
  int64_t B, H, V, steps;
  const int64_t* first;    // [B] in [0, V)
  const Real* W_xh;        // [V, H]
  const Real* W_hh;        // [H, H]
  const Real* b_h;         // [H]
  const Real* W_hq;        // [H, V]
  const Real* b_q;         // [V]
  const Real* h0;          // [B, H]
  double temperature;      // > 0; unused without uniforms
  const double* uniforms;  // [steps, B] in [0, 1), or null: the largest logit wins
  int cell;
  int64_t* ids;  // [steps, B]
  Real* h_last;  // [B, H]
};

// logits_t = h_t W_hq + b_q,  loss = mean over t and b of -log softmax(logits)[target], and its
// gradients.
template <class Real>
struct CrossEntropyArgs {
  int64_t T, B, H, V;
  const int64_t* ids;  // [T, B] in [0, V)
  int64_t ids_stride_t, ids_stride_b;
  const int64_t* targets;  // [T, B] in [0, V)
  int64_t targets_stride_t, targets_stride_b;
  const Real* W_xh;  // [V, H]
  const Real* W_hh;  // [H, H]
  const Real* b_h;   // [H]
  const Real* W_hq;  // [H, V]
  const Real* b_q;   // [V]
  const Real* h0;    // [B, H]
  int cell;
  double* loss;
  Real* h_last;     // [B, H]; may be h0
  Real* grad_W_xh;  // as the parameters; all five, or all five null for the loss alone
  Real* grad_W_hh;
  Real* grad_b_h;
  Real* grad_W_hq;
  Real* grad_b_q;
  bool adds_gradients;  // to what these five hold; else they are overwritten
  Real* grad_h0;        // [B, H] or null
};

// The same with all five gradients, which are then scaled by max_norm / norm where their common
// norm is larger, and parameter -= lr * gradient.
template <class Real>
struct TrainStepArgs {
  CrossEntropyArgs<Real> cross_entropy;  // its gradients overwritten, not added to
  Real* W_xh;                            // the parameters again, to be written
  Real* W_hh;
  Real* b_h;
  Real* W_hq;
  Real* b_q;
  double lr, max_norm;
  bool keeps_gradients;  // false: the gradients' memory may hold anything afterwards
};

// The kernels of one element type, compiled for one instruction set.
template <class Real>
struct KernelsOf {
  void (*rnn_forward)(const RnnForwardArgs<Real>&);
  void (*rnn_backward)(const RnnBackwardArgs<Real>&);
  void (*decode)(const DecodeArgs<Real>&);
  void (*rnn_cross_entropy)(const CrossEntropyArgs<Real>&);
  void (*train_step)(const TrainStepArgs<Real>&);
};

struct Kernels {
  const char* isa;  // "avx512_bf16", "avx512", "avx2" or "baseline"
  KernelsOf<float> f32;
  KernelsOf<double> f64;
  void (*clip_grads)(const ClipGradsArgs&);
  void (*sgd)(const SgdArgs&);
  // With h and W_hh rounded to bfloat16 for their product, which is summed in float32, where that
  // is faster; exact elsewhere.
  void (*rnn_forward_bf16)(const RnnForwardArgs<float>&);
  void (*decode_bf16)(const DecodeArgs<float>&);
};

// The table for this machine, or for the one that RNNFAST_CPU_ISA names (cpu/isa.cpp).
// Throws std::runtime_error where that one is unknown, not built, or not supported by the CPU.
const Kernels& kernels();

// The instruction sets that this library was built for, the fastest first: "avx512_bf16 avx512 avx2
// baseline".
const char* built_instruction_sets();

}  // namespace rnnfast
