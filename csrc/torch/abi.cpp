#include "torch/abi.h"

#include "words.h"

namespace rnnfast {

void fail_call(const char* what) {
  if (torch_exception_get_what_without_backtrace == nullptr) fail("torch could not ", what);
  fail("torch could not ", what, ": ", torch_exception_get_what_without_backtrace());
}

namespace {

constexpr int64_t kMostDims = 64;

void contiguous_strides(const int64_t* sizes, int64_t dim, int64_t* strides) {
  if (dim > kMostDims) fail("a tensor has more than ", kMostDims, " dimensions");
  int64_t stride = 1;
  for (int64_t i = dim - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= sizes[i] > 0 ? sizes[i] : 1;
  }
}

}  // namespace

Tensor empty_on(int32_t device_type, int32_t device_index, const int64_t* sizes, int64_t dim,
                int32_t dtype) {
  int64_t strides[kMostDims];
  contiguous_strides(sizes, dim, strides);
  AtenTensorHandle handle;
  check_call(
      aoti_torch_empty_strided(dim, sizes, strides, dtype, device_type, device_index, &handle),
      "allocate a tensor");
  return Tensor(handle);
}

void make_contiguous(Tensor& tensor) {
  if (tensor.is_contiguous()) return;
  Tensor dense = empty_on(tensor.device_type(), tensor.device_index(), tensor.sizes(), tensor.dim(),
                          tensor.dtype());
  copy(dense, tensor);
  tensor = std::move(dense);
}

}  // namespace rnnfast
