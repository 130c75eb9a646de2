// The operators' schemas, and operators that stand in a source of their own, for the registration
// in ops.cpp.
#pragma once

#include <tuple>
#include <vector>

#include "boxed.h"
#include "torch_abi.h"

namespace rnnfast {

// Every operator's schema, in a library of this name ("rnnfast").
Library define_operators(const char* name_space);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rnn_cross_entropy(
    Tensor ids, Tensor targets, Tensor W_xh, Tensor W_hh, Tensor b_h, Tensor W_hq, Tensor b_q,
    Tensor h0, bool relu, bool need_grads, bool need_h0);

Tensor train_step(Tensor ids, Tensor targets, std::vector<Tensor> params, std::vector<Tensor> grads,
                  Tensor h, double lr, double max_norm, bool relu);

}  // namespace rnnfast
