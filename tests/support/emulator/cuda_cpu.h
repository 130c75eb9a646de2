// CUDA device code on the CPU: what a kernel sees. Behind it: emulator.cpp (threads and launch),
// machine.cpp (what threads call) and tensor_cores.cpp.
//
// How to use it. build.py compiles one unit (a .cu file with its -D options) to a shared object:
//
//   from emulator import build
//   unit = build.Unit("cluster", "-DRF_HP=128 -DRF_CLUSTER=2 ...", "rnn_forward")
//   unit.launch("rnn_forward", params, grid=4, cluster=2, block=64, shared_bytes=4096, seed=3)
//
// where params is a ctypes.Structure like the kernel's; what was compiled stays in build/emulator.
// build.shared_object() is the compilation alone. A launch comes down to one call of C (unit.cpp,
// emulator.h; emulator.so must be loaded first and with RTLD_GLOBAL, as build.emulator() does):
//
//   void* kernel = dlsym(dlopen("UNIT.so"), "emulated_rnn_forward");
//   emulator_launch(kernel, &params, &geometry)   // 0, or 1: emulator_message() says what was
//   wrong
//
// A kernel is written as `extern "C" __global__ void NAME(const __grid_constant__ Params p)` and
// takes shared memory from dynamic_shared() of ptx.cuh. Device code includes no system header.
//
// What is modelled. Each CUDA thread is a fiber of one OS thread; the blocks of a cluster live at
// the same time, and `resident` clusters do. Dynamic shared memory starts as NaN. Seed 0 runs
// threads in order and delivers asynchronous stores at once; any other seed picks the order of
// clusters and threads, stalls warps and blocks, and delivers asynchronous stores and copies late
// and out of order. clock64() counts switches between threads, and leaps where nobody can go on,
// so that bounded waits expire. wgmma and cp.async.bulk see of shared memory what a fence has shown
// them. Refused with a message: a deadlock, misaligned accesses, misused mbarriers, stores into a
// block that has left, partial warp masks, addresses beside an array (fences.py).
// What is not: weak memory order inside a thread's plain stores, occupancy, registers, time.
#pragma once

#include <math.h>
#include <string.h>

#define RF_EMULATED 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __shared__ static  // right without clusters and with resident = 1 only, and not poisoned

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

extern dim3 threadIdx, blockIdx, blockDim, gridDim;  // set before each switch to a thread
constexpr int warpSize = 32;

namespace emulator {

// ---- the threads
void yield();     // lets the others run
void progress();  // something happened that another thread may be waiting for
long long clock();
void block_barrier();
int block_or(int predicate);
void warp_barrier();
void cluster_barrier();
void cluster_arrive();  // its first half
void cluster_wait();    // its second half
unsigned cluster_rank();
int lane();
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ---- shared memory
unsigned char* shared();
unsigned char* shared_of(const void* mine,
                         unsigned rank);  // the same place in a block of the cluster

// ---- exchange inside a warp: every lane publishes, reads what it likes of the others', releases
constexpr int kSlotBytes = 64;
const unsigned char* publish(const void* mine, int bytes);  // lane i at i * kSlotBytes
void release();

// What this thread has written to shared memory may be read by wgmma and cp.async.bulk: they see it
// when all threads of the block have come here.
void fence_async();

// ---- asynchronous copies (cp.async), complete at the latest when the thread waits for them
void copy_async(void* to, const void* from, int bytes);
void wait_copies(int pending);  // until at most so many committed groups are under way
void commit_copies();

// ---- mbarriers, and stores that complete on one (st.async)
struct alignas(8) Mbarrier {
  short count, pending;
  int bytes : 31;
  unsigned phase : 1;
};
static_assert(sizeof(Mbarrier) == 8);
void mbarrier_init(Mbarrier* barrier, unsigned count);
void mbarrier_arrive(Mbarrier* barrier, int expected_bytes);
bool mbarrier_done(Mbarrier* barrier, unsigned parity);  // yields where it is not
void store_async(void* to, const void* value, int bytes, void* barrier);
// cp.async.bulk to another block; to global memory, until this thread waits for it; from there to
// this place in several blocks, a bit for each rank. Each reads its source when it arrives, in
// pieces.
void copy_bulk(void* to, const void* from, int bytes, void* barrier);
void copy_bulk_to_global(void* to, const void* from, int bytes);
void wait_bulk_copies();
void multicast_bulk(void* to, const void* from, int bytes, void* barrier, unsigned blocks);

// ---- narrow floats and tensor cores
unsigned float16(float x);
float from_float16(unsigned bits);

// The products are exact; their sum with d is rounded once, toward 0: the order and the width of a
// real tensor core's sum are not documented, and it is known to truncate.
//
// What a lane gives, as in ptx.cuh.
struct Fragments {
  float a[4], b[2];
};
void mma_tf32(float (&d)[4], Fragments mine);

// wgmma, performed when the warp waits for it or before, by the throw of a coin. Of B, `tile` rows
// of core matrices, only the first real_rows are read, and of d only what belongs to them is a
// number.
struct CoreMatrices {
  const unsigned char* at;
  int along_k;  // bytes from one to the next
};
void wgmma(float* d, int tile, const unsigned (&a)[4], CoreMatrices b, int real_rows);
void wgmma(float* d, int tile, CoreMatrices a, CoreMatrices b, int real_rows);
void wgmma_wait();

template <class T>
T from_lane(T value, int source) {
  static_assert(sizeof(T) <= kSlotBytes);
  const unsigned char* all = publish(&value, sizeof value);
  memcpy(&value, all + (source & 31) * kSlotBytes, sizeof value);
  release();
  return value;
}

inline void full_mask(unsigned mask) {
  if (mask != ~0u) fail("a warp instruction has the partial mask %x", mask);
}

}  // namespace emulator

// ---- barriers, shuffles and votes
inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp(unsigned mask = ~0u) {
  emulator::full_mask(mask);
  emulator::warp_barrier();
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  emulator::full_mask(mask);
  const int lane = emulator::lane();
  return emulator::from_lane(value, (lane & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  emulator::full_mask(mask);
  return emulator::from_lane(value, emulator::lane() ^ bits);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
  emulator::full_mask(mask);
  const int source = emulator::lane() + static_cast<int>(by);
  return emulator::from_lane(value, source < 32 ? source : emulator::lane());
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
  emulator::full_mask(mask);
  const int source = emulator::lane() - static_cast<int>(by);
  return emulator::from_lane(value, source >= 0 ? source : emulator::lane());
}
unsigned __ballot_sync(unsigned mask, int predicate);  // emulator.cpp: missing lanes count as 0
int __all_sync(unsigned mask, int predicate);
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __syncthreads_or(int predicate) { return emulator::block_or(predicate); }

// ---- atomics: nothing else runs between two switches
#define EMULATOR_ATOMIC __attribute__((no_sanitize("thread")))
template <class T>
EMULATOR_ATOMIC T atomicAdd(T* at, T value) {
  const T old = *at;
  *at = old + value;
  emulator::progress();
  return old;
}
template <class T>
EMULATOR_ATOMIC T atomicExch(T* at, T value) {
  const T old = *at;
  *at = value;
  emulator::progress();
  return old;
}
template <class T>
EMULATOR_ATOMIC T atomicCAS(T* at, T expected, T value) {
  const T old = *at;
  if (old == expected) *at = value;
  emulator::progress();
  return old;
}
template <class T>
EMULATOR_ATOMIC T atomicMax(T* at, T value) {
  const T old = *at;
  if (old < value) *at = value;
  emulator::progress();
  return old;
}

// ---- arithmetic
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class To, class From>
To emulated_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
inline int __float_as_int(float x) { return emulated_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulated_bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulated_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulated_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulated_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulated_bits<double>(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline long long clock64() { return emulator::clock(); }
