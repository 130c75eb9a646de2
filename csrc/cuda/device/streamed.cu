// The recurrence step by step, where W_hh does not fit on the chip: what stands between the matrix
// products of two steps. One thread per element.
//
// Macros, given with -D:
//   RF_REAL  float or double
//   RF_CELL  a code of csrc/cells/cells.h
// Launch: a grid of blocks of 256 threads that covers the elements.
#include "number_math.cuh"
#include "params.h"
#include "reduce.cuh"
#include "streamed_params.h"

using namespace rnnfast::cuda;
using Real = RF_REAL;
using Activation = rnnfast::cells::ActivationOf<RF_CELL>::type;
using rnnfast::cells::Leaky;
using Math = NumberMath<Real>;

constexpr bool kIsLeaky = rnnfast::cells::is_leaky(RF_CELL);

__device__ inline long long element() {
  return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// An element of an array of RF_REAL; of no array zero.
__device__ inline Real at(const void* array, long long i) {
  return array == nullptr ? Real(0) : static_cast<const Real*>(array)[i];
}
__device__ inline Real& at(void* array, long long i) { return static_cast<Real*>(array)[i]; }

// An id that is safe to use; one out of range leaves its code in the error word.
__device__ inline long long checked(long long id, long long V, int* error) {
  if (id >= 0 && id < V) return id;
  report(error, kErrorId);
  return 0;
}

extern "C" __global__ void step_forward(const __grid_constant__ StepForwardParams p) {
  const long long i = element();
  if (i >= p.rows * p.H) return;
  const long long n = i / p.H, j = i % p.H, of_step = n * p.row + j;
  const long long x =
      p.ids == nullptr ? of_step : checked(p.ids[n * p.ids_stride], p.V, p.error) * p.H + j;
  const bool is_reset = p.resets != nullptr && p.resets[n] != 0;
  Real z = at(p.x, x) + (is_reset ? at(p.start_product, i) : at(p.hs, of_step));
  if (p.b_h != nullptr) z += at(p.b_h, j);
  Real value = Activation::of<Math>(z);
  if constexpr (kIsLeaky) {
    if (p.saved != nullptr) at(p.saved, of_step) = value;
    const Real before = is_reset ? at(p.start, i) : at(p.state, i);
    value = Leaky::forward(value, before, at(p.leak, j));
  }
  at(p.hs, of_step) = at(p.state, i) = value;
}

// What the step after sends to the state of a row, which is that of this step or the first.
__device__ inline Real carried(const StepBackwardParams& p, long long n, long long i) {
  if (n >= p.rows_after) return at(p.grad_h_last, i);
  Real carry = at(p.product, i);
  if constexpr (kIsLeaky) carry += at(p.beside, i);
  const bool was_reset = p.resets != nullptr && p.resets[n] != 0;
  const bool is_of_h0 = was_reset ? p.resets_to_h0 != 0 : n >= p.rows;
  if (is_of_h0 && p.grad_h0 != nullptr) at(p.grad_h0, i) += carry;
  return was_reset ? Real(0) : carry;
}

extern "C" __global__ void step_backward(const __grid_constant__ StepBackwardParams p) {
  const long long i = element(), n = i / p.H, j = i % p.H, of_step = n * p.row + j;
  if (n >= p.rows && n >= p.rows_after) return;
  Real dh = carried(p, n, i);
  if (n >= p.rows) return;
  dh += at(p.grad_hs, of_step);
  const Real activity = at(p.activity, of_step);
  if constexpr (kIsLeaky) {
    const Real leak = at(p.leak, j);
    if (p.grad_leak != nullptr) {
      at(p.grad_leak, i) += Leaky::to_leak(dh, activity, at(p.before, of_step));
    }
    at(p.beside, i) = Leaky::to_state(dh, leak);
    dh = Leaky::to_activation(dh, leak);
  }
  at(p.dz, of_step) = Activation::through<Math>(dh, Activation::slope<Math>(activity));
}
