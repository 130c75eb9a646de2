#include "launch.h"

#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <unordered_map>

#include "callbacks.h"
#include "cuda/device/params.h"
#include "driver_calls.h"
#include "per_device.h"

namespace rnnfast::cuda {

namespace {

struct Variant {
  std::string unit, name, options;
  int device;

  std::string text() const {
    return "kernel " + name + " of " + unit + ".cu [" + options +
           "] on cuda:" + std::to_string(device);
  }
};

// A kernel in its device's context, with the attributes that launches have needed so far.
struct Loaded {
  Variant variant;
  Function function = nullptr;
  std::mutex attributes;
  unsigned shared_bytes = 48 * 1024;  // what a block may have without asking
  bool non_portable_cluster = false;
};

Function load(const Variant& v, int compute_capability) {
  const std::string image = ask_for_image(v.unit, v.options, compute_capability);
  const OnDevice current(v.device);
  const Driver& d = driver();
  CodeLibrary library;
  check(d, d.load_library(&library, image.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
        "the image of ", v.text(), " does not load");
  Kernel kernel;
  check(d, d.get_kernel(&kernel, library, v.name.c_str()), "the image has no ", v.text());
  Function function;  // asking for it loads the code now, before any stream is captured
  check(d, d.get_function(&function, kernel), v.text(), " does not load");
  return function;
}

// Kernels by "device/unit/name/options". Two threads that load the same one at once both do; the
// first to finish is kept.
class Kernels {
 public:
  Loaded* find(const std::string& key) {
    const std::lock_guard lock(mutex_);
    const auto it = loaded_.find(key);
    return it == loaded_.end() ? nullptr : it->second.get();
  }
  Loaded* keep(const std::string& key, const Variant& variant, Function function) {
    auto loaded = std::make_unique<Loaded>();
    loaded->variant = variant;
    loaded->function = function;
    const std::lock_guard lock(mutex_);
    return loaded_.try_emplace(key, std::move(loaded)).first->second.get();
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::string, std::unique_ptr<Loaded>> loaded_;
};

// Never destroyed: a thread may still launch while the process ends.
Kernels& kernels() {
  static auto* all = new Kernels;
  return *all;
}

Loaded& find_or_load(const Variant& v, const Stream* stream) {
  const std::string key = std::to_string(v.device) + '/' + v.unit + '/' + v.name + '/' + v.options;
  if (Loaded* known = kernels().find(key)) return *known;
  if (stream != nullptr) require_not_capturing(v.text(), v.device, *stream);
  error_word(v.device);  // allocated here, for the same reason
  return *kernels().keep(key, v, load(v, limits_of(v.device).compute_capability));
}

// Shared memory above 48 KB and clusters above 8 blocks must be asked for. On the kernel's device.
void allow(Loaded& kernel, const Geometry& g) {
  const std::lock_guard lock(kernel.attributes);
  const Driver& d = driver();
  if (g.shared_bytes > kernel.shared_bytes) {
    check(
        d,
        d.set_attribute(kernel.function, kMaxDynamicSharedBytes, static_cast<int>(g.shared_bytes)),
        kernel.variant.text(), " cannot have ", g.shared_bytes, " bytes of shared memory");
    kernel.shared_bytes = g.shared_bytes;
  }
  if (g.cluster > 8 && !kernel.non_portable_cluster) {
    check(d, d.set_attribute(kernel.function, kNonPortableClusterAllowed, 1), kernel.variant.text(),
          " cannot have clusters of ", g.cluster, " blocks");
    kernel.non_portable_cluster = true;
  }
}

// A launch configuration; holds what its pointer points to.
struct Configuration {
  LaunchAttribute attribute = {};
  LaunchConfig config = {};

  Configuration(const Geometry& g, Stream stream) {
    config = {g.grid, 1, 1, g.block, 1, 1, g.shared_bytes, stream, &attribute, 0};
    if (g.cluster > 1) {
      config.num_attributes = 1;
      attribute.id = kClusterDimension;
      attribute.value.cluster = {g.cluster, 1, 1};
    }
  }
};

// The driver then returns from a launch when the kernel has run.
bool launches_block() {
  const char* value = std::getenv("CUDA_LAUNCH_BLOCKING");
  return value != nullptr && std::string(value) == "1";
}

std::string describe(const Geometry& g) {
  return words(g.grid, " blocks of ", g.block, " threads and ", g.shared_bytes,
               " bytes of shared memory, in clusters of ", g.cluster);
}

int attribute_of(Device device, DeviceAttribute attribute) {
  int value = 0;
  check(driver(), driver().device_attribute(&value, attribute, device),
        "the device does not say its attribute ", static_cast<int>(attribute));
  return value;
}

PerDevice<Limits>& limits() {
  static auto* all = new PerDevice<Limits>;
  return *all;
}

PerDevice<int*>& error_words() {
  static auto* all = new PerDevice<int*>;
  return *all;
}

const char* meaning_of(int error) {
  switch (error) {
    case kErrorTimeout:
      return "a kernel waited too long for another block and ended; its results are wrong";
    case kErrorId:
      return "Class values must be non-negative and smaller than num_classes: an id was not";
    case kErrorTarget:
      return "Class values must be non-negative and smaller than num_classes: a target was not";
    case kErrorUniform:
      return "a uniform number to sample with was not in [0, 1)";
    default:
      return "a kernel wrote an error code of its own";
  }
}

}  // namespace

void require_not_capturing(const std::string& what, int device, void* stream) {
  const OnDevice current(device);
  int status = 0;
  check(driver(), driver().stream_is_capturing(static_cast<Stream>(stream), &status), what,
        " does not know whether its stream is being captured");
  if (status == 0) return;
  fail(what,
       " is used for the first time inside the capture of a CUDA graph; run the same call once "
       "before the capture");
}

void launch(const char* unit, const char* name, const std::string& options, const Geometry& g,
            const void* params, int device, void* stream) {
  const auto on = static_cast<Stream>(stream);
  Loaded& kernel = find_or_load({unit, name, options, device}, &on);
  const OnDevice current(device);
  allow(kernel, g);
  const Configuration configuration(g, on);
  void* arguments[] = {const_cast<void*>(params)};
  const Driver& d = driver();
  check(d, d.launch(&configuration.config, kernel.function, arguments, nullptr),
        kernel.variant.text(), " did not launch with ", describe(g));
  if (launches_block()) check_error_word(device);
}

int resident(const char* unit, const char* name, const std::string& options, const Geometry& g,
             int device) {
  Loaded& kernel = find_or_load({unit, name, options, device}, nullptr);
  const OnDevice current(device);
  allow(kernel, g);
  int count = 0;
  if (g.cluster > 1) {
    const Configuration configuration(g, nullptr);
    const Result result =
        driver().max_active_clusters(&count, kernel.function, &configuration.config);
    if (result == kInvalidClusterSize) return 0;  // not every device can have 16 blocks in one
    check(driver(), result, kernel.variant.text(), ": the active clusters of ", describe(g),
          " are not known");
    return count;
  }
  // An H100 answers 0 to the question above where the launch has no clusters.
  check(driver(),
        driver().max_active_blocks(&count, kernel.function, static_cast<int>(g.block),
                                   g.shared_bytes),
        kernel.variant.text(), ": the active blocks of ", describe(g), " are not known");
  return count * limits_of(device).multiprocessors;
}

const Limits& limits_of(int device) {
  return limits().find_or_make(device, [&] {
    Device handle;
    check(driver(), driver().device_get(&handle, device), "there is no device cuda:", device);
    return Limits{10 * attribute_of(handle, kComputeCapabilityMajor) +
                      attribute_of(handle, kComputeCapabilityMinor),
                  attribute_of(handle, kMultiprocessors), attribute_of(handle, kSharedBytesOptIn)};
  });
}

int* error_word(int device) {
  return error_words().find_or_make(device, [&] {
    const OnDevice current(device);
    void* word = nullptr;
    check(driver(), driver().host_alloc(&word, sizeof(int), kHostPortable | kHostMapped),
          "no memory for the error word of cuda:", device);
    *static_cast<int*>(word) = kErrorNone;
    return static_cast<int*>(word);
  });
}

void check_error_word(int device) {
  int* const* word = error_words().find(device);
  if (word == nullptr || __atomic_load_n(*word, __ATOMIC_RELAXED) == kErrorNone) return;
  const int error = __atomic_exchange_n(*word, kErrorNone, __ATOMIC_RELAXED);
  fail("an earlier call on cuda:", device, " failed (code ", error, "): ", meaning_of(error));
}

}  // namespace rnnfast::cuda
