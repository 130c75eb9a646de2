// What the emulated threads call: barriers, exchange in a warp, asynchronous copies and stores.
#include "machine.h"

#include <sys/mman.h>

#include <algorithm>

namespace emulator {

namespace {

#ifdef EMULATOR_TSAN
// An address that was never used before: one used twice would order what it must not.
char* new_history() {
  constexpr size_t kMost = 1 << 24;
  static char* next =
      static_cast<char*>(mmap(nullptr, kMost, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  return next++;
}
#endif

// Its generation, which ends when all have arrived.
uint64_t arrive_at(Barrier& barrier, int threads) {
  TSAN(__tsan_release(&barrier);)
  const uint64_t generation = barrier.generation;
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    ++barrier.generation;
    ++events;
  }
  return generation;
}

void wait_for_end(Barrier& barrier, uint64_t generation) {
  self->waits_for = &barrier;
  self->generation = generation;
  while (barrier.generation == generation) to_scheduler();
  self->waits_for = nullptr;
  TSAN(__tsan_acquire(&barrier);)
}

void wait_at(Barrier& barrier, int threads) { wait_for_end(barrier, arrive_at(barrier, threads)); }

Mbarrier* initialised(Mbarrier* barrier) {
  if (barrier->count <= 0) fail("an mbarrier is used before its initialisation");
  return barrier;
}

void complete_where_due(Mbarrier* barrier) {
  TSAN(__tsan_release(barrier);)
  if (barrier->pending != 0 || barrier->bytes != 0) return;
  barrier->phase ^= 1;
  barrier->pending = barrier->count;
  ++events;
}

// Whether a store can complete where it is sent to.
bool is_received(const Store& store) {
  if (store.barrier == nullptr) return true;
  if (store.target->alive == 0) {
    report("an asynchronous store reaches a block that has left");
  } else if (store.barrier->count <= 0) {
    report("a store completes on an uninitialised mbarrier");
  }
  return !failed;
}

void complete(const Store& store) {
  if (store.barrier != nullptr) {
    store.barrier->bytes -= store.bytes;
    complete_where_due(store.barrier);
  } else {
    TSAN(__tsan_release(store.sender);)
    --store.sender->bulk_pieces;
  }
}

}  // namespace

void deliver(size_t i) {
  std::swap(under_way[i], under_way.back());
  const Store store = std::move(under_way.back());
  under_way.pop_back();
  ++delivered;
  ++events;
  if (!is_received(store)) return;
  TSAN(void* current = __tsan_get_current_fiber(); void* agent = __tsan_create_fiber(0);
       __tsan_switch_to_fiber(agent, 1); __tsan_acquire(store.history);
       if (store.from) __tsan_read_range(const_cast<unsigned char*>(store.from), store.bytes);
       __tsan_write_range(store.to, store.bytes);)
  const unsigned char* from = store.from ? seen_at(*store.sender->block, store.from) : store.data;
  unsigned char* seen =
      store.target ? store.target->seen + (store.to - store.target->shared) : nullptr;
  for (int k = 0; k < store.bytes; ++k) {  // not memcpy: the sanitizer would see it read the sender
    *static_cast<volatile unsigned char*>(store.to + k) = from[k];
    if (seen) seen[k] = from[k];
  }
  complete(store);
  TSAN(__tsan_switch_to_fiber(current, 1); __tsan_destroy_fiber(agent);)
}

void progress() { ++events; }
long long clock() { return now; }
int lane() { return self->lane; }
unsigned cluster_rank() { return self->block->rank; }
unsigned char* shared() { return self->block->shared; }

void block_barrier() { wait_at(self->block->barrier, self->block->threads); }
void warp_barrier() { wait_at(self->warp->barrier, self->warp->threads); }
void cluster_barrier() { wait_at(self->block->cluster->barrier, self->block->cluster->threads); }
void cluster_arrive() {
  self->arrived = arrive_at(self->block->cluster->barrier, self->block->cluster->threads);
}
void cluster_wait() { wait_for_end(self->block->cluster->barrier, self->arrived); }

int block_or(int predicate) {
  Block& block = *self->block;
  block_barrier();
  block.any = 0;
  block_barrier();
  block.any |= predicate;
  block_barrier();
  return block.any != 0;
}

unsigned char* shared_of(const void* mine, unsigned rank) {
  const std::vector<Block*>& blocks = self->block->cluster->blocks;
  if (rank >= blocks.size()) fail("rank %u in a cluster of %zu blocks", rank, blocks.size());
  return blocks[rank]->shared + (static_cast<const unsigned char*>(mine) - self->block->shared);
}

const unsigned char* publish(const void* mine, int bytes) {
  memcpy(self->warp->slots[self->lane], mine, bytes);
  warp_barrier();
  return self->warp->slots[0];
}
void release() { warp_barrier(); }

const unsigned char* seen_at(const Block& block, const void* place) {
  const auto* at = static_cast<const unsigned char*>(place);
  return block.shared <= at && at < block.fence ? block.seen + (at - block.shared) : at;
}

void fence_async() {
  Block& block = *self->block;
  if (++block.fenced < block.threads) return;
  block.fenced = 0;
  const long bytes = block.fence - block.shared;
  for (long k = 0; k < bytes; ++k)
    block.seen[k] = static_cast<volatile unsigned char*>(block.shared)[k];
}

// Performed at once, or only when waited for: by the throw of a coin.
void copy_async(void* to, const void* from, int bytes) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes != 0) {
    fail("an asynchronous copy of %d bytes is misaligned", bytes);
  }
  if (random_order && dice.one_in(2)) {
    self->copies.push_back({to, from, bytes, self->committed});
  } else {
    memcpy(to, from, bytes);
  }
}
void commit_copies() { ++self->committed; }
void wait_copies(int pending) {
  std::vector<Copy> later;
  for (const Copy& copy : self->copies) {
    if (copy.group < self->committed - pending || pending == 0) {
      memcpy(copy.to, copy.from, copy.bytes);
    } else {
      later.push_back(copy);
    }
  }
  self->copies.swap(later);
}

void mbarrier_init(Mbarrier* barrier, unsigned count) {
  *barrier = {static_cast<short>(count), static_cast<short>(count), 0, 0};
  self->block->mbarriers.push_back(barrier);
  TSAN(__tsan_release(barrier);)
}

void mbarrier_arrive(Mbarrier* barrier, int expected_bytes) {
  constexpr int kMostBytes = (1 << 20) - 1;  // the hardware's
  initialised(barrier)->bytes += expected_bytes;
  if (barrier->bytes > kMostBytes) fail("an mbarrier expects %d bytes", barrier->bytes);
  if (barrier->pending == 0) fail("an mbarrier has more arrivals than its count");
  --barrier->pending;
  ++events;
  complete_where_due(barrier);
}

bool mbarrier_done(Mbarrier* barrier, unsigned parity) {
  if (initialised(barrier)->phase == parity) {
    yield();
    if (barrier->phase == parity) return false;
  }
  TSAN(__tsan_acquire(barrier);)
  return true;
}

namespace {

Block* owner_of(const void* barrier) {
  Block* owner = nullptr;
  for (Block* block : self->block->cluster->blocks) {  // the nearest shared memory below
    if (block->shared <= barrier && (!owner || owner->shared < block->shared)) owner = block;
  }
  return owner;
}

// Null for `barrier`: to global memory.
void send(Store store, void* to, int bytes, void* barrier) {
  store.to = static_cast<unsigned char*>(to);
  store.bytes = bytes;
  store.barrier = static_cast<Mbarrier*>(barrier);
  store.target = barrier != nullptr ? owner_of(barrier) : nullptr;
  store.sender = self;
  if (barrier == nullptr) ++self->bulk_pieces;
  TSAN(store.history = new_history(); __tsan_release(store.history);)
  under_way.push_back(std::move(store));
  most_under_way = std::max<unsigned long long>(most_under_way, under_way.size());
  if (!random_order) deliver(under_way.size() - 1);
}

void send_in_pieces(void* to, const void* from, int bytes, void* barrier) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) | bytes) % 16 != 0) {
    fail("a bulk copy of %d bytes is misaligned", bytes);
  }
  constexpr int kMostPieces = 4;
  const int piece = random_order ? (bytes / 16 + kMostPieces - 1) / kMostPieces * 16 : bytes;
  for (int at = 0; at < bytes; at += piece) {
    Store store{};
    store.from = static_cast<const unsigned char*>(from) + at;
    send(store, static_cast<unsigned char*>(to) + at, std::min(piece, bytes - at), barrier);
  }
}

}  // namespace

void store_async(void* to, const void* value, int bytes, void* barrier) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0) {
    fail("an asynchronous store of %d bytes is misaligned", bytes);
  }
  Store store{};
  memcpy(store.data, value, bytes);
  send(store, to, bytes, barrier);
}

void copy_bulk(void* to, const void* from, int bytes, void* barrier) {
  send_in_pieces(to, from, bytes, barrier);
}

void copy_bulk_to_global(void* to, const void* from, int bytes) {
  send_in_pieces(to, from, bytes, nullptr);
}

void wait_bulk_copies() {
  while (self->bulk_pieces > 0) to_scheduler();
  TSAN(__tsan_acquire(self);)
}

void multicast_bulk(void* to, const void* from, int bytes, void* barrier, unsigned blocks) {
  for (unsigned rank = 0; blocks >> rank != 0; ++rank) {
    if ((blocks >> rank & 1) == 0) continue;
    send_in_pieces(shared_of(to, rank), from, bytes, shared_of(barrier, rank));
  }
}

}  // namespace emulator

unsigned __ballot_sync(unsigned mask, int predicate) {
  using emulator::self;
  emulator::full_mask(mask);
  const unsigned char* all = emulator::publish(&predicate, sizeof predicate);
  unsigned votes = 0;
  for (int i = 0; i < self->warp->threads; ++i) {
    int vote;
    memcpy(&vote, all + i * emulator::kSlotBytes, sizeof vote);
    votes |= (vote != 0 ? 1u : 0u) << i;
  }
  emulator::release();
  return votes;
}

int __all_sync(unsigned mask, int predicate) {
  const int threads = emulator::self->warp->threads;
  return __ballot_sync(mask, predicate) == (threads == 32 ? ~0u : (1u << threads) - 1);
}
