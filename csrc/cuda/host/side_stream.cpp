#include "side_stream.h"

#include <map>
#include <mutex>
#include <utility>

#include "driver_calls.h"

namespace rnnfast::cuda {

struct StreamBeside {
  Stream stream;
  Event fork, join;
};

namespace {

// Lets this thread create what a capture does not allow, which takes memory, but records nothing.
class OutsideCapture {
 public:
  OutsideCapture() {
    check(driver(), driver().exchange_capture_mode(&mode_), "the mode of captures does not change");
  }
  ~OutsideCapture() { driver().exchange_capture_mode(&mode_); }
  OutsideCapture(const OutsideCapture&) = delete;
  OutsideCapture& operator=(const OutsideCapture&) = delete;

 private:
  CaptureMode mode_ = kRelaxed;
};

StreamBeside create(int device) {
  const OnDevice current(device);
  const OutsideCapture allowed;
  const Driver& d = driver();
  StreamBeside made{};
  check(d, d.create_stream(&made.stream, kNonBlocking), "no second stream on cuda:", device);
  for (Event* event : {&made.fork, &made.join}) {
    check(d, d.create_event(event, kDisableTiming), "no event on cuda:", device);
  }
  return made;
}

// Never destroyed: a thread may still launch while the process ends.
const StreamBeside& beside(int device, void* stream) {
  static auto* mutex = new std::mutex;
  static auto* all = new std::map<std::pair<int, void*>, StreamBeside>;
  const std::lock_guard lock(*mutex);
  const auto key = std::make_pair(device, stream);
  const auto it = all->find(key);
  return it != all->end() ? it->second : all->emplace(key, create(device)).first->second;
}

void follow(Stream later, Stream earlier, Event event) {
  const Driver& d = driver();
  check(d, d.record_event(event, earlier), "a stream's event is not recorded");
  check(d, d.wait_event(later, event, 0), "a stream does not wait for another");
}

}  // namespace

SideStream::SideStream(int device, void* stream)
    : device_(device), caller_(stream), beside_(beside(device, stream)) {
  const OnDevice current(device_);
  follow(beside_.stream, static_cast<Stream>(caller_), beside_.fork);
}

void* SideStream::stream() const { return beside_.stream; }

void SideStream::join() const {
  const OnDevice current(device_);
  follow(static_cast<Stream>(caller_), beside_.stream, beside_.join);
}

}  // namespace rnnfast::cuda
