// What the streams of the driver's twin order: which launches have to end before which others
// begin. Kernels run inside their launch, so nothing else would show a wait that is missing.
#pragma once

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "cuda/host/driver.h"

struct CUstream_st {};

// Of each stream, how many of its launches come before.
using Clock = std::map<rnnfast::cuda::Stream, unsigned long long>;

struct CUevent_st {
  bool is_recorded = false;
  Clock clock;
};

class Streams {
  using Stream = rnnfast::cuda::Stream;
  using Event = rnnfast::cuda::Event;

 public:
  Stream create() {
    const std::lock_guard lock(mutex_);
    return *created_.insert(new CUstream_st).first;
  }

  // False: there is no such stream.
  bool launch(Stream stream) {
    const std::lock_guard lock(mutex_);
    if (!exists(stream)) return false;
    const unsigned long long count = ++clocks_[stream][stream];
    if (is_logged_) log_.push_back({stream, count, clocks_[stream]});
    return true;
  }
  bool record(Event event, Stream stream) {
    const std::lock_guard lock(mutex_);
    if (!exists(stream)) return false;
    *event = {true, clocks_[stream]};
    return true;
  }
  // False as well where nothing was recorded, for which a real driver would not wait.
  bool wait(Stream stream, const CUevent_st& event) {
    const std::lock_guard lock(mutex_);
    if (!exists(stream) || !event.is_recorded) return false;
    if (skipped_waits_ > 0 && --skipped_waits_ == 0) return true;
    for (const auto& [other, count] : event.clock) {
      clocks_[stream][other] = std::max(clocks_[stream][other], count);
    }
    return true;
  }

  // Whether launches are kept, for is_before(); counted from 0 on.
  void log(bool wanted) {
    const std::lock_guard lock(mutex_);
    is_logged_ = wanted;
    log_.clear();
  }
  // The n-th wait from here on is left out.
  void skip_wait(int n) {
    const std::lock_guard lock(mutex_);
    skipped_waits_ = n;
  }
  bool is_before(size_t earlier, size_t later) {
    const std::lock_guard lock(mutex_);
    const Launch &a = log_.at(earlier), &b = log_.at(later);
    const auto it = b.clock.find(a.stream);
    return it != b.clock.end() && it->second >= a.count;
  }

 private:
  struct Launch {
    Stream stream;
    unsigned long long count;  // of the stream's launches, this one included
    Clock clock;
  };

  bool exists(Stream stream) const { return stream == nullptr || created_.contains(stream); }

  std::mutex mutex_;
  std::set<Stream> created_;
  std::map<Stream, Clock> clocks_;
  bool is_logged_ = false;
  std::vector<Launch> log_;
  int skipped_waits_ = 0;
};
