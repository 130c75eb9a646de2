// Sentences put together from their parts, and the one way in which C++ code here fails.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>

namespace rnnfast {

// A part of a sentence, as long as the expression lasts that it stands in: text or a number.
class Word {
 public:
  Word(const char* text) : kind_(kText), text_(text) {}
  Word(const std::string& text) : Word(text.c_str()) {}
  template <class Number>
    requires std::is_arithmetic_v<Number>
  Word(Number number) {
    if constexpr (std::is_floating_point_v<Number>) {
      kind_ = kReal;
      real_ = number;
    } else {
      kind_ = kInteger;
      integer_ = static_cast<int64_t>(number);
    }
  }

  std::string text() const;

 private:
  enum { kText, kInteger, kReal } kind_;
  union {
    const char* text_;
    int64_t integer_;
    double real_;
  };
};

std::string joined(std::initializer_list<Word> words);
[[noreturn]] void fail_with(std::initializer_list<Word> words);

template <class... Parts>
std::string words(const Parts&... parts) {
  return joined({Word(parts)...});
}

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  fail_with({"rnnfast: ", Word(parts)...});
}

}  // namespace rnnfast
