#include <dlfcn.h>

#include <cstdlib>

#include "driver_calls.h"
#include "per_device.h"

namespace rnnfast::cuda {

namespace {

Driver load_driver() {
  const char* chosen = std::getenv("RNNFAST_CUDA_DRIVER");
  const char* file = chosen != nullptr && *chosen != 0 ? chosen : "libcuda.so.1";
  void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) fail("the CUDA driver does not load: ", dlerror());
  Driver found{};
#define RNNFAST_FIND(member, symbol, parameters)                                    \
  found.member = reinterpret_cast<decltype(found.member)>(dlsym(library, #symbol)); \
  if (found.member == nullptr) {                                                    \
    fail("the CUDA driver ", file,                                                  \
         " has no " #symbol                                                         \
         ": it is too old, install CUDA 12's or "                                   \
         "newer");                                                                  \
  }
  RNNFAST_DRIVER_FUNCTIONS(RNNFAST_FIND)
#undef RNNFAST_FIND
  return found;
}

}  // namespace

std::string describe(const Driver& driver, Result result) {
  const char *name = nullptr, *text = nullptr;
  driver.error_name(result, &name);
  driver.error_text(result, &text);
  if (name == nullptr) return words("CUDA error ", static_cast<int>(result));
  return words(name, " (", text != nullptr ? text : "no description", ")");
}

const Driver& driver() {
  static const Driver loaded = [] {
    Driver found = load_driver();
    check(found, found.init(0), "the CUDA driver does not start");
    return found;
  }();
  return loaded;
}

Context primary_context(int device) {
  static auto* all = new PerDevice<Context>;
  return all->find_or_make(device, [&] {
    Device handle;
    check(driver(), driver().device_get(&handle, device), "there is no device cuda:", device);
    Context context;
    check(driver(), driver().primary_context(&context, handle), "cuda:", device, " has no context");
    return context;
  });
}

}  // namespace rnnfast::cuda
