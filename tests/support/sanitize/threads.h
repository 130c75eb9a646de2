// The pool that runs the calls: real threads, without torch.
#pragma once

#include <algorithm>
#include <thread>
#include <vector>

#include "kernels.h"

namespace rnnfast {

// How the calls of one caller are run: as many workers, on as many threads (fewer is allowed).
inline thread_local int64_t workers = 1, threads = 1;
inline const ThreadPool kPool = {
    [](int64_t tasks, void (*body)(int64_t, int64_t, void*), void* context) {
      const int64_t chunks = std::min(tasks, threads);
      std::vector<std::thread> others;
      for (int64_t i = 1; i < chunks; ++i) {
        others.emplace_back(body, tasks * i / chunks, tasks * (i + 1) / chunks, context);
      }
      body(0, tasks / chunks, context);
      for (std::thread& other : others) other.join();
    },
    [] { return workers; }};

}  // namespace rnnfast
