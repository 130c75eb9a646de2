// Sentences put together from their parts, and the one way in which C++ code here fails. Without
// std::ostringstream: it takes half a second of each file's compilation, and symbols of a newer
// libstdc++ than systems of glibc 2.28 have.
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace rnnfast {

template <class Part>
std::string word(const Part& part) {
  if constexpr (std::is_floating_point_v<Part>) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%g", static_cast<double>(part));
    return digits;
  } else if constexpr (std::is_arithmetic_v<Part>) {
    return std::to_string(part);
  } else {
    return part;
  }
}

template <class... Parts>
std::string words(const Parts&... parts) {
  return (std::string() + ... + word(parts));
}

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw std::runtime_error(words("rnnfast: ", parts...));
}

}  // namespace rnnfast
