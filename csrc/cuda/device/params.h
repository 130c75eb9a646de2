// The parameters of the CUDA kernels: what the launcher fills in on the host and the device reads.
//
// Letters: T steps, B batch, H hidden, V vocabulary. Every array is contiguous in the order given
// by its comment, except where strides are given. Sizes and strides are 64 bits wide. Null means
// absent where the comment says so. No includes: NVRTC compiles this file as well.
#pragma once

namespace rnnfast::cuda {

// What a kernel writes to its error word, which the host clears before and reads when it likes.
// The first code that is written stays.
enum Error : int {
  kErrorNone = 0,
  kErrorId = 1,       // an id outside [0, V): taken as 0, so that nothing is read out of bounds
  kErrorTarget = 2,   // the same for a target
  kErrorTimeout = 3,  // a wait between blocks passed wait_limit: the results are undefined
  kErrorUniform = 4   // a uniform number outside [0, 1)
};

// ---- the recurrence: cluster.cu, large_batch.cu, single_block.cu

// What a call may have beyond the plain recurrence, for kernels that are compiled with RF_OPTIONS.
// With it ids, x, hs and the gradients point to time 0, and from one step to the next time goes by
// `way`, from 0 on or back to it.
//
// A row of the batch takes part in the times below its length. Elsewhere it holds its state, and
// nothing of it is read or stored.
struct RecurrenceOptionsParams {
  long long way;                // -1 backwards through time, else 1
  const long long* starts;      // [T]: the row of x, hs, ... where those of a time begin, or null:
                                // t * B. With it ids is [N]
  const long long* lengths;     // [B], falling: of how many steps a sequence is; null: T each
  const unsigned char* resets;  // [T, B]: where not 0, the state before that time becomes 0 or
                                // that of h0; or null
  int resets_to_h0;
  const float* leak;    // [H], of a leaky cell
  float* saved;         // forward, leaky: act(z_t), rows as hs; or null
  const float* before;  // backward, leaky: the states before each step's product, rows as hs
  float* grad_leak;     // backward, leaky: [B, H], summed over the steps; or null
};

// h_t = act(u_t + h_{t-1} W_hh + b_h),  u_t = x[ids_t] (a row of the table) or x_t.
// T, B, H >= 1, each below 2^31; with ids also V >= 1.
//
// Steps are taken in the order of the recurrence, which may go backwards through time: ids, x and
// hs point to the step that is taken first, and from one to the next are `step` floats.
//
// A kernel has one direction. Of a layer with both, [T, B, 2 H], it has half of each row.
struct RnnForwardParams {
  long long T, B, H, V;  // V: rows of the table; unused without ids
  const long long* ids;  // [T, B], or null
  long long ids_stride_t, ids_stride_b;
  const float* x;     // [V, H] with ids, [T, B, H] without
  const float* W_hh;  // [H, H]
  const float* b_h;   // [H] or null
  const float* h0;    // [B, H]
  float* hs;          // [T, B, H]
  float* h_last;      // [B, H] or null
  long long row;      // floats from one row of hs, and of x without ids, to the next: H or 2 H
  long long step;     // B * row, or -B * row backwards through time
  long long rows;     // of the batch per cluster: the grid has ceil(B / rows) * RF_CLUSTER blocks
  long long wait_limit;  // of any wait between blocks, in clock cycles: 2e10 is about ten seconds
  int* error;
  unsigned char* scratch;  // of all blocks, aligned to 16 bytes, or null: the variant needs none
  RecurrenceOptionsParams options;
};

// dz_t = (grad_hs_t + [t = T-1] grad_h_last + dz_{t+1} W_hh^T) act'(h_t),  grad_h0 = dz_0 W_hh^T.
// dz is the gradient of the input projection; the gradients of W_hh, b_h and the table follow from
// it outside: grad_W_hh = sum_t h_{t-1}^T dz_t.
//
// As in the forward call, grad_hs, hs and dz point to the step that is taken first, which is the
// last of the recurrence.
struct RnnBackwardParams {
  long long T, B, H;
  const float* grad_hs;      // [T, B, H] or null
  const float* grad_h_last;  // [B, H] or null
  const float* hs;           // [T, B, H]
  const float* W_hh;         // [H, H]
  float* dz;                 // [T, B, H]
  float* grad_h0;            // [B, H] or null
  long long row, step;       // of grad_hs, hs and dz, as in the forward call
  long long rows;
  long long wait_limit;
  int* error;
  unsigned char* scratch;
  RecurrenceOptionsParams options;
};

// ---- states_before.cu

// before[t, n] = the state that the product of a step multiplied: h0, a state of hs, or zero. void:
// of RF_REAL.
struct StatesBeforeParams {
  long long T, B, H, row;           // row: as in RnnForwardParams
  const void* h0;                   // [B, H]
  const void* hs;                   // [T, B, H]
  void* before;                     // [T, B, H]
  RecurrenceOptionsParams options;  // of the forward call
};

// ---- write_values.cu

// to[i] = values[i].
constexpr int kMostValues = 500;  // per launch: a kernel's parameters end at 4 KB
struct WriteValuesParams {
  long long* to;
  int count;
  long long values[kMostValues];
};
static_assert(sizeof(WriteValuesParams) <= 4096);

// ---- clip_norm.cu

// A gradient or a part of one: element i lies at (i / row) * row_stride + (i % row) * stride.
struct GradientRows {
  void* values;     // float* or double*
  void* parameter;  // of the same layout, for SGD; or null
  long long count, row, row_stride, stride;
  int is_double;
  int first_chunk;  // how many chunks of kClipChunk elements the entries before it have
};
constexpr int kMostGradients = 64;  // per launch: a kernel's parameters end at 4 KB
constexpr int kClipChunk = 2048;
constexpr int kClipThreads = 256;

// sums[b] = the sum of the squares in the chunks of block b, in double.
struct ClipSumsParams {
  GradientRows gradients[kMostGradients];
  int num_gradients, num_chunks;
  double* sums;  // [grid]
};

// norm = sqrt(sum of sums), then gradient *= factor and, where there is one, parameter -= lr *
// gradient.
struct ClipScaleParams {
  GradientRows gradients[kMostGradients];
  int num_gradients, num_chunks;
  const double* sums;  // [num_sums]: of all launches of clip_sums
  int num_sums;
  int d2l;  // factor = max_norm / norm where norm > max_norm; else min(1, max_norm / (norm + 1e-6))
  double max_norm, lr;
  float* norm;           // 0-dim, or null
  double* norm_float64;  // the same for the other dtype
};
static_assert(sizeof(ClipSumsParams) <= 4096 && sizeof(ClipScaleParams) <= 4096);

// ---- cross_entropy.cu

// losses[n] = -log softmax(logits_n + bias)[target_n] / N, so that their sum is the mean; then
// logits become its derivative, (softmax - one_hot(target)) / N, where it is wanted. void: of
// RF_REAL.
struct CrossEntropyParams {
  long long N, V, B;         // N = T * B rows; row n is step n / B of sequence n % B
  const long long* targets;  // [T, B]
  long long targets_stride_t, targets_stride_b;
  const void* bias;  // [V]
  void* logits;      // [N, V]
  void* losses;      // [N]
  int wants_gradient;
  int* error;
};

// ---- row_sums.cu

// sums[s, v] = the sum of the rows n of x with ids[n] = v, n in slice s of [0, N). Without ids all
// rows belong to v = 0, and V is 1. An id outside [0, V) belongs nowhere. void: of RF_REAL.
struct RowSums {
  const void* x;  // [N, C]
  long long N, C, V;
  const long long* ids;  // [T, B], N = T * B, or null
  long long B, ids_stride_t, ids_stride_b;
  long long slices;
  void* sums;  // [slices, V, C]
  int tile;    // classes v per block
  int blocks;  // slices * ceil(V / tile) * ceil(C / 32)
};
constexpr int kMostRowSums = 4;

// Several of them in one launch.
struct RowSumsParams {
  RowSums jobs[kMostRowSums];
  int num_jobs;
};

// ---- readout.cu

// logits = hs W_hq + b_q, the loss of row n -log softmax(logits_n)[target_n] / N, and the
// gradients of the mean: grad_logits, grad_hs = grad_logits W_hq^T, and grad_b_q. Each block leaves
// its part of the loss and of grad_b_q. void: of RF_REAL.
struct ReadoutParams {
  long long N, H, V, B;      // N = T * B rows; row n is step n / B of sequence n % B
  const long long* targets;  // [T, B]
  long long targets_stride_t, targets_stride_b;
  const void* hs;     // [N, H]
  const void* W_hq;   // [H, V]
  const void* b_q;    // [V]
  void* losses;       // [grid]
  void* grad_logits;  // [N, V], or null: the loss alone
  void* grad_hs;      // [N, H]
  void* grad_b_q;     // [grid, V]
  int* error;
};

// ---- gradients.cu

// A matrix of N rows, of which the first may lie elsewhere: h0 before all hs but the last.
struct MatrixRows {
  const void* first;               // [num_first, columns], or null where there are none
  long long num_first, first_row;  // elements from one of these rows to the next
  const void* others;              // [N - num_first, columns]
  long long row;                   // the same for these
  long long columns;
};

// parts[s] = A^T B over the rows of slice s. void: of RF_REAL.
struct GradientProduct {
  MatrixRows a, b;
  void* parts;  // [slices, a.columns, b.columns]
  int tiles;    // of kSide x kSide elements
};

// table[s, v] = the sum of the rows n of x with ids[n] = v, n in slice s, and sums[s] the sum of
// all of them. An id outside [0, V) belongs nowhere.
struct GradientSums {
  const void* x;  // [N, C]
  long long C, V;
  const long long* ids;  // [T, B], N = T * B, or null: the sum of all rows alone, and V is 0
  long long B, ids_stride_t, ids_stride_b;
  void* table;  // [slices, V, C]
  void* sums;   // [slices, C], or null
  int tiles;    // of kThreads columns and classes() classes
};
constexpr int kMostProducts = 2;

// Slice s has the rows from s * rows on.
struct GradientsParams {
  GradientSums sums;
  GradientProduct products[kMostProducts];
  long long N, rows;
  int tiles;  // of all of them
};

// ---- weight_product.cu

// parts[s] = A^T B over the rows of slice s, which has those from s * rows on. H is a multiple of
// 4, and all rows are aligned to 16 bytes.
struct WeightProductParams {
  long long N, H, rows;
  MatrixRows a, b;  // of H columns
  float* parts;     // [slices, H, H]
};

// ---- sum_parts.cu

// out[i] = the sum of parts[s, i] over s; parts may be out where there is one. void: of RF_REAL.
struct PartSum {
  const void* parts;  // [num_parts, count]
  void* out;          // [count]
  long long num_parts, count;
  int is_gradient;  // its squares are part of the norm
  int first_tile;   // how many tiles the jobs before it have, of 32 elements or, where num_parts is
                    // 1, of kSumThreads
};
constexpr int kMostPartSums = 8;
constexpr int kSumThreads = 256;

struct SumPartsParams {
  PartSum jobs[kMostPartSums];
  int num_jobs, num_tiles;
  double* squares;  // [grid]: the sum of the squares of each block's gradients; or null
};

// ---- decode.cu

// h = act(W_xh[id] + h W_hh + b_h), logits = h W_hq + b_q, and the next id, `steps` times.
struct DecodeParams {
  long long B, H, V, steps;  // H, V: below 2^31
  const long long* first;    // [B]
  const float* W_xh;         // [V, H]
  const float* W_hh;         // [H, H]
  const float* b_h;          // [H]
  const float* W_hq;         // [H, V]
  const float* b_q;          // [V]
  const float* h0;           // [B, H]
  double temperature;        // above 0; unused without uniforms
  const double* uniforms;    // [steps, B] in [0, 1), or null: the largest logit wins
  long long* ids;            // [steps, B]
  float* h_last;             // [B, H]
  long long wait_limit;      // as in rnn_forward
  int* error;
};

// ---- next_id.cu

// ids[b] = the choice among logits_b + bias, as in decode. Overwrites the logits. void: of RF_REAL.
struct ChooseParams {
  long long B, V;
  const void* bias;        // [V]
  void* logits;            // [B, V]
  double temperature;      // above 0; unused without uniforms
  const double* uniforms;  // [B] in [0, 1), or null: the largest logit wins
  long long* ids;          // [B]
  int* error;
};

}  // namespace rnnfast::cuda
