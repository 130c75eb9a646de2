// The operators on CUDA tensors, for the registration in cuda_recurrence.cpp.
#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include "cuda_call.h"
#include "cuda_direction.h"
#include "ops/recurrence_arguments.h"
#include "torch/abi.h"

namespace rnnfast::cuda {

// Of any wait between blocks, in clock cycles: about ten seconds, then the kernel ends.
constexpr long long kWaitLimit = 20'000'000'000;

inline const RecurrenceOptions kNoOptions;

// The arguments of one recurrence, checked and contiguous: of one direction, or those of both, of
// which it has its part. Where it has batch_sizes, arrays [T, B, ...] are [N, ...].
struct Forward : Direction {
  int64_t V;        // rows of the table; unused without ids
  const Tensor& x;  // [V, H] with ids, [T, B, H] without
  const std::optional<Tensor>& ids;
  const Tensor& W_hh;
  const std::optional<Tensor>& b_h;
  const Tensor& h0;  // its memory may be h_last's where the recurrence goes step by step
  int cell;
  const Tensor& hs;      // [T, B, H]
  const Tensor& h_last;  // [B, H]
  const RecurrenceOptions& options = kNoOptions;
  Order steps() const { return order(T, reverse); }
};
struct Backward : Direction {
  const std::optional<Tensor>& grad_hs;      // [T, B, H]
  const std::optional<Tensor>& grad_h_last;  // [B, H]
  const Tensor& hs;
  const Tensor& W_hh;
  const Tensor& h0;
  int cell;
  const Tensor& dz;       // [T, B, H]
  const Tensor* grad_h0;  // or null
  const RecurrenceOptions& options = kNoOptions;
  const Tensor* before = nullptr;     // the state before each step, rows as hs; for grad_leak
  const Tensor* grad_leak = nullptr;  // [B, H], or null
  // The last step of the forward pass is the first one here.
  Order steps() const { return order(T, !reverse); }
};

// By the kernel that the plan names, or step by step (cuda_resident.cpp).
void forward(const Call&, const Forward&);
void backward(const Call&, const Backward&);

// Both directions of a call, at the same time where a kernel keeps W_hh on the chip.
void forward(const Call&, const Forward& first, const Forward& second);
void backward(const Call&, const Backward& first, const Backward& second);

// Step by step (cuda_streamed.cpp): one matrix product and one kernel per step, for any H.
void forward_by_steps(const Call&, const Forward&);
void backward_by_steps(const Call&, const Backward&);

// cuda_training.cpp
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rnn_cross_entropy(
    Tensor ids, Tensor targets, Tensor W_xh, Tensor W_hh, Tensor b_h, Tensor W_hq, Tensor b_q,
    Tensor h0, int64_t cell, bool need_grads, bool need_h0);
Tensor train_steps(std::vector<Tensor> ids, std::vector<Tensor> targets, std::vector<Tensor> params,
                   std::vector<Tensor> grads, Tensor h, double lr, double max_norm, int64_t cell,
                   bool keep_grads, bool steps_first);
Tensor clip_grads(std::vector<Tensor> grads, double max_norm, bool d2l);

// cuda_decode.cpp
std::tuple<Tensor, Tensor> decode(Tensor first, Tensor W_xh, Tensor W_hh, Tensor b_h, Tensor W_hq,
                                  Tensor b_q, Tensor h0, int64_t steps, double temperature,
                                  std::optional<Tensor> uniforms, int64_t cell);

}  // namespace rnnfast::cuda
