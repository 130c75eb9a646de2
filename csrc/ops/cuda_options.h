// What a recurrence on CUDA may have beyond the plain one: lengths, resets and a leak.
#pragma once

#include <cstdint>
#include <optional>

#include "cuda/device/params.h"
#include "cuda_call.h"
#include "cuda_direction.h"
#include "ops/recurrence_arguments.h"
#include "torch/abi.h"

namespace rnnfast::cuda {

// Whether a call has options beyond `transposed` and `reverse`, which every kernel knows.
bool has_options(const RecurrenceOptions& options);

// Requires the options' tensors where kernels read them, and makes them contiguous.
void prepare(const Call& call, RecurrenceOptions& options);

// What batch_sizes say, if they are given, on the host and on the device.
std::optional<Lengths> lengths_of(const Call& call, const RecurrenceSizes& n,
                                  const std::optional<Tensor>& batch_sizes);

// The options of a direction, whose pass takes its steps in this order. Arrays of floats are left
// out.
RecurrenceOptionsParams params_of(const RecurrenceOptions& options, const Direction& direction,
                                  const Order& order);

// Writes the state before each step of a direction; `before` is laid out as hs.
void find_states_before(const Call& call, const Direction& direction, const Tensor& h0,
                        const Tensor& hs, const RecurrenceOptions& options, const Tensor& before);

}  // namespace rnnfast::cuda
