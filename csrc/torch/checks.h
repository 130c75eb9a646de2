// Checks of the operators' arguments. A message names the argument, what it was and what it must
// be.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>

#include "torch/abi.h"
#include "words.h"

namespace rnnfast {

// "float32 [4, 5]"
std::string describe(const Tensor& tensor);

// `shape` is how the documentation writes it: "[B, H]".
void require_rank(const Tensor& tensor, const char* name, int64_t rank, const char* shape);

// The shape that an argument must have, and how the documentation writes it: "[B, H]".
struct Shape {
  static constexpr int kMostDims = 4;

  const char* text;
  int64_t dims = 0, sizes[kMostDims] = {};

  Shape(const char* text, std::initializer_list<int64_t> sizes) : text(text) {
    for (const int64_t size : sizes) this->sizes[dims++] = size;
  }
  const int64_t* begin() const { return sizes; }
  const int64_t* end() const { return sizes + dims; }
  size_t size() const { return static_cast<size_t>(dims); }

  // So many of them in one tensor.
  Shape of(int64_t count) const {
    Shape result(text, {count});
    for (const int64_t size : *this) result.sizes[result.dims++] = size;
    return result;
  }
};

void require(const Tensor& tensor, const char* name, int32_t dtype, const Shape& shape);
void require(const std::optional<Tensor>& tensor, const char* name, int32_t dtype,
             const Shape& shape);

inline void require(const Tensor& tensor, const char* name, int32_t dtype, const char* shape,
                    std::initializer_list<int64_t> sizes) {
  require(tensor, name, dtype, Shape(shape, sizes));
}

void require_at_least(int64_t value, const char* name, int64_t least);

inline bool is_real(const Tensor& tensor) {
  const int32_t dtype = tensor.dtype();
  return dtype == aoti_torch_dtype_float32() || dtype == aoti_torch_dtype_float64();
}

// The dtype of the tensor, which decides for all the others.
int32_t require_real(const Tensor& tensor, const char* name);
int32_t require_float(const Tensor& tensor, const char* name);

// How the class numbers of a minibatch lie: [T, B], or [B, T] as data loaders give them.
enum class Axes { kStepsFirst, kBatchFirst };

// All class numbers are in [0, V): nothing is read before this is known. One or two dimensions, any
// strides.
void require_classes(const Tensor& ids, const char* name, int64_t V);

}  // namespace rnnfast
