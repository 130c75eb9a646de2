// Workers, their barrier, and torch's thread pool behind them. Compiled once, for the baseline.
#include "parallel.h"

#include <time.h>

#include <atomic>
#include <chrono>

#include "kernels.h"

namespace rnnfast {

namespace {

// A barrier takes 0.1 to 0.5 us where both spin, and tens of them where one has gone to sleep: then
// the others, waiting for it to wake, sleep at the next barrier too, and so on. Spinning for 4 us
// made a step of H = 64 20 % longer than for 50 us where the cores are far from each other, and up
// to 80 % beside two busy neighbours.
constexpr auto kSpinTime = std::chrono::microseconds(50);
constexpr int kPausesPerClockRead = 32;

using Clock = std::chrono::steady_clock;

ThreadPool pool = {[](int64_t tasks, void (*body)(int64_t, int64_t, void*), void* context) {
                     body(0, tasks, context);
                   },
                   [] { return int64_t{1}; }};

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether a thread's calls should do all workers' shares alone for a while. On a machine whose
// cores others want too, a team waits for whichever of its threads is not running: a training step
// of 0.2 ms then took 8 ms, and the plain loop won. Who does a share changes no result.
class Pace {
 public:
  bool alone() const { return strikes_ == kStrikes && Clock::now() < alone_until_; }

  // A call of a team took `wall`, of which the calling thread computed for `computed`; else it
  // waited for others or for a core.
  void note(int64_t workers, Clock::duration wall, Clock::duration computed) {
    const bool alone_is_faster = workers * computed < wall;
    if (!alone_is_faster) {
      strikes_ = 0;
    } else if (strikes_ + 1 >= kStrikes) {
      strikes_ = kStrikes;  // after the time alone, one slow team is enough for another
      alone_until_ = Clock::now() + kTimeAlone;
    } else {
      ++strikes_;
    }
  }

 private:
  static constexpr int kStrikes = 3;
  // Some time slices of the operating system: long against a lost one, short for a passing spell.
  static constexpr auto kTimeAlone = std::chrono::milliseconds(50);
  int strikes_ = 0;
  Clock::time_point alone_until_{};
};
thread_local Pace pace;

// Of the calling thread on its core.
Clock::duration cpu_time() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec);
}

}  // namespace

class Barrier {
 public:
  explicit Barrier(int64_t workers) : workers_(workers) {}

  // Comes with `count` workers; returns when all workers have come.
  void arrive_and_wait(int64_t count) {
    const int round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(count, std::memory_order_acq_rel) + count == workers_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      round_.notify_all();  // a load and no system call where nobody sleeps
    } else if (!spin_while(round)) {
      wake_sleepers();
      round_.wait(round, std::memory_order_acquire);
    }
  }

  // A notification may look for sleepers before the store in front of it can be seen, and so miss
  // one who has just looked at the old value. Whoever notifies calls this before it sleeps or
  // leaves.
  void wake_sleepers() {
    round_.fetch_add(0, std::memory_order_seq_cst);
    round_.notify_all();
  }

 private:
  bool spin_while(int round) const {
    Clock::time_point deadline{};  // no clock is read where the others come soon
    for (;;) {
      for (int i = 0; i < kPausesPerClockRead; ++i) {
        if (round_.load(std::memory_order_acquire) != round) return true;
        pause();
      }
      const auto now = Clock::now();
      if (deadline == Clock::time_point{}) deadline = now + kSpinTime;
      if (now > deadline) return false;
    }
  }

  const int64_t workers_;
  // On lines of their own: the spinning load must not slow the others' arrival down.
  alignas(64) std::atomic<int64_t> arrived_{0};
  alignas(64) std::atomic<int> round_{0};
};

void set_thread_pool(const ThreadPool& new_pool) { pool = new_pool; }

int64_t num_threads() {
  const int64_t n = pool.num_threads();
  return n < 1 ? 1 : n;
}

void Team::sync() const {
  if (end_ - begin_ < size_) barrier_.arrive_and_wait(end_ - begin_);
}

void run_team_erased(int64_t workers, void (*body)(Team&, const void*), const void* context) {
  struct Call {
    Barrier barrier;
    int64_t workers;
    void (*body)(Team&, const void*);
    const void* context;
    Clock::duration computed{};  // by the thread of the first worker
  } call{Barrier(workers), workers, body, context};
  const auto chunk = [](int64_t begin, int64_t end, void* data) {
    Call& call = *static_cast<Call*>(data);
    Team team(begin, end, call.workers, call.barrier);
    const bool is_first = begin == 0 && end < call.workers;
    const auto start = is_first ? cpu_time() : Clock::duration{};
    call.body(team, call.context);
    if (end - begin < call.workers) call.barrier.wake_sleepers();
    if (is_first) call.computed = cpu_time() - start;
  };
  if (workers == 1 || pace.alone()) {
    chunk(0, workers, &call);  // spares the pool's wake-up of its threads
    return;
  }
  const auto start = Clock::now();
  pool.parallel_for(workers, chunk, &call);
  if (call.computed > Clock::duration{}) pace.note(workers, Clock::now() - start, call.computed);
}

Share share_of(int64_t n, int64_t worker, int64_t workers, int64_t unit) {
  if (workers == 1) return {0, n};  // spares three divisions
  const int64_t units = (n + unit - 1) / unit;
  const auto bound = [&](int64_t w) {
    const int64_t at = units * w / workers * unit;
    return at < n ? at : n;
  };
  return {bound(worker), bound(worker + 1)};
}

}  // namespace rnnfast
