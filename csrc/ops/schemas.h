// The operators' schemas, and operators that stand in a source of their own, for the registration
// in schemas.cpp.
#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include "torch/abi.h"
#include "torch/boxed.h"

namespace rnnfast {

// Every operator's schema, in a library of this name ("rnnfast").
Library define_operators(const char* name_space);

// kRounds: the operator whose products are of bfloat16; its tensors are float32.
template <bool kRounds>
std::tuple<Tensor, Tensor> rnn(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                               std::optional<Tensor> b_h, Tensor h0, int64_t cell);

std::tuple<Tensor, Tensor, Tensor, Tensor> rnn_backward(std::optional<Tensor> grad_hs,
                                                        std::optional<Tensor> grad_h_last,
                                                        Tensor hs, std::optional<Tensor> ids,
                                                        int64_t V, Tensor W_hh, Tensor h0,
                                                        int64_t cell, bool need_W_hh, bool need_b_h,
                                                        bool need_h0);

std::tuple<Tensor, Tensor, Tensor> rnn_logits(Tensor x, std::optional<Tensor> ids, Tensor W_hh,
                                              std::optional<Tensor> b_h, Tensor W_hq, Tensor b_q,
                                              Tensor h0, int64_t cell);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rnn_logits_backward(
    Tensor grad_logits, std::optional<Tensor> grad_h_last, std::optional<Tensor> grad_hs, Tensor hs,
    std::optional<Tensor> ids, int64_t V, Tensor W_hh, Tensor W_hq, Tensor h0, int64_t cell,
    bool need_W_hh, bool need_b_h, bool need_h0);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rnn_cross_entropy(
    Tensor ids, Tensor targets, Tensor W_xh, Tensor W_hh, Tensor b_h, Tensor W_hq, Tensor b_q,
    Tensor h0, int64_t cell, bool need_grads, bool need_h0);

// Adds to what `grads` hold.
std::tuple<Tensor, Tensor> rnn_cross_entropy_grads(Tensor ids, Tensor targets,
                                                   std::vector<Tensor> params,
                                                   std::vector<Tensor> grads, Tensor h0,
                                                   int64_t cell);

Tensor train_step(Tensor ids, Tensor targets, std::vector<Tensor> params, std::vector<Tensor> grads,
                  Tensor h, double lr, double max_norm, int64_t cell, bool keep_grads);

Tensor train_steps(std::vector<Tensor> ids, std::vector<Tensor> targets, std::vector<Tensor> params,
                   std::vector<Tensor> grads, Tensor h, double lr, double max_norm, int64_t cell,
                   bool keep_grads);

}  // namespace rnnfast
