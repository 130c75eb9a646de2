// Launches device code: finds the image of a kernel's variant, loads it once per device, launches.
//
// Everything goes through the driver's C interface (driver.h), so nothing here needs a CUDA toolkit
// to build. Images and the choice of variants come from Python, through the two callbacks that
// rnnfast_cuda_install takes. All functions are safe to call from several threads; all throw
// std::runtime_error that names the kernel and carries the driver's words.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace rnnfast::cuda {

// Blocks and threads are one-dimensional: a kernel cuts its work up by itself.
struct Geometry {
  unsigned grid, cluster /* 1: none */, block, shared_bytes;
};

// Launches kernel `name` of csrc/cuda/device/`unit`.cu, specialised by `options`
// ("-DRF_HP=512 -DRF_CELL=0"), on a stream of a device. `params` points to the kernel's only
// argument, its Params struct. Returns when the launch is queued. The first call of a variant loads
// it, which a stream that is being captured does not allow: then this says to run it once before.
void launch(const char* unit, const char* name, const std::string& options, const Geometry&,
            const void* params, int device, void* stream);

// How many clusters of this geometry, or blocks where there are no clusters, the device runs at
// once; 0: it cannot launch it. Loads the kernel.
int resident(const char* unit, const char* name, const std::string& options, const Geometry&,
             int device);

// The error word of a device, for the `error` of every Params (codes: params.h). It lies in host
// memory: reading it waits for nothing, so an error shows at the first call after the kernel that
// wrote it has run, at the latest at the first call after a synchronisation.
int* error_word(int device);

// Throws what the error word says, if anything, and clears it. Every operator calls this first.
void check_error_word(int device);

// The variant for a call, from choose_recurrence.py or choose_decode.py: asked once for each
// distinct Question and each least exact product, then kept; null where no variant serves the call
// and it goes step by step. Asking loads kernels, so the first time must not be while `stream` is
// captured, as in launch().
struct Question {
  const char* operation;  // "rnn_forward", "rnn_backward", "decode"
  int64_t B, H, V;        // V: rows of the table of inputs; 0 where there is none
  int dtype_bits;         // of the elements of x: 64 or 32
  int cell;               // its code in csrc/cells/cells.h
  bool has_options;       // of a recurrence: lengths, resets or a leak
  int device;
  int launches = 1;  // at the same time: 2 for the directions of a layer with both
};
struct Plan {
  std::string unit, name, options;
  Geometry geometry;
  int64_t rows;           // of the batch, per cluster or block
  int64_t scratch_bytes;  // of global memory, for all blocks
};
std::shared_ptr<const Plan> plan_for(const Question&, void* stream);

struct Limits {
  int compute_capability;  // 90
  int multiprocessors;
  int shared_bytes;  // largest dynamic shared memory of a block, opted in
};
const Limits& limits_of(int device);

}  // namespace rnnfast::cuda
