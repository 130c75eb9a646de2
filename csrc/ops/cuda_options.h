// What a recurrence on CUDA may have beyond the plain one: lengths, resets and a leak.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

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

// Direction::starts for batch_sizes [T]; empty without.
std::vector<int64_t> starts_of(const std::optional<Tensor>& batch_sizes);

// Where there are batch_sizes, the rows at which times start [T] and the sequences' lengths [B] in
// one array, for kernels that take all steps. Not while the call's stream is captured.
std::optional<Tensor> steps_on_device(const Call& call, const Direction& direction);

// The options of a direction, whose pass takes its steps in this order. Arrays of floats are left
// out. `steps`: see above.
RecurrenceOptionsParams params_of(const RecurrenceOptions& options, const Direction& direction,
                                  const Order& order, const std::optional<Tensor>& steps);

// Writes the state before each step of a direction; `before` is laid out as hs.
void find_states_before(const Call& call, const Direction& direction, const Tensor& h0,
                        const Tensor& hs, const RecurrenceOptions& options,
                        const std::optional<Tensor>& steps, const Tensor& before);

}  // namespace rnnfast::cuda
