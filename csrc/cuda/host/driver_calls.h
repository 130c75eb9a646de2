// Calls of the driver: found at first use, checked, on a device of choice.
#pragma once

#include <string>

#include "driver.h"
#include "words.h"

namespace rnnfast::cuda {

// "CUDA_ERROR_INVALID_VALUE (invalid argument)"
std::string describe(const Driver& driver, Result result);

template <class... Parts>
void check(const Driver& driver, Result result, const Parts&... what) {
  if (result != 0) fail(what..., ": ", describe(driver, result));
}

// Resolved at the first call that needs it; where that throws, the next call tries again.
const Driver& driver();

// A device's primary context, which is torch's. Retained once: it lives as long as the process.
Context primary_context(int device);

// Makes it current for a scope. Most calls of the driver need that, and a thread may have no
// context: torch gives it one at its first call of the CUDA runtime, which need not come before
// ours where memory is left over from earlier calls.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(driver(), driver().push_context(primary_context(device)), "cuda:", device,
          " cannot be made current");
  }
  ~OnDevice() {
    Context context;
    driver().pop_context(&context);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
};

}  // namespace rnnfast::cuda
