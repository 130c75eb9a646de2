// Runs the emulated threads: fibers, the order in which they go on, and the launch.
//
// Under ThreadSanitizer (-DEMULATOR_TSAN) the machine is compiled without instrumentation and tells
// the sanitizer about fibers and about what orders them; a delivered store is a fiber of its own
// that has seen only what its sender had done.
#include "emulator.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>

#include "machine.h"

#ifndef __x86_64__
#error "the switch between fibers is written for x86-64"
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

namespace {

// Saves the callee's registers and its stack pointer, and goes on where `to` was saved.
extern "C" void emulator_switch(void** save, void* to);
asm(R"(
.text
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

constexpr size_t kStackBytes = 64 << 10;
constexpr long long kLeap = 1ll << 32;  // of the clock where nobody can go on
constexpr uintptr_t kAlignment = 128;
constexpr size_t kFence = 256 - kAlignment;
constexpr unsigned char kPoison = 0xFF;  // NaN in every float format
constexpr int kLongIdle = 1000;          // rounds without an event: nobody is stalled anew
constexpr int kPatience = 64;            // leaps before that is a deadlock

void* scheduler_stack;
[[maybe_unused]] void* scheduler_fiber;
void (*kernel)(const void*);
const void* kernel_params;
char message[400];
[[maybe_unused]] char launch_history;  // the sanitizer's: host before kernel, kernel before host

void end_launch(const char* format, va_list arguments) {
  if (!failed) vsnprintf(message, sizeof message, format, arguments);
  failed = true;
}

void thread_main() {
  TSAN(__tsan_acquire(&launch_history);)
  kernel(kernel_params);
  if (!self->copies.empty()) fail("a thread leaves with asynchronous copies under way");
  self->done = true;
  --self->block->alive;
  ++events;
  TSAN(__tsan_release(&launch_history);)
  to_scheduler();
}

// The clusters that live at the same time, from their first thread's start to the last one's end.
class Wave {
 public:
  Wave(const EmulatorGeometry& geometry, const unsigned* clusters, unsigned count)
      : clusters_(count), blocks_(count * geometry.cluster), memory_(blocks_.size()) {
    for (size_t i = 0; i < blocks_.size(); ++i) {
      Cluster& cluster = clusters_[i / geometry.cluster];
      Block& block = blocks_[i];
      block.cluster = &cluster;
      block.rank = static_cast<unsigned>(i % geometry.cluster);
      block.index = clusters[i / geometry.cluster] * geometry.cluster + block.rank;
      block.threads = block.alive = static_cast<int>(geometry.block);
      poison(block, i, geometry.shared_bytes);
      block.warps.resize((geometry.block + 31) / 32);
      if (random_order && dice.one_in(2)) block.stalled = static_cast<int>(dice() % 300);
      cluster.blocks.push_back(&block);
      cluster.threads = static_cast<int>(geometry.block * geometry.cluster);
    }
    threads_.resize(blocks_.size() * geometry.block);
    for (size_t i = 0; i < threads_.size(); ++i) start(i, geometry.block);
  }

  // Until all threads have ended, or one has failed.
  void run() {
    left_ = threads_.size();
    while (left_ > 0 && !failed) round();
    if (!failed && !under_way.empty()) report("asynchronous stores are under way after the end");
    if (!failed) check_fences();
    TSAN(__tsan_acquire(&launch_history);
         for (Thread& thread : threads_) if (thread.fiber) __tsan_destroy_fiber(thread.fiber);)
  }

 private:
  void poison(Block& block, size_t i, unsigned bytes) {
    memory_[i].reset(new unsigned char[kAlignment + bytes + kFence]);
    memset(memory_[i].get(), kPoison, kAlignment + bytes + kFence);
    const auto start = reinterpret_cast<uintptr_t>(memory_[i].get());
    block.shared = reinterpret_cast<unsigned char*>((start + kAlignment - 1) & ~(kAlignment - 1));
    block.fence = block.shared + bytes;
  }

  void check_fences() {
    for (const Block& block : blocks_) {
      for (const unsigned char* p = block.fence; p < block.fence + kFence; ++p) {
        if (*p != kPoison) return report("block %u wrote past its shared memory", block.index);
      }
    }
  }

  void start(size_t i, unsigned block_threads) {
    Thread& thread = threads_[i];
    thread.block = &blocks_[i / block_threads];
    thread.index = static_cast<int>(i % block_threads);
    thread.lane = thread.index % 32;
    thread.warp = &thread.block->warps[thread.index / 32];
    ++thread.warp->threads;
    auto* stack = reinterpret_cast<void**>(stacks(threads_.size()) + (i + 1) * kStackBytes);
    *--stack = nullptr;  // the caller of thread_main, for the alignment that a call leaves
    *--stack = reinterpret_cast<void*>(&thread_main);
    for (int k = 0; k < 6; ++k) *--stack = nullptr;
    thread.stack = stack;
    order_.push_back(i);
  }

  static unsigned char* stacks(size_t threads) {
    static unsigned char* memory = nullptr;
    static size_t room = 0;
    if (threads > room) {
      if (memory) munmap(memory, room * kStackBytes);
      memory =
          static_cast<unsigned char*>(mmap(nullptr, threads * kStackBytes, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      room = threads;
    }
    return memory;
  }

  // Each thread that can goes on once.
  void round() {
    const uint64_t before = events;
    if (random_order) disturb();
    bool some_stalled = false;
    for (const size_t i : order_) {
      Thread& thread = threads_[i];
      if (thread.done) continue;
      if (thread.waits_for && thread.waits_for->generation == thread.generation) continue;
      if (thread.block->stalled > 0 || thread.warp->stalled > 0) {
        some_stalled = true;
        continue;
      }
      go_on(thread);
      if (failed) return;
      if (thread.done) --left_;
      if (!under_way.empty() && dice.one_in(64)) deliver(dice() % under_way.size());
    }
    idle_rounds_ = events == before ? idle_rounds_ + 1 : 0;
    if (idle_rounds_ == 0) {
      leaps_ = 0;
    } else if (some_stalled || (random_order && idle_rounds_ < kLongIdle)) {
      return;  // they will go on, or a store will arrive
    } else if (!under_way.empty()) {
      deliver(dice() % under_way.size());
    } else if (left_ > 0) {
      leap();
    }
  }

  void disturb() {
    std::shuffle(order_.begin(), order_.end(), dice);
    for (Block& block : blocks_) {
      stall(block.stalled, 64);
      for (Warp& warp : block.warps) stall(warp.stalled, 32);
    }
    const uint32_t laziness = dice() % 4;
    for (size_t i = under_way.size(); i > 0 && !failed; --i) {
      if (dice() % 4 >= laziness) deliver(dice() % under_way.size());
    }
  }

  void stall(int& stalled, uint32_t rarity) const {
    if (stalled > 0) {
      --stalled;
    } else if (idle_rounds_ < kLongIdle && dice.one_in(rarity)) {
      stalled = static_cast<int>(dice() % 200);
    }
  }

  // Only time can help: whoever waits with a limit sees it pass.
  void leap() {
    now += kLeap;
    if (++leaps_ < kPatience) return;
    for (const Thread& thread : threads_) {
      if (thread.done) continue;
      report("deadlock: %zu threads wait, the first is thread %d of block %u", left_, thread.index,
             thread.block->index);
    }
  }

  static void go_on(Thread& thread) {
    self = &thread;
    threadIdx.x = static_cast<unsigned>(thread.index);
    blockIdx.x = thread.block->index;
    ++now;
    TSAN(if (!thread.fiber) thread.fiber = __tsan_create_fiber(0);
         __tsan_switch_to_fiber(thread.fiber, 1);)
    emulator_switch(&scheduler_stack, thread.stack);
    self = nullptr;
  }

  std::vector<Cluster> clusters_;
  std::vector<Block> blocks_;
  std::vector<std::unique_ptr<unsigned char[]>> memory_;
  std::vector<Thread> threads_;
  std::vector<size_t> order_;
  size_t left_ = 0;
  int leaps_ = 0;
  int idle_rounds_ = 0;
};

}  // namespace

void to_scheduler() {
  TSAN(__tsan_switch_to_fiber(scheduler_fiber, 1);)
  emulator_switch(&self->stack, scheduler_stack);
}

void report(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  end_launch(format, arguments);
  va_end(arguments);
}

// The threads are abandoned where they stand.
void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  end_launch(format, arguments);
  va_end(arguments);
  for (;;) to_scheduler();
}

void yield() { to_scheduler(); }

}  // namespace emulator

int emulator_launch(void (*kernel)(const void*), const void* params,
                    const EmulatorGeometry* geometry) {
  using namespace emulator;
  gridDim = {geometry->grid, 1, 1};
  blockDim = {geometry->block, 1, 1};
  emulator::kernel = kernel;
  kernel_params = params;
  dice = Random(geometry->seed);
  random_order = geometry->seed != 0;
  failed = false;
  message[0] = 0;
  delivered = most_under_way = 0;
  under_way.clear();
  under_way.reserve(1 << 14);  // the sanitizer watches the heap, where threads would meet
  TSAN(scheduler_fiber = __tsan_get_current_fiber(); __tsan_release(&launch_history);)
  if (geometry->grid == 0 || geometry->block == 0 || geometry->cluster == 0 ||
      geometry->grid % geometry->cluster != 0) {
    report("a grid of %u blocks of %u threads in clusters of %u", geometry->grid, geometry->block,
           geometry->cluster);
    return 1;
  }
  std::vector<unsigned> clusters(geometry->grid / geometry->cluster);
  for (unsigned i = 0; i < clusters.size(); ++i) clusters[i] = i;
  if (random_order) std::shuffle(clusters.begin(), clusters.end(), dice);
  const size_t resident = std::max(geometry->resident, 1u);
  for (size_t i = 0; i < clusters.size() && !failed; i += resident) {
    const size_t count = std::min(resident, clusters.size() - i);
    Wave(*geometry, &clusters[i], static_cast<unsigned>(count)).run();
  }
  return failed;
}

const char* emulator_message() { return emulator::message; }
unsigned long long emulator_stores() { return emulator::delivered; }
unsigned long long emulator_most_stores_under_way() { return emulator::most_under_way; }
