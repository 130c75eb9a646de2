// Compares what a kernel has written with what it should have been.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <string>

#include "buffer.h"
#include "naive.h"
#include "threads.h"

namespace rnnfast {

inline std::atomic<bool> failed{false};

// These runs look for memory errors; the tests of the operators hold the kernels to much less.
template <class Real>
constexpr double kTolerance = sizeof(Real) == 4 ? 1e-4 : 1e-11;

template <class Real>
void fail(const naive::Sizes& n, const std::string& name, double error) {
  failed = true;
  std::printf("%s %s T=%lld B=%lld H=%lld V=%lld workers=%lld: wrong by %g\n", name.c_str(),
              sizeof(Real) == 4 ? "float" : "double", static_cast<long long>(n.T),
              static_cast<long long>(n.B), static_cast<long long>(n.H), static_cast<long long>(n.V),
              static_cast<long long>(workers), error);
}

template <class Real>
void expect(const naive::Sizes& n, const std::string& name, const Buffer<Real>& got,
            const naive::Values& want, double allowed = kTolerance<Real>) {
  double scale = 1, error = got.size() == static_cast<int64_t>(want.size()) ? 0 : INFINITY;
  for (const double value : want) scale = std::max(scale, std::abs(value));
  for (size_t i = 0; i < want.size(); ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - want[i]);
    if (!std::isnan(error) && !(difference <= error)) error = difference;  // NaN is the largest
  }
  if (!(error <= scale * allowed)) fail<Real>(n, name, error);
}

}  // namespace rnnfast
