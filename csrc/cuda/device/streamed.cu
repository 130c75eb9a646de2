// The recurrence step by step, where W_hh does not fit on the chip: what stands between the matrix
// products of two steps. One thread per element.
//
// Macros, given with -D:
//   RF_REAL  float or double
//   RF_CELL  a code of csrc/cells/cells.h
// Launch: a grid of blocks of 256 threads that covers the elements.
#include "number_math.cuh"
#include "params.h"
#include "streamed_params.h"

using namespace rnnfast::cuda;
using Real = RF_REAL;
using Activation = rnnfast::cells::ActivationOf<RF_CELL>::type;
using Math = NumberMath<Real>;

__device__ inline long long element() {
  return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// An id that is safe to use; one out of range leaves its code in the error word.
__device__ inline long long checked(long long id, long long V, int* error) {
  if (id >= 0 && id < V) return id;
  *static_cast<volatile int*>(error) = kErrorId;
  return 0;
}

extern "C" __global__ void step_forward(const __grid_constant__ StepForwardParams p) {
  const long long i = element();
  if (i >= p.B * p.H) return;
  const long long b = i / p.H, j = i % p.H;
  const long long from =
      p.ids == nullptr ? b * p.row : checked(p.ids[b * p.ids_stride], p.V, p.error) * p.H;
  Real& h = static_cast<Real*>(p.h)[b * p.row + j];
  Real z = static_cast<const Real*>(p.x)[from + j] + h;
  if (p.b_h != nullptr) z += static_cast<const Real*>(p.b_h)[j];
  const Real value = Activation::of<Math>(z);
  h = value;
  if (p.h_last != nullptr) static_cast<Real*>(p.h_last)[i] = value;
}

extern "C" __global__ void step_backward(const __grid_constant__ StepBackwardParams p) {
  const long long i = element();
  if (i >= p.B * p.H) return;
  const long long b = i / p.H, j = i % p.H, at = b * p.row + j;
  Real dh = 0;
  if (p.grad != nullptr) dh = static_cast<const Real*>(p.grad)[at];
  if (p.carry != nullptr) dh += static_cast<const Real*>(p.carry)[b * p.carry_row + j];
  const Real slope = Activation::slope<Math>(static_cast<const Real*>(p.h)[at]);
  static_cast<Real*>(p.dz)[at] = Activation::through<Math>(dh, slope);
}
