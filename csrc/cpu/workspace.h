// Scratch memory of one kernel call. The same lay-out runs twice, first to measure and then to hand
// out:
//
//   Workspace memory;
//   lay_out(memory);      // take() only counts
//   memory.allocate();    // may throw std::bad_alloc; the destructor gives the block back
//   lay_out(memory);      // take() hands out addresses
//
// Blocks are kept for the next call in a small lock-free cache: page faults on fresh memory cost
// more than a small training step. The cache is bounded, several threads may use it at once, and a
// fork at any moment leaves it whole (there is no lock that a vanished thread could hold).
#pragma once

#include <cstddef>
#include <cstdint>

namespace rnnfast {

class Workspace {
 public:
  Workspace() = default;
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void allocate();

  // Points `part` at room for `count` elements, 256-byte aligned, not initialised.
  template <class Element>
  void take(Element*& part, int64_t count) {
    part = static_cast<Element*>(take_bytes(static_cast<size_t>(count) * sizeof(Element)));
  }
  // ... of elements from number `first` on.
  template <class Element>
  void take(Element*& part, int64_t count, int64_t first) {
    take(part, count);
    if (part != nullptr) part -= first;
  }
  // Moves on to a new page: what one worker writes must not share a page with what another writes,
  // or the hardware prefetchers pull lines to and fro (2.6 times slower at H=64 on cores far
  // apart).
  void start_page();

 private:
  void* take_bytes(size_t bytes);

  char* memory_ = nullptr;  // null while measuring
  size_t used_ = 0, capacity_ = 0;
};

}  // namespace rnnfast
