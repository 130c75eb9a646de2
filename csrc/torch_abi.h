// Our own declarations of the part of LibTorch's stable C ABI that we call, and thin owners around
// its handles. No torch header is needed to build, and what is built serves every torch from 2.11
// on.
//
// The functions are declared in torch/csrc/inductor/aoti_torch/c/shim.h and
// torch/csrc/stable/c/shim.h; tests/test_abi.py lets the compiler compare these declarations with
// the installed torch's own.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

struct AtenTensorOpaque;
struct TorchLibraryOpaque;
struct StableListOpaque;
struct StringOpaque;

extern "C" {

using AOTITorchError = int32_t;  // 0: success
using AtenTensorHandle = AtenTensorOpaque*;
using TorchLibraryHandle = TorchLibraryOpaque*;
using StableListHandle = StableListOpaque*;
using StringHandle = StringOpaque*;
using StableIValue = uint64_t;  // one argument or result of a boxed operator

AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor);
AOTITorchError aoti_torch_get_data_ptr(AtenTensorHandle tensor, void** data);
AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* dim);
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** sizes);
AOTITorchError aoti_torch_get_strides(AtenTensorHandle tensor, int64_t** strides);
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* dtype);
AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle tensor, bool* is_contiguous);
AOTITorchError aoti_torch_empty_strided(int64_t dim, const int64_t* sizes, const int64_t* strides,
                                        int32_t dtype, int32_t device_type, int32_t device_index,
                                        AtenTensorHandle* tensor);
AOTITorchError aoti_torch_copy_(AtenTensorHandle to, AtenTensorHandle from, int32_t non_blocking);

int32_t aoti_torch_device_type_cpu();
int32_t aoti_torch_dtype_bool();
int32_t aoti_torch_dtype_int32();
int32_t aoti_torch_dtype_int64();
int32_t aoti_torch_dtype_bfloat16();
int32_t aoti_torch_dtype_float16();
int32_t aoti_torch_dtype_float32();
int32_t aoti_torch_dtype_float64();

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

}  // extern "C"

namespace rnnfast {

// The version whose conventions for StableIValue this header follows: 2.11.
constexpr uint64_t kAbiVersion = (uint64_t{2} << 56) | (uint64_t{11} << 48);

inline void check_call(AOTITorchError error, const char* what) {
  if (error == 0) return;
  std::string message = std::string("rnnfast: torch could not ") + what;
  if (torch_exception_get_what_without_backtrace != nullptr) {
    message += std::string(": ") + torch_exception_get_what_without_backtrace();
  }
  throw std::runtime_error(message);
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
  int64_t size(int64_t i) const { return get<int64_t*>(aoti_torch_get_sizes)[i]; }
  int64_t stride(int64_t i) const { return get<int64_t*>(aoti_torch_get_strides)[i]; }
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

// An uninitialised contiguous tensor on the CPU.
inline Tensor empty(const int64_t* sizes, int64_t dim, int32_t dtype) {
  constexpr int64_t kMostDims = 64;
  if (dim > kMostDims) throw std::runtime_error("rnnfast: a tensor has more than 64 dimensions");
  int64_t strides[kMostDims];
  int64_t stride = 1;
  for (int64_t i = dim - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= sizes[i] > 0 ? sizes[i] : 1;
  }
  AtenTensorHandle handle;
  check_call(aoti_torch_empty_strided(dim, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0,
                                      &handle),
             "allocate a tensor");
  return Tensor(handle);
}

inline Tensor empty(std::initializer_list<int64_t> sizes, int32_t dtype) {
  return empty(sizes.begin(), static_cast<int64_t>(sizes.size()), dtype);
}

inline void copy(const Tensor& to, const Tensor& from) {
  check_call(aoti_torch_copy_(to.handle(), from.handle(), 0), "copy a tensor");
}

// StableIValue <-> C++. Reading an argument takes its ownership.
template <class Value>
struct Boxed {
  static_assert(std::is_arithmetic_v<Value>);
  static Value read(StableIValue boxed) {
    Value value;
    std::memcpy(&value, &boxed, sizeof value);  // little-endian, as both targets are
    return value;
  }
};

template <>
struct Boxed<Tensor> {
  static Tensor read(StableIValue boxed) {
    return Tensor(reinterpret_cast<AtenTensorHandle>(boxed));
  }
  static StableIValue write(Tensor value) {
    return reinterpret_cast<StableIValue>(value.release());
  }
};

template <>
struct Boxed<std::optional<Tensor>> {
  static std::optional<Tensor> read(StableIValue boxed) {
    auto* element = reinterpret_cast<StableIValue*>(boxed);
    if (element == nullptr) return std::nullopt;
    Tensor value = Boxed<Tensor>::read(*element);
    delete element;  // torch allocates it with new and leaves it to the reader
    return value;
  }
};

template <>
struct Boxed<std::vector<Tensor>> {
  // An element is a handle that belongs to whoever takes it, once; deleting the list leaves them
  // be.
  static std::vector<Tensor> read(StableIValue boxed) {
    auto list = reinterpret_cast<StableListHandle>(boxed);
    size_t size;
    check_call(torch_list_size(list, &size), "measure a list");
    std::vector<Tensor> tensors;
    tensors.reserve(size);
    for (size_t i = 0; i < size; ++i) {
      StableIValue element;
      check_call(torch_list_get_item(list, i, &element), "read a list");
      tensors.push_back(Boxed<Tensor>::read(element));
    }
    check_call(torch_delete_list(list), "delete a list");
    return tensors;
  }
};

template <>
struct Boxed<std::string> {
  static StableIValue write(const std::string& value) {
    StringHandle handle;
    check_call(torch_new_string_handle(value.data(), value.size(), &handle), "make a string");
    return reinterpret_cast<StableIValue>(handle);
  }
};

namespace detail {

template <class... Results>
void write_results(StableIValue* stack, std::tuple<Results...> results) {
  std::apply([&](auto&... each) { ((*stack++ = Boxed<Results>::write(std::move(each))), ...); },
             results);
}

template <class Result>
void write_results(StableIValue* stack, Result result) {
  *stack = Boxed<Result>::write(std::move(result));
}

template <class Result, class... Arguments, size_t... Index>
void call_boxed(Result (*operation)(Arguments...), StableIValue* stack,
                std::index_sequence<Index...>) {
  // Braces: every argument is owned, in order, before anything can throw.
  std::tuple<Arguments...> arguments{Boxed<Arguments>::read(stack[Index])...};
  write_results(stack, std::apply(operation, std::move(arguments)));
}

template <class Result, class... Arguments>
void call_boxed(Result (*operation)(Arguments...), StableIValue* stack) {
  call_boxed(operation, stack, std::index_sequence_for<Arguments...>{});
}

}  // namespace detail

// The boxed form of an operation, for torch_library_impl: its arguments and results are converted
// according to its C++ signature, which must be that of the schema. Arguments are taken by value.
template <auto Operation>
void boxed(StableIValue* stack, uint64_t, uint64_t) {
  detail::call_boxed(Operation, stack);
}

// Operators stay registered as long as the process lives, so a Library is never given back.
class Library {
 public:
  static Library define(const char* name_space) {
    Library library;
    check_call(aoti_torch_library_init_def(name_space, "csrc/ops.cpp", 0, &library.handle_),
               "open an operator library");
    return library;
  }
  static Library implement(const char* name_space, const char* dispatch_key) {
    Library library;
    check_call(
        aoti_torch_library_init_impl(name_space, dispatch_key, "csrc/ops.cpp", 0, &library.handle_),
        "open an operator library");
    return library;
  }
  Library& def(const char* schema) {
    check_call(aoti_torch_library_def(handle_, schema), "define an operator");
    return *this;
  }
  template <auto Operation>
  Library& impl(const char* name) {
    check_call(torch_library_impl(handle_, name, boxed<Operation>, kAbiVersion),
               "register an operator");
    return *this;
  }

 private:
  TorchLibraryHandle handle_ = nullptr;
};

}  // namespace rnnfast
