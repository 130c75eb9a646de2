// The C interface between this library and bridge.py, which calls it by ctypes.
#include "callbacks.h"

#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <tuple>

#include "sources.h"
#include "training_choice.h"

#define RNNFAST_EXPORT extern "C" __attribute__((visibility("default")))

namespace rnnfast::cuda {

namespace {

struct Answer {
  bool given = false, good = false;
  std::string bytes;                 // of an image, or why there is none
  std::shared_ptr<const Plan> plan;  // null: step by step
};

using AskForImage = void (*)(void* answer, const char* unit, const char* options,
                             int compute_capability);
using AskForPlan = void (*)(void* answer, const char* operation, int64_t B, int64_t H, int64_t V,
                            int dtype_bits, int cell, int has_options, int device, int launches,
                            int least_exact);

std::atomic<AskForImage> image_callback{nullptr};
std::atomic<AskForPlan> plan_callback{nullptr};
std::atomic<int> least_exact{0};  // the product, as precision.py numbers them

template <class Callback>
Callback installed(const std::atomic<Callback>& callback) {
  const Callback found = callback.load();
  if (found == nullptr) {
    throw std::runtime_error(
        "rnnfast: the CUDA backend was not started; import rnnfast before calling its operators");
  }
  return found;
}

void require_good(const Answer& answer) {
  if (answer.good) return;
  throw std::runtime_error("rnnfast: " + (answer.given ? answer.bytes : "Python did not answer"));
}

using Key = std::tuple<std::string, int64_t, int64_t, int64_t, int, int, bool, int, int, int>;

struct Plans {
  std::mutex mutex;
  std::map<Key, std::shared_ptr<const Plan>> known;
};

Plans& plans() {
  static auto* all = new Plans;
  return *all;
}

}  // namespace

std::string ask_for_image(const std::string& unit, const std::string& options,
                          int compute_capability) {
  Answer answer;
  installed(image_callback)(&answer, unit.c_str(), options.c_str(), compute_capability);
  require_good(answer);
  return std::move(answer.bytes);
}

std::shared_ptr<const Plan> plan_for(const Question& q, void* stream) {
  const int product = least_exact;
  const Key key{q.operation, q.B,           q.H,      q.V,        q.dtype_bits,
                q.cell,      q.has_options, q.device, q.launches, product};
  {
    const std::lock_guard lock(plans().mutex);
    const auto it = plans().known.find(key);
    if (it != plans().known.end()) return it->second;
  }
  require_not_capturing(std::string("a kernel for ") + q.operation, q.device, stream);
  Answer answer;  // unlocked: Python asks back for the device's limits
  installed(plan_callback)(&answer, q.operation, q.B, q.H, q.V, q.dtype_bits, q.cell, q.has_options,
                           q.device, q.launches, product);
  require_good(answer);
  const std::lock_guard lock(plans().mutex);
  return plans().known.try_emplace(key, std::move(answer.plan)).first->second;
}

}  // namespace rnnfast::cuda

using namespace rnnfast::cuda;

RNNFAST_EXPORT void rnnfast_cuda_install(AskForImage image, AskForPlan plan) {
  image_callback = image;
  plan_callback = plan;
}

// A callback's answer: an image or, without bytes, no plan; or, where it is not good, the reason in
// words.
RNNFAST_EXPORT void rnnfast_cuda_answer(void* answer, int good, const char* bytes, size_t size) {
  auto* to = static_cast<Answer*>(answer);
  to->given = true;
  to->good = good != 0;
  to->bytes.assign(bytes, size);
}

// A callback's answer: the plan of the call.
RNNFAST_EXPORT void rnnfast_cuda_answer_plan(void* answer, const char* unit, const char* name,
                                             const char* options, unsigned grid, unsigned cluster,
                                             unsigned block, unsigned shared_bytes, int64_t rows,
                                             int64_t scratch_bytes) {
  auto* to = static_cast<Answer*>(answer);
  to->given = to->good = true;
  to->plan = std::make_shared<const Plan>(
      Plan{unit, name, options, {grid, cluster, block, shared_bytes}, rows, scratch_bytes});
}

// Products that are less exact than this one are not chosen from now on.
RNNFAST_EXPORT void rnnfast_cuda_set_least_exact(int product) { least_exact = product; }

// Every plan is asked for anew: the table has changed.
RNNFAST_EXPORT void rnnfast_cuda_forget_plans() {
  const std::lock_guard lock(plans().mutex);
  plans().known.clear();
}

namespace {

// Errors cross the C interface as text.
template <class Body>
int guarded(char* error, size_t size, const Body& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& caught) {
    std::strncpy(error, caught.what(), size - 1);
    error[size - 1] = 0;
    return 1;
  }
}

}  // namespace

RNNFAST_EXPORT int rnnfast_cuda_limits(int device, int* capability, int* multiprocessors,
                                       int* shared_bytes, char* error, size_t size) {
  return guarded(error, size, [&] {
    const Limits& limits = limits_of(device);
    *capability = limits.compute_capability;
    *multiprocessors = limits.multiprocessors;
    *shared_bytes = limits.shared_bytes;
  });
}

RNNFAST_EXPORT int rnnfast_cuda_resident(const char* unit, const char* name, const char* options,
                                         unsigned cluster, unsigned block, unsigned shared_bytes,
                                         int device, int* count, char* error, size_t size) {
  return guarded(error, size, [&] {
    *count = resident(unit, name, options, {cluster, cluster, block, shared_bytes}, device);
  });
}

RNNFAST_EXPORT int rnnfast_cuda_training_choice(int64_t H, int64_t V, int real_bytes, int device,
                                                int* reads_out, int* product, char* error,
                                                size_t size) {
  return guarded(error, size, [&] {
    *reads_out = readout_columns(V, real_bytes, device) > 0;
    *product = static_cast<int>(product_for(H, real_bytes, device));
  });
}

RNNFAST_EXPORT int rnnfast_cuda_check(int device, char* error, size_t size) {
  return guarded(error, size, [&] { check_error_word(device); });
}

// The device sources that this library was built with: name and text of the i-th, null behind the
// last. The launcher's Params and the kernels' are so of one and the same header.
RNNFAST_EXPORT const char* rnnfast_cuda_source_name(size_t i) {
  return i < kNumSources ? kSources[i].name : nullptr;
}

RNNFAST_EXPORT const char* rnnfast_cuda_source_text(size_t i) {
  return i < kNumSources ? kSources[i].text : nullptr;
}
