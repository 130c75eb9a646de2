// The device sources as they were when the library was built; setup.py writes their definition.
#pragma once

#include <cstddef>

namespace rnnfast::cuda {

struct Source {
  const char* name;  // "cluster.cu"
  const char* text;
};
extern const Source kSources[];
extern const size_t kNumSources;

}  // namespace rnnfast::cuda
