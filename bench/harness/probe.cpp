// What the machine can do at this moment: multiply-adds, reads, and talk between two cores.
// Every figure is a single short sample of a few milliseconds, meant to be taken often.
#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));
constexpr int kLanes = kBytes / sizeof(float);

// Independent sums: enough to hide the latency of 4 cycles at two results per cycle, and few enough
// for the 16 registers of AVX2.
constexpr int kChains = 12;

double seconds() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

volatile float sink;

void keep(const Vector (&sums)[kChains]) {
  Vector total = sums[0];
  for (int i = 1; i < kChains; i++) total += sums[i];
  sink = total[0];
}

void multiply_add(long rounds) {
  Vector sums[kChains];  // all different, or the compiler would compute equal ones once
  for (int i = 0; i < kChains; i++) sums[i] = Vector{} + (sink + 0.01f * i);
  Vector factor = Vector{} + 0.999f, term = Vector{} + 0.001f;
  for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) sums[i] = sums[i] * factor + term;
  }
  keep(sums);
}

void read(const std::vector<Vector>& data, long passes) {
  Vector sums[kChains] = {};
  for (long p = 0; p < passes; p++) {
    for (size_t k = 0; k + kChains <= data.size(); k += kChains) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; i++) sums[i] += data[k + i];
    }
  }
  keep(sums);
}

// Seconds that `work(thread)` takes on all threads at once, measured from a common start.
template <class Work>
double on_all(int threads, Work work) {
  std::atomic<int> waiting{threads};
  std::vector<double> started(threads), ended(threads);
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; t++) {
    pool.emplace_back([&, t] {
      waiting--;
      while (waiting.load() > 0) std::this_thread::yield();
      started[t] = seconds();
      work(t);
      ended[t] = seconds();
    });
  }
  for (std::thread& thread : pool) thread.join();
  double first = started[0], last = ended[0];
  for (int t = 1; t < threads; t++) {
    first = started[t] < first ? started[t] : first;
    last = ended[t] > last ? ended[t] : last;
  }
  return last - first;
}

// Moves the calling thread to the n-th processor it may use. False where that cannot be done.
bool move_to(int n) {
#if defined(__linux__)
  cpu_set_t allowed, one;
  if (pthread_getaffinity_np(pthread_self(), sizeof allowed, &allowed)) return false;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &allowed) || n-- > 0) continue;
    CPU_SET(cpu, &one);
    return !pthread_setaffinity_np(pthread_self(), sizeof one, &one);
  }
#endif
  return false;
}

struct alignas(128) Flag {
  std::atomic<int> value{0};
};

}  // namespace

extern "C" {

// 1e9 floating-point operations per second of `threads` threads together.
double probe_gflops(int threads) {
  constexpr long kRounds = 1000000;
  double time = on_all(threads, [](int) { multiply_add(kRounds); });
  return 2.0 * threads * kRounds * kChains * kLanes / time / 1e9;
}

// 1e9 bytes read per second by `threads` threads together, each going over its own `bytes`.
double probe_gbytes(int threads, long bytes) {
  size_t count = bytes / kBytes > kChains ? bytes / kBytes : kChains;
  size_t used = count / kChains * kChains;
  long passes = (256L << 20) / (used * kBytes) + 1;
  std::vector<std::vector<Vector>> data(threads, std::vector<Vector>(count));
  on_all(threads, [&](int t) { read(data[t], 1); });
  double time = on_all(threads, [&](int t) { read(data[t], passes); });
  return 1.0 * threads * passes * used * kBytes / time / 1e9;
}

// Nanoseconds for a value to go from one core to another and back; -1 where threads cannot be held
// on two different cores.
double probe_round_trip() {
  constexpr int kTrips = 2000;
  Flag ping, pong;
  std::atomic<bool> held{true};
  double time = 0;
  on_all(2, [&](int t) {
    if (!move_to(t)) held = false;
    (t ? pong : ping).value = -1;
    while ((t ? ping : pong).value.load() == 0) std::this_thread::yield();
    if (!held) return;
    double start = seconds();
    for (int i = 1; i <= kTrips; i++) {
      if (t == 0) ping.value.store(i, std::memory_order_release);
      std::atomic<int>& awaited = t == 0 ? pong.value : ping.value;
      while (awaited.load(std::memory_order_acquire) != i) {
      }
      if (t == 1) pong.value.store(i, std::memory_order_release);
    }
    if (t == 0) time = seconds() - start;
  });
  return held ? time / kTrips * 1e9 : -1;
}
}
