// The activation functions of the cells and their derivatives. One text for two compilers: the
// CPU's, where a value is a vector of units, and NVRTC, where it is one unit. `Math` says which.
#pragma once

#ifdef __CUDACC__
#define RNNFAST_CELL __device__ __forceinline__
#else
#define RNNFAST_CELL inline __attribute__((always_inline))
#endif

namespace rnnfast::cells {

// of(z) is the activation. Its derivative is taken from the result a = of(z) alone, in two parts:
// slope(a) may be computed before the gradient is there, and through(gradient, slope) afterwards.
struct Tanh {
  template <class Math, class V = typename Math::Value>
  static RNNFAST_CELL V of(V z) {
    return Math::tanh(z);
  }
  template <class Math, class V = typename Math::Value>
  static RNNFAST_CELL V slope(V a) {
    return typename Math::Real{1} - a * a;
  }
  template <class Math, class V = typename Math::Value>
  static RNNFAST_CELL V through(V gradient, V slope) {
    return gradient * slope;
  }
};

// The comparisons are written so that NaN stays NaN.
struct Relu {
  template <class Math, class V = typename Math::Value>
  static RNNFAST_CELL V of(V z) {
    return z < V{} ? V{} : z;
  }
  template <class Math, class V = typename Math::Value>
  static RNNFAST_CELL V slope(V a) {
    return a;
  }
  template <class Math, class V = typename Math::Value>
  static RNNFAST_CELL V through(V gradient, V slope) {
    return slope > V{} ? gradient : V{};
  }
};

}  // namespace rnnfast::cells
