// Scratch memory of one kernel call.
//
//   Workspace memory(bytes_needed);      // may throw std::bad_alloc; gives the block back when it goes
//   float* rows = memory.take<float>(n);
//
// Blocks are kept for the next call in a small lock-free cache: page faults on fresh memory cost more than a
// small training step. The cache is bounded, several threads may use it at once, and a fork at any moment
// leaves it whole (there is no lock that a vanished thread could hold).
#pragma once

#include <cstddef>
#include <cstdint>

namespace rnnfast {

class Workspace {
 public:
  explicit Workspace(size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Room for `count` elements, 64-byte aligned, not initialised.
  template <class Element>
  Element* take(int64_t count) {
    return static_cast<Element*>(take_bytes(static_cast<size_t>(count) * sizeof(Element)));
  }
  // What take<Element>(count) uses up: add these for the constructor.
  template <class Element>
  static size_t size_of(int64_t count) {
    return round_up(static_cast<size_t>(count) * sizeof(Element));
  }

 private:
  static size_t round_up(size_t bytes);
  void* take_bytes(size_t bytes);

  char* block_;
  size_t capacity_, used_ = 0;
};

}  // namespace rnnfast
