#include "torch/checks.h"

#include <utility>
#include <vector>

namespace rnnfast {

namespace {

std::string dtype_name(int32_t dtype) {
  const std::pair<int32_t, const char*> known[] = {
      {aoti_torch_dtype_float32(), "float32"}, {aoti_torch_dtype_float64(), "float64"},
      {aoti_torch_dtype_float16(), "float16"}, {aoti_torch_dtype_bfloat16(), "bfloat16"},
      {aoti_torch_dtype_int64(), "int64"},     {aoti_torch_dtype_int32(), "int32"},
      {aoti_torch_dtype_bool(), "bool"},       {aoti_torch_dtype_uint8(), "uint8"},
  };
  for (const auto& [value, name] : known) {
    if (value == dtype) return name;
  }
  return "of another dtype";
}

template <class Sizes>
std::string shape_text(const Sizes& sizes) {
  std::string text;
  for (const int64_t size : sizes) text += words(text.empty() ? "[" : ", ", size);
  return text.empty() ? "[]" : text + "]";
}

}  // namespace

std::string describe(const Tensor& tensor) {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < tensor.dim(); ++i) sizes.push_back(tensor.size(i));
  return dtype_name(tensor.dtype()) + " " + shape_text(sizes);
}

void require_rank(const Tensor& tensor, const char* name, int64_t rank, const char* shape) {
  if (tensor.dim() == rank) return;
  fail(name, " is ", describe(tensor), "; it must have ", rank, " dimensions, ", shape);
}

void require(const Tensor& tensor, const char* name, int32_t dtype, const Shape& shape) {
  bool same = tensor.dtype() == dtype && tensor.dim() == shape.dims;
  for (int64_t i = 0; same && i < shape.dims; ++i) same = tensor.size(i) == shape.sizes[i];
  if (same) return;
  fail(name, " is ", describe(tensor), "; it must be ", dtype_name(dtype), " ", shape.text, " = ",
       shape_text(shape));
}

void require(const std::optional<Tensor>& tensor, const char* name, int32_t dtype,
             const Shape& shape) {
  if (tensor) require(*tensor, name, dtype, shape);
}

void require_at_least(int64_t value, const char* name, int64_t least) {
  if (value < least) fail(name, " is ", value, "; it must be at least ", least);
}

int32_t require_real(const Tensor& tensor, const char* name) {
  if (is_real(tensor)) return tensor.dtype();
  fail(name, " is ", describe(tensor), "; it must be float32 or float64");
}

int32_t require_float(const Tensor& tensor, const char* name) {
  if (tensor.dtype() == aoti_torch_dtype_float32()) return tensor.dtype();
  fail(name, " is ", describe(tensor), "; it must be float32");
}

namespace {

// Where a class number outside [0, V) is, in words.
[[noreturn]] void fail_class(const Tensor& ids, const char* name, int64_t V, int64_t r, int64_t c,
                             int64_t id) {
  const std::string row = ids.dim() == 2 ? words(r, ", ") : "";
  const std::string where = words(name, "[", row, c, "] is ", id);
  if (id < 0) fail("Class values must be non-negative. ", where);
  fail("Class values must be smaller than num_classes. ", where, ", num_classes is ", V);
}

}  // namespace

// Looks for none in particular, along the smaller stride, which takes a vector at a time.
void require_classes(const Tensor& ids, const char* name, int64_t V) {
  const bool plane = ids.dim() == 2;
  const int64_t rows = plane ? ids.size(0) : 1, columns = ids.size(ids.dim() - 1);
  const int64_t row_stride = plane ? ids.stride(0) : 0, column_stride = ids.stride(ids.dim() - 1);
  const auto* values = ids.data<const int64_t>();
  const auto is_outside = [=](int64_t r, int64_t c) {
    return static_cast<uint64_t>(values[r * row_stride + c * column_stride]) >=
           static_cast<uint64_t>(V);
  };
  bool any = false;
  if (plane && row_stride == 1) {
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = 0; r < rows; ++r) any |= is_outside(r, c);
    }
  } else {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) any |= is_outside(r, c);
    }
  }
  if (!any) return;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      if (is_outside(r, c))
        fail_class(ids, name, V, r, c, values[r * row_stride + c * column_stride]);
    }
  }
}

}  // namespace rnnfast
