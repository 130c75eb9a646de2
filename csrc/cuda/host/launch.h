// Launches device code: finds the image of a kernel's variant, loads it once per device, launches.
//
// Everything goes through the driver's C interface (driver.h), so nothing here needs a CUDA toolkit
// to build. Images and the choice of variants come from Python, through the two callbacks that
// rnnfast_cuda_install takes. All functions are safe to call from several threads; all throw
// std::runtime_error that names the kernel and carries the driver's words.
#pragma once

#include <cstdint>
#include <string>

namespace rnnfast::cuda {

// Blocks and threads are one-dimensional: a kernel cuts its work up by itself.
struct Geometry {
  unsigned grid, cluster /* 1: none */, block, shared_bytes;
};

// Launches kernel `name` of csrc/cuda/`unit`.cu, specialised by `options`
// ("-DRF_HP=512 -DRF_RELU=0"), on a stream of a device. `params` points to the kernel's only
// argument, its Params struct. Returns when the launch is queued. The first call of a variant loads
// it, which a stream that is being captured does not allow: then this says to run it once before.
void launch(const char* unit, const char* name, const std::string& options, const Geometry&,
            const void* params, int device, void* stream);

// Launches, with all their blocks resident at once: a grid barrier inside is safe. Throws where the
// grid does not fit on the device.
void launch_cooperative(const char* unit, const char* name, const std::string& options,
                        const Geometry&, const void* params, int device, void* stream);

// How many clusters of this geometry the device holds at once; 0: it cannot launch it.
int max_active_clusters(const char* unit, const char* name, const std::string& options,
                        const Geometry&, int device);

// How many blocks of this size one multiprocessor holds at once.
int max_active_blocks(const char* unit, const char* name, const std::string& options,
                      const Geometry&, int device);

// The error word of a device, for the `error` of every Params (codes: params.h). It lies in host
// memory: reading it waits for nothing, so an error shows at the first call after the kernel that
// wrote it has run, at the latest at the first call after a synchronisation.
int* error_word(int device);

// Throws what the error word says, if anything, and clears it. Every operator calls this first.
void check_error_word(int device);

// The variant for a call, from choose_recurrence.py: asked once for each distinct Question, then
// kept. Asking loads kernels, so the first time must not be while `stream` is captured, as in
// launch().
struct Question {
  const char* operation;  // "rnn_forward", "rnn_backward", ...
  int64_t B, H, V;        // V: 0 where it does not matter
  int dtype_bits;         // of the elements of x: 64, 32; 16 (float16), 17 (bfloat16)
  bool relu, ids;
  int device;
};
struct Plan {
  std::string unit;  // "" : no resident variant (tier L)
  std::string name, options;
  Geometry geometry;
  int64_t rows;    // batch rows per cluster or block
  bool transpose;  // the kernel takes W_hh transposed
};
const Plan& plan_for(const Question&, void* stream);

struct Limits {
  int compute_capability;  // 90
  int multiprocessors;
  int shared_bytes;  // largest dynamic shared memory of a block, opted in
};
const Limits& limits_of(int device);

}  // namespace rnnfast::cuda
