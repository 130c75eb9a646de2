// The recurrence with all options by plain loops in double, each sequence for itself.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "naive.h"

namespace naive {

// Of one direction of a call.
struct Options {
  bool transposed = false, reverse = false;
  std::vector<int64_t> lengths;  // [B], the longest first
  std::vector<uint8_t> resets;   // [T, B], or none
  bool resets_to_h0 = false;
  Values leak;  // [H], or none
};

struct Recurrence {
  Sizes n;
  Options options;
  Values x, W, b, h0, grad_hs, grad_last;
  Values hs, last, saved, dz, grad_W, grad_b, grad_h0, grad_leak;  // the results

  int64_t num_rows() const { return row(n.T, 0); }

  // Where row i of step t lies in arrays.
  int64_t row(int64_t t, int64_t i) const {
    int64_t rows = i;
    for (const int64_t length : options.lengths) rows += length < t ? length : t;
    return rows;
  }

  void run() {
    const int64_t rows = num_rows(), H = n.H;
    hs.assign(rows * H, 0), saved = dz = hs;
    last = grad_h0 = Values(n.B * H);
    grad_W.assign(H * H, 0), grad_b.assign(H, 0), grad_leak = grad_b;
    for (int64_t i = 0; i < n.B; ++i) run_sequence(i);
  }

 private:
  double weight(int64_t from, int64_t to) const {
    return options.transposed ? W[to * n.H + from] : W[from * n.H + to];
  }
  bool is_reset(int64_t t, int64_t i) const {
    return !options.resets.empty() && options.resets[t * n.B + i] != 0;
  }

  void run_sequence(int64_t i) {
    const int64_t H = n.H, T = options.lengths[i];
    const Values start(h0.begin() + i * H, h0.begin() + (i + 1) * H);
    std::vector<Values> before;
    Values h = start;
    for (int64_t s = 0; s < T; ++s) {
      const int64_t t = options.reverse ? T - 1 - s : s;
      if (is_reset(t, i)) h = options.resets_to_h0 ? start : Values(H);
      before.push_back(h);
      for (int64_t j = 0; j < H; ++j) {
        double z = x[row(t, i) * H + j] + b[j];
        for (int64_t k = 0; k < H; ++k) z += before.back()[k] * weight(k, j);
        const double act = n.relu ? (z < 0 ? 0 : z) : std::tanh(z);
        const double a = options.leak.empty() ? 1 : options.leak[j];
        saved[row(t, i) * H + j] = act;
        hs[row(t, i) * H + j] = h[j] = (1 - a) * before.back()[j] + a * act;
      }
    }
    std::copy(h.begin(), h.end(), last.begin() + i * H);
    go_back(i, before);
  }

  void go_back(int64_t i, const std::vector<Values>& before) {
    const int64_t H = n.H, T = options.lengths[i];
    Values carry(grad_last.begin() + i * H, grad_last.begin() + (i + 1) * H);
    for (int64_t s = T - 1; s >= 0; --s) {
      const int64_t t = options.reverse ? T - 1 - s : s, at = row(t, i) * H;
      Values next(H);
      for (int64_t j = 0; j < H; ++j) {
        const double dh = carry[j] + grad_hs[at + j], act = saved[at + j];
        const double a = options.leak.empty() ? 1 : options.leak[j];
        const double gradient = a * dh * (n.relu ? (act > 0 ? 1 : 0) : 1 - act * act);
        grad_leak[j] += dh * (act - before[s][j]);
        grad_b[j] += dz[at + j] = gradient;
        next[j] += (1 - a) * dh;
        for (int64_t k = 0; k < H; ++k) {
          grad_W[options.transposed ? j * H + k : k * H + j] += before[s][k] * gradient;
          next[k] += weight(k, j) * gradient;
        }
      }
      const bool stops = is_reset(t, i);
      if (stops ? options.resets_to_h0 : s == 0) add_to_h0(i, next);
      carry = stops ? Values(H) : next;
    }
  }

  void add_to_h0(int64_t i, const Values& gradient) {
    for (int64_t k = 0; k < n.H; ++k) grad_h0[i * n.H + k] += gradient[k];
  }
};

}  // namespace naive
