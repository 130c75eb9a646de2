// Arguments and outputs of the operators in the form that the kernels take.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include "checks.h"
#include "kernels.h"
#include "torch/abi.h"

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

inline void make_contiguous(Tensor& tensor) {
  if (tensor.is_contiguous()) return;
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < tensor.dim(); ++i) sizes.push_back(tensor.size(i));
  Tensor dense = empty(sizes.data(), tensor.dim(), tensor.dtype());
  copy(dense, tensor);
  tensor = std::move(dense);
}

inline void make_contiguous(std::optional<Tensor>& tensor) {
  if (tensor) make_contiguous(*tensor);
}

template <class... Tensors>
void make_all_contiguous(Tensors&... tensors) {
  (make_contiguous(tensors), ...);
}

template <class Element>
Element* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->data<Element>() : nullptr;
}

inline void fill_with_zeros(const Tensor& tensor) {
  with_real(tensor.dtype(),
            [&]<class Real>() { std::fill_n(tensor.data<Real>(), tensor.numel(), Real{0}); });
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
          Axes axes = Axes::kStepsFirst) {
    const bool steps_first = axes == Axes::kStepsFirst;
    require(ids, name, aoti_torch_dtype_int64(), steps_first ? "[T, B]" : "[B, T]",
            {steps_first ? T : B, steps_first ? B : T});
    require_classes(ids, name, V);
    values = ids.data<const int64_t>();
    stride_t = ids.stride(steps_first ? 0 : 1);
    stride_b = ids.stride(steps_first ? 1 : 0);
  }

  // One after the other, of sequences of different lengths.
  Classes(const Tensor& ids, const char* name, int64_t V)
      : values(ids.data<const int64_t>()), stride_t(ids.stride(0)), stride_b(ids.stride(0)) {
    require_classes(ids, name, V);
  }

  const int64_t* values = nullptr;
  int64_t stride_t = 0, stride_b = 0;
};

}  // namespace rnnfast
