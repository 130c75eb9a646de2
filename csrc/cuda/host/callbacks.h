// What the launcher asks Python: images of kernels and the choice of variants.
//
// The interface is C and is called through ctypes, so that neither side needs the other's headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "launch.h"

namespace rnnfast::cuda {

// The bytes of an image for a compute capability. Throws std::runtime_error with Python's words.
std::string ask_for_image(const std::string& unit, const std::string& options,
                          int compute_capability);

// Throws where the stream is being captured: `what` is used for the first time and must be loaded.
void require_not_capturing(const std::string& what, int device, void* stream);

}  // namespace rnnfast::cuda
