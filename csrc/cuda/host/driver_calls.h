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

// Makes a device's primary context, which is torch's, current for a scope.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    Device handle;
    check(driver(), driver().device_get(&handle, device), "there is no device cuda:", device);
    Context context;  // retained once more at each use: it lives as long as the process anyway
    check(driver(), driver().primary_context(&context, handle), "cuda:", device, " has no context");
    check(driver(), driver().push_context(context), "cuda:", device, " cannot be made current");
  }
  ~OnDevice() {
    Context context;
    driver().pop_context(&context);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
};

}  // namespace rnnfast::cuda
