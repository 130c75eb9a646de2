// Arguments and outputs of the operators in the form that the kernels take.
#pragma once

#include <initializer_list>
#include <optional>
#include <utility>

#include "kernels.h"
#include "torch/abi.h"
#include "torch/checks.h"

namespace rnnfast {

template <class Real>
const KernelsOf<Real>& kernels_of() {
  if constexpr (std::is_same_v<Real, float>) {
    return kernels().f32;
  } else {
    return kernels().f64;
  }
}

// A kernel for this dtype, or for kRounds the one whose products are of bfloat16.
template <bool kRounds, class Real, class Exact, class Rounded>
auto kernel_of(Exact KernelsOf<Real>::* exact, Rounded Kernels::* rounded) {
  if constexpr (kRounds && std::is_same_v<Real, float>) {
    return kernels().*rounded;
  } else {
    return kernels_of<Real>().*exact;
  }
}

// body.operator()<float>() or <double>(); the dtype has been checked.
template <class Body>
void with_real(int32_t dtype, const Body& body) {
  if (dtype == aoti_torch_dtype_float32()) {
    body.template operator()<float>();
  } else {
    body.template operator()<double>();
  }
}

template <class Element>
Element* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->data<Element>() : nullptr;
}

inline Tensor empty(const Shape& shape, int32_t dtype) {
  return empty(shape.sizes, shape.dims, dtype);
}

// An output that may not be wanted: then 0 elements, and a null pointer for the kernel.
struct OptionalOutput {
  OptionalOutput(bool wanted, std::initializer_list<int64_t> sizes, int32_t dtype)
      : wanted(wanted), tensor(wanted ? empty(sizes, dtype) : empty({0}, dtype)) {}
  OptionalOutput(bool wanted, const Shape& shape, int32_t dtype)
      : wanted(wanted), tensor(wanted ? empty(shape, dtype) : empty({0}, dtype)) {}

  template <class Real>
  Real* data() const {
    return wanted ? tensor.data<Real>() : nullptr;
  }

  bool wanted;
  Tensor tensor;
};

// Class numbers as a kernel takes them: any strides, every value in [0, V).
struct Classes {
  Classes() = default;
  Classes(const Tensor& ids, const char* name, int64_t T, int64_t B, int64_t V,
          Axes axes = Axes::kStepsFirst);
  // One after the other, of sequences of different lengths.
  Classes(const Tensor& ids, const char* name, int64_t V);

  const int64_t* values = nullptr;
  int64_t stride_t = 0, stride_b = 0;
};

}  // namespace rnnfast
