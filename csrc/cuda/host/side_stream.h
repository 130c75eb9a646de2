// A stream beside the caller's, for launches that may run at the same time as the caller's own.
#pragma once

namespace rnnfast::cuda {

// What is launched on stream() runs after all that the caller's stream had before; what the
// caller's stream gets after join() runs after that.
//
// Memory of torch's allocator may be used on either: it belongs to the caller's stream, and whoever
// has it next runs there, after the join.
//
// Each of the callers' streams has one beside it for good, as the capture of a CUDA graph takes in
// every stream that it meets until it ends. Threads of one stream share the events: one that is
// recorded anew stands for all that it stood for before.
class SideStream {
 public:
  SideStream(int device, void* stream);
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

  void* stream() const;
  void join() const;

 private:
  int device_;
  void* caller_;
  const struct StreamBeside& beside_;
};

}  // namespace rnnfast::cuda
