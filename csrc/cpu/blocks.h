// Passes over lists of tensors, cut into blocks of at most kElements that workers share.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace rnnfast::RNNFAST_ISA {

constexpr int64_t kElements = 4096;
// A worker with less would take less time than its start, about a microsecond.
constexpr int64_t kFewestBlocksPerWorker = 8;

template <class Span>
int64_t blocks_of(const Span& span) {
  return (span.count + kElements - 1) / kElements;
}

template <class Span>
int64_t count_blocks(const Span* spans, int64_t num_spans) {
  int64_t blocks = 0;
  for (int64_t s = 0; s < num_spans; ++s) blocks += blocks_of(spans[s]);
  return blocks;
}

// One alone where tensors share memory: they are passed over in order.
inline int64_t workers_for(int64_t blocks, bool shares_memory) {
  int64_t workers = blocks / kFewestBlocksPerWorker;
  if (workers > num_threads()) workers = num_threads();
  return workers < 1 || shares_memory ? 1 : workers;
}

// Calls visit(span, first element, count, block) for the blocks [share.begin, share.end).
template <class Span, class Visit>
void each_block(const Span* spans, int64_t num_spans, Share share, const Visit& visit) {
  int64_t first = 0;  // block of the span
  for (int64_t s = 0; s < num_spans && first < share.end; ++s) {
    const Span& span = spans[s];
    const int64_t blocks = blocks_of(span);
    const int64_t begin = share.begin > first ? share.begin : first;
    const int64_t end = share.end < first + blocks ? share.end : first + blocks;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t at = (block - first) * kElements;
      visit(span, at, span.count - at < kElements ? span.count - at : kElements, block);
    }
    first += blocks;
  }
}

}  // namespace rnnfast::RNNFAST_ISA
