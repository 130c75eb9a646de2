// Running a kernel on several workers of torch's thread pool.
//
//   run_team(workers, [&](Team& team) {
//     team.each([&](int64_t worker) { first_phase(worker); });
//     team.sync();
//     team.each([&](int64_t worker) { second_phase(worker); });
//   });
//
// A worker is a share of the work, not a thread: results depend on the number of workers alone. The
// pool may give one thread several workers (a nested call gets all of them); each() runs them one
// after another, and sync() lets the thread pass when all workers of all threads have come so far.
#pragma once

#include <cstdint>

namespace rnnfast {

class Barrier;

class Team {
 public:
  Team(int64_t begin, int64_t end, int64_t size, Barrier& barrier)
      : begin_(begin), end_(end), size_(size), barrier_(barrier) {}

  template <class Phase>
  void each(Phase&& phase) const {
    for (int64_t worker = begin_; worker < end_; ++worker) phase(worker);
  }
  // Spins for 50 microseconds, then sleeps: a pure spin took 288 ms (median) where two busy
  // neighbours wanted the same cores.
  void sync() const;

 private:
  int64_t begin_, end_, size_;
  Barrier& barrier_;
};

// torch.get_num_threads(), at least 1.
int64_t num_threads();

void run_team_erased(int64_t workers, void (*body)(Team&, const void*), const void* context);

// The body must not throw: what can fail (memory) belongs before the call.
template <class Body>
void run_team(int64_t workers, const Body& body) {
  run_team_erased(
      workers, [](Team& team, const void* context) { (*static_cast<const Body*>(context))(team); },
      &body);
}

// The share [begin, end) of `worker` when n items go to `workers`, in whole multiples of `unit`.
struct Share {
  int64_t begin, end;
};
Share share_of(int64_t n, int64_t worker, int64_t workers, int64_t unit = 1);

}  // namespace rnnfast
