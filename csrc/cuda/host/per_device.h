// What is known of each device.
#pragma once

#include <map>
#include <mutex>

namespace rnnfast::cuda {

// One value per device, made at first use and kept. Two threads that make the same one at once both
// do; the first to finish is kept.
template <class Value>
class PerDevice {
 public:
  const Value* find(int device) {
    const std::lock_guard lock(mutex_);
    const auto it = values_.find(device);
    return it == values_.end() ? nullptr : &it->second;
  }
  template <class Make>
  const Value& find_or_make(int device, const Make& make) {
    if (const Value* known = find(device)) return *known;
    const Value made = make();
    const std::lock_guard lock(mutex_);
    return values_.try_emplace(device, made).first->second;
  }

 private:
  std::mutex mutex_;
  std::map<int, Value> values_;
};

}  // namespace rnnfast::cuda
