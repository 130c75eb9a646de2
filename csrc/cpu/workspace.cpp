// The cache of scratch blocks. Compiled once, for the baseline.
#include "workspace.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#ifdef RNNFAST_POISON
#include <sanitizer/asan_interface.h>
#endif

namespace rnnfast {

namespace {

constexpr int kSlots = 8;
constexpr size_t kMostKept = size_t{512} << 20;  // bytes in all slots together
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kAlignment = 256;

constexpr size_t kPage = 4096;

#ifdef RNNFAST_POISON
// In the tests' builds a block begins as NaN of either type, and what lies between the parts is out
// of bounds for AddressSanitizer.
constexpr size_t kGap = 1;  // at least
void forbid(void* memory, size_t bytes) {
  std::memset(memory, 0xFF, bytes);
  ASAN_POISON_MEMORY_REGION(memory, bytes);
}
void permit(void* memory, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(memory, bytes); }
#else
constexpr size_t kGap = 0;
void forbid(void*, size_t) {}
void permit(void*, size_t) {}
#endif

struct Block {
  size_t bytes;  // of the whole block, this header's page included
};

std::atomic<Block*> slots[kSlots];
std::atomic<size_t> kept_bytes{0};

Block* take_kept(size_t bytes) {
  for (auto& slot : slots) {
    Block* block = slot.exchange(nullptr, std::memory_order_acquire);
    if (block == nullptr) continue;
    kept_bytes.fetch_sub(block->bytes, std::memory_order_relaxed);
    if (block->bytes >= bytes) return block;
    std::free(
        block);  // too small: what needs more now will need more again, so this one makes room
  }
  return nullptr;
}

Block* allocate_block(size_t bytes) {
  // Whole huge pages for large blocks: fewer page faults and TLB misses.
  const size_t unit = bytes >= kHugePage ? kHugePage : kPage;
  const size_t rounded = (bytes + unit - 1) / unit * unit;
  auto* block = static_cast<Block*>(std::aligned_alloc(unit, rounded));
  if (block == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (unit == kHugePage)
    madvise(block, rounded, MADV_HUGEPAGE);  // a hint: its failure changes nothing
#endif
  block->bytes = rounded;
  return block;
}

void keep_or_free(Block* block) {
  if (kept_bytes.fetch_add(block->bytes, std::memory_order_relaxed) + block->bytes <= kMostKept) {
    for (auto& slot : slots) {
      Block* empty = nullptr;
      if (slot.compare_exchange_strong(empty, block, std::memory_order_release)) return;
    }
  }
  kept_bytes.fetch_sub(block->bytes, std::memory_order_relaxed);
  std::free(block);
}

}  // namespace

Workspace::~Workspace() {
  if (memory_ == nullptr) return;
  permit(memory_, capacity_);
  keep_or_free(reinterpret_cast<Block*>(memory_ - kPage));
}

void Workspace::allocate() {
  capacity_ = used_;
  used_ = 0;
  Block* block = take_kept(capacity_ + kPage);
  if (block == nullptr) block = allocate_block(capacity_ + kPage);
  memory_ = reinterpret_cast<char*>(block) + kPage;
  forbid(memory_, capacity_);
}

void Workspace::start_page() { used_ = (used_ + kPage - 1) / kPage * kPage; }

void* Workspace::take_bytes(size_t bytes) {
  void* part = memory_ == nullptr ? nullptr : memory_ + used_;
  if (part != nullptr) permit(part, bytes);
  used_ += (bytes + kGap + kAlignment - 1) / kAlignment * kAlignment;
  return part;
}

}  // namespace rnnfast
