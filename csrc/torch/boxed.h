// Operators as torch calls them: arguments and results in boxes of 64 bits, and libraries of them.
#pragma once

#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "torch/abi.h"

namespace rnnfast {

// StableIValue <-> C++. Reading an argument takes its ownership. A struct of several arguments of a
// schema is a specialisation with take(), which reads them from consecutive boxes.
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

// The value in the next box or boxes.
template <class Value>
Value take_boxed(StableIValue*& next) {
  if constexpr (requires { Boxed<Value>::take(next); }) {
    return Boxed<Value>::take(next);
  } else {
    return Boxed<Value>::read(*next++);
  }
}

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

template <class Result, class... Arguments>
void call_boxed(Result (*operation)(Arguments...), StableIValue* stack) {
  [[maybe_unused]] StableIValue* next = stack;  // an operation may have no argument
  // Braces: every argument is owned, in order, before anything can throw.
  std::tuple<Arguments...> arguments{take_boxed<Arguments>(next)...};
  if constexpr (std::is_void_v<Result>) {
    std::apply(operation, std::move(arguments));
  } else {
    write_results(stack, std::apply(operation, std::move(arguments)));
  }
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
    check_call(aoti_torch_library_init_def(name_space, "csrc/ops/schemas.cpp", 0, &library.handle_),
               "open an operator library");
    return library;
  }
  static Library implement(const char* name_space, const char* dispatch_key) {
    Library library;
    check_call(aoti_torch_library_init_impl(name_space, dispatch_key, "csrc/ops/schemas.cpp", 0,
                                            &library.handle_),
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
