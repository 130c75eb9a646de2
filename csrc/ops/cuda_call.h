// One call of an operator on CUDA tensors: its device and stream, and checks of where tensors are.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "cuda/host/launch.h"
#include "torch/abi.h"
#include "torch/checks.h"

namespace rnnfast::cuda {

inline std::string device_name(const Tensor& tensor) {
  if (tensor.device_type() == aoti_torch_device_type_cpu()) return "cpu";
  const std::string index = std::to_string(tensor.device_index());
  if (tensor.device_type() == aoti_torch_device_type_cuda()) return "cuda:" + index;
  return "device " + index + " of another type";
}

// For the compiler: the dtype of a kernel's elements.
inline std::string real_option(int32_t dtype) {
  return dtype == aoti_torch_dtype_float64() ? "-DRF_REAL=double" : "-DRF_REAL=float";
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int real_bytes(int32_t dtype) { return dtype == aoti_torch_dtype_float64() ? 8 : 4; }

// The address of an element, counted from the first of a float32 or float64 tensor.
inline void* address(const Tensor& tensor, int64_t element) {
  return tensor.data<char>() + element * real_bytes(tensor.dtype());
}
inline void* address(const std::optional<Tensor>& tensor, int64_t element) {
  return tensor ? address(*tensor, element) : nullptr;
}
inline void* address(const Tensor* tensor, int64_t element) {
  return tensor != nullptr ? address(*tensor, element) : nullptr;
}

// Makes the device of the first tensor current until the call ends. On the CPU, where the tests'
// emulating driver runs the kernels, that is device 0 and no stream.
//
// Throws what a kernel of an earlier call had to complain about (launch.h, error_word).
class Call {
 public:
  Call(const Tensor& first, const char* name)
      : name_(name),
        type_(first.device_type()),
        index_(first.device_index()),
        on_cpu_(type_ == aoti_torch_device_type_cpu()) {
    if (!on_cpu_) {
      check_call(aoti_torch_create_device_guard(index_, &guard_), "make a device current");
      if (aoti_torch_get_current_cuda_stream == nullptr) fail("this torch was built without CUDA");
      check_call(aoti_torch_get_current_cuda_stream(index_, &stream_), "name its current stream");
    }
    check_error_word(device());
  }
  ~Call() {
    if (guard_ != nullptr) aoti_torch_delete_device_guard(guard_);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  int device() const { return on_cpu_ ? 0 : index_; }
  void* stream() const { return stream_; }
  int* error() const { return error_word(device()); }

  // Of this dtype and shape, and where the first tensor is.
  void require(const Tensor& tensor, const char* name, int32_t dtype, const char* shape,
               std::initializer_list<int64_t> sizes) const {
    require_here(tensor, name);
    rnnfast::require(tensor, name, dtype, shape, sizes);
  }
  void require_here(const Tensor& tensor, const char* name) const {
    if (tensor.device_type() == type_ && tensor.device_index() == index_) return;
    fail(name, " is on ", device_name(tensor), "; it must be on ", here(), ", where ", name_,
         " is");
  }
  void require_here(const std::optional<Tensor>& tensor, const char* name) const {
    if (tensor) require_here(*tensor, name);
  }
  // Of several, each followed by its name.
  template <class First, class... Others>
  void require_here(const First& first, const char* name, const Others&... others) const {
    require_here(first, name);
    require_here(others...);
  }

  Tensor empty(std::initializer_list<int64_t> sizes, int32_t dtype) const {
    return empty(sizes.begin(), static_cast<int64_t>(sizes.size()), dtype);
  }
  Tensor empty(const Shape& shape, int32_t dtype) const {
    return empty(shape.begin(), shape.dims, dtype);
  }
  Tensor empty(const int64_t* sizes, int64_t dim, int32_t dtype) const {
    return empty_on(type_, index_, sizes, dim, dtype);
  }

  // Launches over `work` threads or more, in blocks of 256.
  template <class Params>
  void launch_over(int64_t work, const char* unit, const char* name, const std::string& options,
                   const Params& params, unsigned shared_bytes = 0) const {
    if (work == 0) return;
    constexpr int64_t kBlock = 256, kMostBlocks = (int64_t{1} << 31) - 1;
    const int64_t blocks = ceil_div(work, kBlock);
    if (blocks > kMostBlocks) fail("a launch of ", name, " would have ", blocks, " blocks");
    launch(unit, name, options, {static_cast<unsigned>(blocks), 1, kBlock, shared_bytes}, &params,
           device(), stream_);
  }

 private:
  std::string here() const {
    if (on_cpu_) return "cpu";
    return "cuda:" + std::to_string(index_);
  }

  const char* name_;
  int32_t type_, index_;
  bool on_cpu_;
  DeviceGuardHandle guard_ = nullptr;
  void* stream_ = nullptr;
};

}  // namespace rnnfast::cuda
