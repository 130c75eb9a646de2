// Without std::ostringstream, which takes half a second of a file's compilation and has symbols of
// a newer libstdc++ than systems of glibc 2.28 have.
#include "words.h"

#include <cstdio>
#include <stdexcept>

namespace rnnfast {

std::string Word::text() const {
  if (kind_ == kText) return text_;
  if (kind_ == kInteger) return std::to_string(integer_);
  char digits[32];
  std::snprintf(digits, sizeof digits, "%g", real_);
  return digits;
}

std::string joined(std::initializer_list<Word> words) {
  std::string sentence;
  for (const Word& word : words) sentence += word.text();
  return sentence;
}

void fail_with(std::initializer_list<Word> words) { throw std::runtime_error(joined(words)); }

}  // namespace rnnfast
