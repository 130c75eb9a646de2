// The few operators of torch that ours call, on any device, and views of a tensor's memory.
#pragma once

#include <initializer_list>

#include "boxed.h"
#include "torch/abi.h"

namespace rnnfast {

// The same tensor, held once more.
inline Tensor same(const Tensor& tensor) {
  AtenTensorHandle handle;
  check_call(aoti_torch_new_tensor_handle(tensor.handle(), &handle), "hold a tensor");
  return Tensor(handle);
}

// Elements of the tensor's memory, counted from its first one.
inline Tensor view(const Tensor& tensor, std::initializer_list<int64_t> sizes,
                   std::initializer_list<int64_t> strides, int64_t first = 0) {
  AtenTensorHandle handle;
  check_call(aoti_torch__reinterpret_tensor(tensor.handle(), static_cast<int64_t>(sizes.size()),
                                            sizes.begin(), strides.begin(), first, &handle),
             "make a view");
  return Tensor(handle);
}

// `rows` x `columns` elements from the first-th on, contiguous, as a matrix.
inline Tensor matrix(const Tensor& tensor, int64_t rows, int64_t columns, int64_t first = 0) {
  return view(tensor, {rows, columns}, {columns, 1}, first);
}

// A matrix and its transpose are the same memory; of several [n, ., .], each is transposed.
inline Tensor transposed(const Tensor& matrix) {
  if (matrix.dim() == 3) {
    return view(matrix, {matrix.size(0), matrix.size(2), matrix.size(1)},
                {matrix.stride(0), matrix.stride(2), matrix.stride(1)});
  }
  return view(matrix, {matrix.size(1), matrix.size(0)}, {matrix.stride(1), matrix.stride(0)});
}

// out = a @ b. torch's own, so cuBLAS on CUDA, at the precision that torch is set to.
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  StableIValue stack[] = {Boxed<Tensor>::write(same(a)), Boxed<Tensor>::write(same(b)),
                          Boxed<Tensor>::write(same(out))};
  check_call(torch_call_dispatcher("aten::mm", "out", stack, kAbiVersion), "multiply two matrices");
  Boxed<Tensor>::read(stack[0]);  // out again: given back
}

inline void fill_zero(const Tensor& tensor) {
  check_call(aoti_torch_zero_(tensor.handle()), "clear a tensor");
}

}  // namespace rnnfast
