// Our own declarations of the part of the CUDA driver's C interface that we call. Building needs no
// CUDA toolkit, and a machine without a driver loads the library all the same: the functions are
// looked up in libcuda.so.1 when the first of them is called. A test lets the compiler compare
// these declarations with the toolkit's cuda.h where there is one.
#pragma once

#include <cstddef>

struct CUctx_st;
struct CUevent_st;
struct CUfunc_st;
struct CUkern_st;
struct CUlib_st;
struct CUstream_st;

namespace rnnfast::cuda {

using Result = int;  // 0: success
constexpr Result kInvalidClusterSize = 912;
using Device = int;
using Context = CUctx_st*;
using Event = CUevent_st*;
using Function = CUfunc_st*;
using Kernel = CUkern_st*;
using CodeLibrary = CUlib_st*;
using Stream = CUstream_st*;

enum DeviceAttribute : int {
  kMultiprocessors = 16,
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
  kSharedBytesOptIn = 97,
};
enum FunctionAttribute : int { kMaxDynamicSharedBytes = 8, kNonPortableClusterAllowed = 14 };
enum LaunchAttributeId : int { kClusterDimension = 4 };
enum CaptureMode : int { kRelaxed = 2 };
constexpr unsigned kHostPortable = 1, kHostMapped = 2;
constexpr unsigned kNonBlocking = 1;    // a stream does not wait for the default stream
constexpr unsigned kDisableTiming = 2;  // of an event

union LaunchAttributeValue {
  char pad[64];
  struct {
    unsigned x, y, z;
  } cluster;
};
struct LaunchAttribute {
  LaunchAttributeId id;
  char pad[4];
  LaunchAttributeValue value;
};
struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  Stream stream;
  LaunchAttribute* attributes;
  unsigned num_attributes;
};

// X(member, symbol in the library, parameters)
#define RNNFAST_DRIVER_FUNCTIONS(X)                                                             \
  X(init, cuInit, (unsigned flags))                                                             \
  X(error_name, cuGetErrorName, (Result, const char** name))                                    \
  X(error_text, cuGetErrorString, (Result, const char** text))                                  \
  X(device_get, cuDeviceGet, (Device*, int ordinal))                                            \
  X(device_attribute, cuDeviceGetAttribute, (int* value, DeviceAttribute, Device))              \
  X(primary_context, cuDevicePrimaryCtxRetain, (Context*, Device))                              \
  X(push_context, cuCtxPushCurrent_v2, (Context))                                               \
  X(pop_context, cuCtxPopCurrent_v2, (Context*))                                                \
  X(load_library, cuLibraryLoadData,                                                            \
    (CodeLibrary*, const void* code, void* jit_options, void* jit_values, unsigned num_jit,     \
     void* options, void* values, unsigned num_options))                                        \
  X(get_kernel, cuLibraryGetKernel, (Kernel*, CodeLibrary, const char* name))                   \
  X(get_function, cuKernelGetFunction, (Function*, Kernel))                                     \
  X(set_attribute, cuFuncSetAttribute, (Function, FunctionAttribute, int value))                \
  X(launch, cuLaunchKernelEx, (const LaunchConfig*, Function, void** parameters, void** extra)) \
  X(max_active_clusters, cuOccupancyMaxActiveClusters, (int*, Function, const LaunchConfig*))   \
  X(max_active_blocks, cuOccupancyMaxActiveBlocksPerMultiprocessor,                             \
    (int*, Function, int block, size_t shared_bytes))                                           \
  X(create_stream, cuStreamCreate, (Stream*, unsigned flags))                                   \
  X(create_event, cuEventCreate, (Event*, unsigned flags))                                      \
  X(record_event, cuEventRecord, (Event, Stream))                                               \
  X(wait_event, cuStreamWaitEvent, (Stream, Event, unsigned flags))                             \
  X(stream_is_capturing, cuStreamIsCapturing, (Stream, int* status))                            \
  X(exchange_capture_mode, cuThreadExchangeStreamCaptureMode, (CaptureMode*))                   \
  X(host_alloc, cuMemHostAlloc, (void** memory, size_t bytes, unsigned flags))

struct Driver {
#define RNNFAST_MEMBER(member, symbol, parameters) Result(*member) parameters;
  RNNFAST_DRIVER_FUNCTIONS(RNNFAST_MEMBER)
#undef RNNFAST_MEMBER
};

}  // namespace rnnfast::cuda
