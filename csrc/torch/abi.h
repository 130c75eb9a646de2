// Our own declarations of the part of LibTorch's stable C ABI that we call, and thin owners around
// its handles. No torch header is needed to build, and what is built serves every torch from 2.11
// on.
//
// The functions are declared in torch/csrc/inductor/aoti_torch/c/shim.h and
// torch/csrc/stable/c/shim.h; tests/packaging/test_abi.py lets the compiler compare these
// declarations with the installed torch's own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <utility>

struct AtenTensorOpaque;
struct TorchLibraryOpaque;
struct StableListOpaque;
struct StringOpaque;
struct DeviceGuardOpaque;

extern "C" {

using AOTITorchError = int32_t;  // 0: success
using AtenTensorHandle = AtenTensorOpaque*;
using TorchLibraryHandle = TorchLibraryOpaque*;
using StableListHandle = StableListOpaque*;
using StringHandle = StringOpaque*;
using DeviceGuardHandle = DeviceGuardOpaque*;
using StableIValue = uint64_t;  // one argument or result of a boxed operator

AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor);
AOTITorchError aoti_torch_get_data_ptr(AtenTensorHandle tensor, void** data);
AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* dim);
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** sizes);
AOTITorchError aoti_torch_get_strides(AtenTensorHandle tensor, int64_t** strides);
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* dtype);
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle tensor, int32_t* device_type);
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle tensor, int32_t* device_index);
AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle tensor, bool* is_contiguous);
AOTITorchError aoti_torch_empty_strided(int64_t dim, const int64_t* sizes, const int64_t* strides,
                                        int32_t dtype, int32_t device_type, int32_t device_index,
                                        AtenTensorHandle* tensor);
AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle tensor, AtenTensorHandle* same);
AOTITorchError aoti_torch__reinterpret_tensor(AtenTensorHandle tensor, int64_t dim,
                                              const int64_t* sizes, const int64_t* strides,
                                              int64_t further_offset, AtenTensorHandle* view);
AOTITorchError aoti_torch_zero_(AtenTensorHandle tensor);
AOTITorchError aoti_torch_copy_(AtenTensorHandle to, AtenTensorHandle from, int32_t non_blocking);

int32_t aoti_torch_device_type_cpu();
int32_t aoti_torch_device_type_cuda();
int32_t aoti_torch_dtype_bool();
int32_t aoti_torch_dtype_uint8();
int32_t aoti_torch_dtype_int32();
int32_t aoti_torch_dtype_int64();
int32_t aoti_torch_dtype_bfloat16();
int32_t aoti_torch_dtype_float16();
int32_t aoti_torch_dtype_float32();
int32_t aoti_torch_dtype_float64();

AOTITorchError aoti_torch_create_device_guard(int32_t device_index, DeviceGuardHandle* guard);
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle guard);
AOTITorchError torch_call_dispatcher(const char* name, const char* overload, StableIValue* stack,
                                     uint64_t abi_version);

AOTITorchError torch_list_size(StableListHandle list, size_t* size);
AOTITorchError torch_list_get_item(StableListHandle list, size_t index, StableIValue* element);
AOTITorchError torch_delete_list(StableListHandle list);
AOTITorchError torch_new_string_handle(const char* data, size_t length, StringHandle* string);

AOTITorchError torch_get_num_threads(uint32_t* num_threads);
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain_size,
                                  void (*body)(int64_t begin, int64_t end, void* context),
                                  void* context);

AOTITorchError aoti_torch_library_init_def(const char* name_space, const char* file, uint32_t line,
                                           TorchLibraryHandle* library);
AOTITorchError aoti_torch_library_init_impl(const char* name_space, const char* dispatch_key,
                                            const char* file, uint32_t line,
                                            TorchLibraryHandle* library);
AOTITorchError aoti_torch_library_def(TorchLibraryHandle library, const char* schema);
AOTITorchError torch_library_impl(TorchLibraryHandle library, const char* name,
                                  void (*kernel)(StableIValue* stack, uint64_t num_arguments,
                                                 uint64_t num_results),
                                  uint64_t abi_version);

// From torch 2.13 on; null before.
__attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

// In a torch that was built for CUDA; null in another.
__attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                        void** stream);

}  // extern "C"

namespace rnnfast {

// The version whose conventions for StableIValue this header follows: 2.11.
constexpr uint64_t kAbiVersion = (uint64_t{2} << 56) | (uint64_t{11} << 48);

// Throws for an error what torch says of it: "rnnfast: torch could not `what`: ...".
[[noreturn]] void fail_call(const char* what);
inline void check_call(AOTITorchError error, const char* what) {
  if (error != 0) fail_call(what);
}

// Owns one reference to a tensor.
class Tensor {
 public:
  explicit Tensor(AtenTensorHandle handle) : handle_(handle) {}
  Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Tensor() {
    if (handle_ != nullptr) aoti_torch_delete_tensor_object(handle_);
  }

  AtenTensorHandle handle() const { return handle_; }
  AtenTensorHandle release() { return std::exchange(handle_, nullptr); }

  int64_t dim() const { return get<int64_t>(aoti_torch_get_dim); }
  const int64_t* sizes() const { return get<int64_t*>(aoti_torch_get_sizes); }
  int64_t size(int64_t i) const { return sizes()[i]; }
  int64_t stride(int64_t i) const { return get<int64_t*>(aoti_torch_get_strides)[i]; }
  int32_t device_type() const { return get<int32_t>(aoti_torch_get_device_type); }
  int32_t device_index() const { return get<int32_t>(aoti_torch_get_device_index); }
  int32_t dtype() const { return get<int32_t>(aoti_torch_get_dtype); }
  bool is_contiguous() const { return get<bool>(aoti_torch_is_contiguous); }
  int64_t numel() const {
    int64_t n = 1;
    for (int64_t i = 0; i < dim(); ++i) n *= size(i);
    return n;
  }
  template <class Element>
  Element* data() const {
    return static_cast<Element*>(get<void*>(aoti_torch_get_data_ptr));
  }

 private:
  template <class Value>
  Value get(AOTITorchError (*getter)(AtenTensorHandle, Value*)) const {
    Value value;
    check_call(getter(handle_, &value), "describe a tensor");
    return value;
  }

  AtenTensorHandle handle_;
};

// An uninitialised contiguous tensor.
Tensor empty_on(int32_t device_type, int32_t device_index, const int64_t* sizes, int64_t dim,
                int32_t dtype);

// ... on the CPU.
inline Tensor empty(const int64_t* sizes, int64_t dim, int32_t dtype) {
  return empty_on(aoti_torch_device_type_cpu(), 0, sizes, dim, dtype);
}

inline Tensor empty(std::initializer_list<int64_t> sizes, int32_t dtype) {
  return empty(sizes.begin(), static_cast<int64_t>(sizes.size()), dtype);
}

inline void copy(const Tensor& to, const Tensor& from) {
  check_call(aoti_torch_copy_(to.handle(), from.handle(), 0), "copy a tensor");
}

// Replaces tensors by contiguous ones, where they are not, on their own device.
void make_contiguous(Tensor& tensor);
inline void make_contiguous(std::optional<Tensor>& tensor) {
  if (tensor) make_contiguous(*tensor);
}
template <class... Tensors>
void make_all_contiguous(Tensors&... tensors) {
  (make_contiguous(tensors), ...);
}

}  // namespace rnnfast
