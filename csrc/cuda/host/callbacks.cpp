// The C interface between this library and image_cache.py and choose_recurrence.py, which call it
// by ctypes.
#include "callbacks.h"

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "sources.h"

#define RNNFAST_EXPORT extern "C" __attribute__((visibility("default")))

namespace rnnfast::cuda {

namespace {

struct Answer {
  bool given = false, good = false;
  std::string bytes;  // what was asked for, or why there is none
};

using AskForImage = void (*)(void* answer, const char* unit, const char* options,
                             int compute_capability);
using AskForPlan = void (*)(void* answer, const char* operation, int64_t B, int64_t H, int64_t V,
                            int dtype_bits, int relu, int ids, int device);

std::atomic<AskForImage> image_callback{nullptr};
std::atomic<AskForPlan> plan_callback{nullptr};

template <class Callback>
Callback installed(const std::atomic<Callback>& callback) {
  const Callback found = callback.load();
  if (found == nullptr) {
    throw std::runtime_error(
        "rnnfast: the CUDA backend was not started; import rnnfast before calling its operators");
  }
  return found;
}

std::string taken(Answer& answer) {
  if (answer.given && answer.good) return std::move(answer.bytes);
  throw std::runtime_error("rnnfast: " + (answer.given ? answer.bytes : "Python did not answer"));
}

Plan parse(const std::string& line) {
  Plan plan{};
  if (line.empty()) return plan;
  std::vector<std::string> fields;
  std::istringstream text(line);
  for (std::string field; std::getline(text, field, '\t');) fields.push_back(field);
  if (fields.size() != 9) throw std::runtime_error("rnnfast: a plan must have 9 fields: " + line);
  const auto number = [&](size_t i) { return static_cast<unsigned>(std::stoul(fields[i])); };
  plan.unit = fields[0];
  plan.name = fields[1];
  plan.options = fields[2];
  plan.geometry = {number(3), number(4), number(5), number(6)};
  plan.rows = number(7);
  plan.transpose = number(8) != 0;
  return plan;
}

using Key = std::tuple<std::string, int64_t, int64_t, int64_t, int, bool, bool, int, int>;

// Never erased, since launches hold references: a plan of another generation is not found any more.
struct Plans {
  std::mutex mutex;
  std::map<Key, Plan> known;
  std::atomic<int> generation{0};
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
  return taken(answer);
}

std::string ask_for_plan(const Question& q) {
  Answer answer;
  installed(plan_callback)(&answer, q.operation, q.B, q.H, q.V, q.dtype_bits, q.relu, q.ids,
                           q.device);
  return taken(answer);
}

const Plan& plan_for(const Question& q, void* stream) {
  const Key key{q.operation,       q.B, q.H, q.V, q.dtype_bits, q.relu, q.ids, q.device,
                plans().generation};
  {
    const std::lock_guard lock(plans().mutex);
    const auto it = plans().known.find(key);
    if (it != plans().known.end()) return it->second;
  }
  require_not_capturing(std::string("a kernel for ") + q.operation, stream);
  Plan plan = parse(ask_for_plan(q));  // unlocked: Python asks back for the device's limits
  const std::lock_guard lock(plans().mutex);
  return plans().known.try_emplace(key, std::move(plan)).first->second;
}

}  // namespace rnnfast::cuda

using namespace rnnfast::cuda;

RNNFAST_EXPORT void rnnfast_cuda_install(AskForImage image, AskForPlan plan) {
  image_callback = image;
  plan_callback = plan;
}

// A callback's answer: what was asked for, or, where it is not good, the reason in words.
RNNFAST_EXPORT void rnnfast_cuda_answer(void* answer, int good, const char* bytes, size_t size) {
  auto* to = static_cast<Answer*>(answer);
  to->given = true;
  to->good = good != 0;
  to->bytes.assign(bytes, size);
}

// The plans of one generation are asked for anew: each least exact product has its own, and so has
// a changed table.
RNNFAST_EXPORT void rnnfast_cuda_use_plans(int generation) { plans().generation = generation; }

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

RNNFAST_EXPORT int rnnfast_cuda_max_active_clusters(const char* unit, const char* name,
                                                    const char* options, unsigned cluster,
                                                    unsigned block, unsigned shared_bytes,
                                                    int device, int* clusters, char* error,
                                                    size_t size) {
  return guarded(error, size, [&] {
    *clusters =
        max_active_clusters(unit, name, options, {cluster, cluster, block, shared_bytes}, device);
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
