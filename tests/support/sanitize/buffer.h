// Memory for the arguments of a call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace rnnfast {

// An array on the heap that ends where its elements end, and begins as torch's may: aligned to one
// element, not to a vector. Outputs begin as NaN.
template <class Element>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : elements_(count + 1, std::numeric_limits<Element>::has_quiet_NaN
                                 ? std::numeric_limits<Element>::quiet_NaN()
                                 : std::numeric_limits<Element>::max()) {}
  template <class Other>
  explicit Buffer(const std::vector<Other>& values) : Buffer(values.size()) {
    std::copy(values.begin(), values.end(), data());
  }
  Element* data() { return elements_.data() + 1; }
  int64_t size() const { return elements_.size() - 1; }
  Element operator[](int64_t i) const { return elements_[i + 1]; }

 private:
  std::vector<Element> elements_;
};

}  // namespace rnnfast
