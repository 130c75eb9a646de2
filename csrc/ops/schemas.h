// The operators' schemas, and operators that stand in a source of their own, for the registration
// in schemas.cpp.
#pragma once

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "ops/recurrence_arguments.h"
#include "torch/abi.h"
#include "torch/boxed.h"

namespace rnnfast {

// Every operator's schema, in a library of this name ("rnnfast").
Library define_operators(const char* name_space);

std::tuple<Tensor, Tensor, Tensor> rnn(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                                       std::optional<Tensor> b_h, Tensor h0, int64_t cell,
                                       RecurrenceOptions options, double noise, int64_t seed,
                                       bool saves);

// rnn and rnn_backward with none of their options but `transposed`, as overloads: each argument
// takes 0.1 us, a fifth of a small call in all.
template <auto kRnn>
std::tuple<Tensor, Tensor> plain_rnn(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                                     std::optional<Tensor> b_h, Tensor h0, int64_t cell,
                                     bool transposed) {
  auto [hs, h_last, saved] = kRnn(std::move(x), std::move(ids), std::move(W_hh), std::move(b_h),
                                  std::move(h0), cell, {.transposed = transposed}, 0, 0, false);
  return {std::move(hs), std::move(h_last)};
}
template <auto kRnnBackward>
std::tuple<Tensor, Tensor, Tensor, Tensor> plain_rnn_backward(std::optional<Tensor> grad_hs,
                                                              std::optional<Tensor> grad_h_last,
                                                              Tensor hs, std::optional<Tensor> ids,
                                                              int64_t V, Tensor W_hh, Tensor h0,
                                                              int64_t cell, Needs needs,
                                                              bool transposed) {
  auto [x, grad_W_hh, b_h, grad_h0, leak] = kRnnBackward(
      std::move(grad_hs), std::move(grad_h_last), std::move(hs), std::move(ids), V, std::move(W_hh),
      std::move(h0), cell, needs, {.transposed = transposed}, std::nullopt, false);
  return {std::move(x), std::move(grad_W_hh), std::move(b_h), std::move(grad_h0)};
}

// The same on the CPU without a result that nobody takes: 0.2 us.
std::tuple<Tensor, Tensor> rnn_plain(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                                     std::optional<Tensor> b_h, Tensor h0, int64_t cell,
                                     bool transposed);
std::tuple<Tensor, Tensor, Tensor, Tensor> rnn_backward_plain(std::optional<Tensor> grad_hs,
                                                              std::optional<Tensor> grad_h_last,
                                                              Tensor hs, std::optional<Tensor> ids,
                                                              int64_t V, Tensor W_hh, Tensor h0,
                                                              int64_t cell, Needs needs,
                                                              bool transposed);

// Products of bfloat16 where the CPU multiplies them; the tensors are float32.
std::tuple<Tensor, Tensor> rnn_bf16(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                                    std::optional<Tensor> b_h, Tensor h0, int64_t cell);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> rnn_backward(
    std::optional<Tensor> grad_hs, std::optional<Tensor> grad_h_last, Tensor hs,
    std::optional<Tensor> ids, int64_t V, Tensor W_hh, Tensor h0, int64_t cell, Needs needs,
    RecurrenceOptions options, std::optional<Tensor> saved, bool need_leak);

std::tuple<Tensor, Tensor, Tensor> rnn_logits(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                                              std::optional<Tensor> b_h, Tensor W_hq, Tensor b_q,
                                              Tensor h0, int64_t cell);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rnn_logits_backward(
    Tensor grad_logits, std::optional<Tensor> grad_h_last, std::optional<Tensor> grad_hs, Tensor hs,
    std::optional<Tensor> ids, int64_t V, Tensor W_hh, Tensor W_hq, Tensor h0, int64_t cell,
    Needs needs);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rnn_cross_entropy(
    Tensor ids, Tensor targets, Tensor W_xh, Tensor W_hh, Tensor b_h, Tensor W_hq, Tensor b_q,
    Tensor h0, int64_t cell, bool need_grads, bool need_h0);

// Adds to what `grads` hold.
std::tuple<Tensor, Tensor> rnn_cross_entropy_grads(Tensor ids, Tensor targets,
                                                   std::vector<Tensor> params,
                                                   std::vector<Tensor> grads, Tensor h0,
                                                   int64_t cell);

Tensor train_steps(std::vector<Tensor> ids, std::vector<Tensor> targets, std::vector<Tensor> params,
                   std::vector<Tensor> grads, Tensor h, double lr, double max_norm, int64_t cell,
                   bool keep_grads, bool steps_first);

}  // namespace rnnfast
