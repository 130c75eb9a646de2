// What the operators of the recurrence require of their arguments, on any device.
#pragma once

#include <optional>

#include "cells/cells.h"
#include "torch/abi.h"
#include "torch/boxed.h"
#include "torch/checks.h"

namespace rnnfast {

// The arguments that rnn and rnn_backward have beyond those of every other operator; and act(z) of
// a leaky cell, which the former makes where it is told to, and the latter is given.
struct RecurrenceOptions {
  bool transposed = false, reverse = false;
  std::optional<Tensor> batch_sizes = {}, resets = {};
  bool resets_to_h0 = false;
  std::optional<Tensor> leak = {}, saved = {};
  double noise = 0;  // forward, on the CPU
  int64_t seed = 0;
};

template <>
struct Boxed<RecurrenceOptions> {
  static RecurrenceOptions take(StableIValue*& next) {
    using MaybeTensor = std::optional<Tensor>;
    return {
        .transposed = take_boxed<bool>(next),
        .reverse = take_boxed<bool>(next),
        .batch_sizes = take_boxed<MaybeTensor>(next),
        .resets = take_boxed<MaybeTensor>(next),
        .resets_to_h0 = take_boxed<bool>(next),
        .leak = take_boxed<MaybeTensor>(next),
    };
  }
};

// Which gradients a backward call is asked for, besides that of x.
struct Needs {
  bool W_hh, b_h, h0;
};

template <>
struct Boxed<Needs> {
  static Needs take(StableIValue*& next) {
    return {take_boxed<bool>(next), take_boxed<bool>(next), take_boxed<bool>(next)};
  }
};

// The cell's code as the kernels take it: of a plain cell, or of any.
int cell_of(int64_t code);
int any_cell_of(int64_t code);

// Of a call in one direction or both; with batch_sizes, arrays hold the N rows of all steps.
struct RecurrenceSizes {
  int64_t T, B, H, V;  // V: rows of the table; unused without ids
  int32_t dtype;
  int64_t directions, N;
  bool is_ragged;
  bool states_have_axis;  // those of one direction are [1, B, H], as torch.nn.RNN has them

  Shape array() const {
    const int64_t width = directions * H;
    const bool both = directions == 2;
    if (is_ragged) return {both ? "[N, 2 H]" : "[N, H]", {N, width}};
    return {both ? "[T, B, 2 H]" : "[T, B, H]", {T, B, width}};
  }
  Shape ids() const { return is_ragged ? Shape{"[N]", {N}} : Shape{"[T, B]", {T, B}}; }
  Shape state() const {
    if (directions == 1 && states_have_axis) return {"[1, B, H]", {1, B, H}};
    return of_each("[B, H]", "[2, B, H]", {B, H});
  }
  Shape W_hh() const { return of_each("[H, H]", "[2, H, H]", {H, H}); }
  Shape b_h() const { return of_each("[H]", "[2, H]", {H}); }

 private:
  Shape of_each(const char* one, const char* both, std::initializer_list<int64_t> sizes) const {
    if (directions == 1) return {one, sizes};
    return Shape{both, sizes}.of(directions);
  }
};

// Of a forward call, whose arguments fit, but for the values of ids.
RecurrenceSizes forward_sizes(const Tensor& x, const std::optional<Tensor>& ids, const Tensor& W_hh,
                              const std::optional<Tensor>& b_h, const Tensor& h0, int32_t dtype,
                              const RecurrenceOptions& options = {});

// Of a backward call, likewise.
RecurrenceSizes backward_sizes(const std::optional<Tensor>& grad_hs,
                               const std::optional<Tensor>& grad_h_last, const Tensor& hs,
                               const std::optional<Tensor>& ids, int64_t V, const Tensor& W_hh,
                               const Tensor& h0, const RecurrenceOptions& options = {});

void require_options(const RecurrenceSizes& n, int cell, const RecurrenceOptions& options);

// Of a backward call.
void require_saved(const RecurrenceSizes& n, const RecurrenceOptions& options);

}  // namespace rnnfast
