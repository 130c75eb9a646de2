// A twin of the CUDA driver's library: what csrc/cuda/host/driver.h declares, on the CPU. Its
// images are shared objects that build.py makes from the device code, its one device is like an
// H200.
//
// It refuses what a real driver refuses: clusters that do not divide the grid, more than 8 blocks
// per cluster or 48 KB of shared memory without asking, an unknown kernel; and most calls where no
// context is current, as on each thread that has not called CUDA before. Kernels run to their end
// inside the launch, whatever its stream; streams.h says what their order leaves open. Needs the
// emulator's own library loaded before.
#include "cuda/host/driver.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include "emulator.h"
#include "streams.h"

using namespace rnnfast::cuda;

struct CUctx_st {};
struct CUlib_st {
  void* handle;
};
struct CUkern_st {
  void (*call)(const void* params);
  unsigned shared_bytes = 48 * 1024, most_cluster = 8;
};

namespace {

enum : Result {
  kSuccess = 0,
  kInvalidValue = 1,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kInvalidHandle = 400,
  kNotFound = 500,
  kLaunchFailed = 719,
  kCaptureUnsupported = 900,
};

constexpr int kDeviceSize = 132;  // multiprocessors
constexpr unsigned kSharedBytes = 227 * 1024;

// What tests choose.
std::atomic<int> capability{90}, capturing{0}, next_clusters{0}, next_launch{0}, next_stream{0};
std::atomic<unsigned> seed{0};
std::atomic<unsigned long long> launches{0};

Streams streams;
thread_local CaptureMode capture_mode = CaptureMode{};  // global, which allows nothing unsafe
std::mutex machine;                                     // the emulator runs one kernel at a time
CUctx_st context;
thread_local int pushed = 0;

size_t image_size(const void* image) {
  Elf64_Ehdr header;
  std::memcpy(&header, image, sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return 0;
  return header.e_shoff + size_t{header.e_shnum} * header.e_shentsize;
}

CUkern_st* kernel_of(Function function) { return reinterpret_cast<CUkern_st*>(function); }

// 0: the launch has none.
unsigned cluster_attribute_of(const LaunchConfig& c) {
  for (unsigned i = 0; i < c.num_attributes; ++i) {
    if (c.attributes[i].id == kClusterDimension) return c.attributes[i].value.cluster.x;
  }
  return 0;
}

unsigned cluster_of(const LaunchConfig& c) { return std::max(1u, cluster_attribute_of(c)); }

// Whether a capture forbids what takes memory.
bool is_unsafe() { return capturing != 0 && capture_mode != kRelaxed; }

bool is_allowed(const CUkern_st& kernel, const LaunchConfig& c) {
  const unsigned cluster = cluster_of(c);
  return c.grid_x > 0 && c.block_x > 0 && c.block_x <= 1024 && c.grid_x % cluster == 0 &&
         cluster <= kernel.most_cluster && c.shared_bytes <= kernel.shared_bytes &&
         (cluster == 1 || capability >= 90);
}

}  // namespace

extern "C" {

Result cuInit(unsigned) { return kSuccess; }

Result cuGetErrorName(Result result, const char** name) {
  switch (result) {
    case kInvalidValue:
      *name = "CUDA_ERROR_INVALID_VALUE";
      break;
    case kInvalidDevice:
      *name = "CUDA_ERROR_INVALID_DEVICE";
      break;
    case kInvalidImage:
      *name = "CUDA_ERROR_INVALID_IMAGE";
      break;
    case kInvalidContext:
      *name = "CUDA_ERROR_INVALID_CONTEXT";
      break;
    case kInvalidHandle:
      *name = "CUDA_ERROR_INVALID_HANDLE";
      break;
    case kCaptureUnsupported:
      *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
      break;
    case kNotFound:
      *name = "CUDA_ERROR_NOT_FOUND";
      break;
    case kLaunchFailed:
      *name = "CUDA_ERROR_LAUNCH_FAILED";
      break;
    default:  // as a driver does for a code that is newer than itself
      *name = nullptr;
      return kInvalidValue;
  }
  return kSuccess;
}

Result cuGetErrorString(Result result, const char** text) {
  const char* message = emulator_message();
  *text = result == kLaunchFailed && *message != 0 ? message : "of the emulated driver";
  return kSuccess;
}

Result cuDeviceGet(Device* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? kSuccess : kInvalidDevice;
}

Result cuDeviceGetAttribute(int* value, DeviceAttribute attribute, Device) {
  switch (attribute) {
    case kMultiprocessors:
      *value = kDeviceSize;
      return kSuccess;
    case kComputeCapabilityMajor:
      *value = capability / 10;
      return kSuccess;
    case kComputeCapabilityMinor:
      *value = capability % 10;
      return kSuccess;
    case kSharedBytesOptIn:
      *value = kSharedBytes;
      return kSuccess;
  }
  return kInvalidValue;
}

Result cuDevicePrimaryCtxRetain(Context* current, Device) {
  *current = &context;
  return kSuccess;
}
Result cuCtxPushCurrent_v2(Context) {
  ++pushed;
  return kSuccess;
}
Result cuCtxPopCurrent_v2(Context*) { return --pushed >= 0 ? kSuccess : kInvalidValue; }

Result cuLibraryLoadData(CodeLibrary* library, const void* code, void*, void*, unsigned, void*,
                         void*, unsigned) {
  const size_t size = image_size(code);
  if (size == 0) return kInvalidImage;
  const int file = memfd_create("image", 0);
  if (file < 0 || write(file, code, size) != static_cast<ssize_t>(size)) return kInvalidImage;
  const std::string path = "/proc/self/fd/" + std::to_string(file);
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return kInvalidImage;
  *library = new CUlib_st{handle};  // the file stays open: its path must not come to name another
  return kSuccess;
}

Result cuLibraryGetKernel(Kernel* kernel, CodeLibrary library, const char* name) {
  void* found = dlsym(library->handle, (std::string("emulated_") + name).c_str());
  if (found == nullptr) return kNotFound;
  *kernel = new CUkern_st{reinterpret_cast<void (*)(const void*)>(found)};
  return kSuccess;
}

Result cuKernelGetFunction(Function* function, Kernel kernel) {
  if (pushed == 0) return kInvalidContext;
  *function = reinterpret_cast<Function>(kernel);
  return kSuccess;
}

Result cuFuncSetAttribute(Function function, FunctionAttribute attribute, int value) {
  if (pushed == 0) return kInvalidContext;
  CUkern_st& kernel = *kernel_of(function);
  switch (attribute) {
    case kMaxDynamicSharedBytes:
      if (value < 0 || static_cast<unsigned>(value) > kSharedBytes) return kInvalidValue;
      kernel.shared_bytes = static_cast<unsigned>(value);
      return kSuccess;
    case kNonPortableClusterAllowed:
      kernel.most_cluster = value != 0 ? 16 : 8;
      return kSuccess;
  }
  return kInvalidValue;
}

Result cuLaunchKernelEx(const LaunchConfig* config, Function function, void** parameters, void**) {
  if (pushed == 0) return kInvalidContext;
  const std::lock_guard lock(machine);
  if (const int chosen = next_launch.exchange(0)) return chosen;
  const CUkern_st& kernel = *kernel_of(function);
  if (!is_allowed(kernel, *config)) return kInvalidValue;
  if (!streams.launch(config->stream)) return kInvalidHandle;
  const unsigned cluster = cluster_of(*config);
  const EmulatorGeometry geometry = {config->grid_x, cluster, config->block_x, config->shared_bytes,
                                     seed};
  ++launches;
  return emulator_launch(kernel.call, parameters[0], &geometry) == 0 ? kSuccess : kLaunchFailed;
}

// As an H100 answered, whose groups of multiprocessors are short of a few: 0 where the launch has
// no cluster attribute or is not allowed.
Result cuOccupancyMaxActiveClusters(int* clusters, Function function, const LaunchConfig* config) {
  if (pushed == 0) return kInvalidContext;
  *clusters = 0;
  if (const int chosen = next_clusters.exchange(0)) return chosen;
  if (!is_allowed(*kernel_of(function), *config)) return kSuccess;
  switch (cluster_attribute_of(*config)) {
    case 1:
      *clusters = 132;
      break;
    case 2:
      *clusters = 66;
      break;
    case 4:
      *clusters = 30;
      break;
    case 8:
      *clusters = 15;
      break;
    case 16:
      *clusters = 7;
      break;
  }
  return kSuccess;
}

Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function, int block,
                                                   size_t shared_bytes) {
  if (pushed == 0) return kInvalidContext;
  const int by_threads = 2048 / block;
  const int by_memory = shared_bytes == 0 ? 32 : static_cast<int>(kSharedBytes / shared_bytes);
  *blocks = by_threads < by_memory ? by_threads : by_memory;
  return kSuccess;
}

// Another kind of stream would wait for the default stream by itself.
Result cuStreamCreate(Stream* stream, unsigned flags) {
  if (pushed == 0) return kInvalidContext;
  if (flags != kNonBlocking) return kInvalidValue;
  if (is_unsafe()) return kCaptureUnsupported;
  if (const int chosen = next_stream.exchange(0)) return chosen;
  *stream = streams.create();
  return kSuccess;
}

Result cuEventCreate(Event* event, unsigned flags) {
  if (pushed == 0) return kInvalidContext;
  if (flags != kDisableTiming) return kInvalidValue;
  if (is_unsafe()) return kCaptureUnsupported;
  *event = new CUevent_st;
  return kSuccess;
}

Result cuEventRecord(Event event, Stream stream) {
  if (pushed == 0) return kInvalidContext;
  return streams.record(event, stream) ? kSuccess : kInvalidHandle;
}

Result cuStreamWaitEvent(Stream stream, Event event, unsigned) {
  if (pushed == 0) return kInvalidContext;
  return streams.wait(stream, *event) ? kSuccess : kInvalidHandle;
}

Result cuThreadExchangeStreamCaptureMode(CaptureMode* mode) {
  std::swap(*mode, capture_mode);
  return kSuccess;
}

Result cuStreamIsCapturing(Stream, int* status) {
  if (pushed == 0) return kInvalidContext;
  *status = capturing;
  return kSuccess;
}

Result cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  if (pushed == 0) return kInvalidContext;
  *memory = std::calloc(1, bytes);
  return *memory != nullptr ? kSuccess : kInvalidValue;
}

// ---- what tests choose and ask
void emulated_driver_capability(int value) { capability = value; }
void emulated_driver_capturing(int value) { capturing = value; }
void emulated_driver_next_clusters(int result) { next_clusters = result; }
void emulated_driver_next_launch(int result) { next_launch = result; }
void emulated_driver_next_stream(int result) { next_stream = result; }
void emulated_driver_seed(unsigned value) { seed = value; }
unsigned long long emulated_driver_launches() { return launches; }
void emulated_driver_log(int wanted) { streams.log(wanted != 0); }
void emulated_driver_skip_wait(int n) { streams.skip_wait(n); }
// Of the launches since the log began, the first of which is number 0.
int emulated_driver_is_before(int earlier, int later) { return streams.is_before(earlier, later); }
}
