// The same results by plain loops in double, for the driver to compare with.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace naive {

using Values = std::vector<double>;

struct Sizes {
  int64_t T, B, H, V;
  bool relu;
};

// out [n, m] += a [n, k] b [k, m], either of them stored transposed.
inline void add_product(const double* a, bool a_transposed, const double* b, bool b_transposed,
                        int64_t n, int64_t k, int64_t m, double* out) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t l = 0; l < k; ++l) {
      const double factor = a_transposed ? a[l * n + i] : a[i * k + l];
      for (int64_t j = 0; j < m; ++j) {
        out[i * m + j] += factor * (b_transposed ? b[j * k + l] : b[l * m + j]);
      }
    }
  }
}

inline void add_column_sums(const double* a, int64_t rows, int64_t columns, double* sums) {
  for (int64_t i = 0; i < rows * columns; ++i) sums[i % columns] += a[i];
}

// out [n.T * n.B, n.H]: row ids[i] of the table for each i.
inline Values gather(const Sizes& n, const Values& table, const std::vector<int64_t>& ids) {
  Values out;
  for (const int64_t id : ids) {
    out.insert(out.end(), table.begin() + id * n.H, table.begin() + (id + 1) * n.H);
  }
  return out;
}

inline void scatter(const Sizes& n, const Values& rows, const std::vector<int64_t>& ids,
                    Values& table) {
  for (size_t i = 0; i < ids.size(); ++i) {
    for (int64_t c = 0; c < n.H; ++c) table[ids[i] * n.H + c] += rows[i * n.H + c];
  }
}

// hs [T, B, H] from x [T, B, H].
inline Values forward(const Sizes& n, const Values& x, const Values& W_hh, const Values& b_h,
                      const Values& h0) {
  Values hs = x;
  const double* before = h0.data();
  for (int64_t t = 0; t < n.T; ++t) {
    double* h = hs.data() + t * n.B * n.H;
    add_product(before, false, W_hh.data(), false, n.B, n.H, n.H, h);
    for (int64_t i = 0; i < n.B * n.H; ++i) {
      const double z = h[i] + b_h[i % n.H];
      h[i] = n.relu ? (z < 0 ? 0 : z) : std::tanh(z);
    }
    before = h;
  }
  return hs;
}

struct Gradients {
  Values dz, W_hh, b_h, h0;  // dz [T, B, H]
};

inline Gradients backward(const Sizes& n, const Values& grad_hs, const Values& grad_h_last,
                          const Values& hs, const Values& W_hh, const Values& h0) {
  const int64_t step = n.B * n.H;
  Gradients out{grad_hs, Values(n.H * n.H), Values(n.H), Values(step)};
  Values carry = grad_h_last;
  for (int64_t t = n.T - 1; t >= 0; --t) {
    double* dz = out.dz.data() + t * step;
    for (int64_t i = 0; i < step; ++i) {
      const double h = hs[t * step + i];
      dz[i] = (dz[i] + carry[i]) * (n.relu ? (h > 0 ? 1 : 0) : 1 - h * h);
    }
    carry.assign(step, 0);
    add_product(dz, false, W_hh.data(), true, n.B, n.H, n.H, carry.data());
    const double* before = t > 0 ? hs.data() + (t - 1) * step : h0.data();
    add_product(before, true, dz, false, n.H, n.B, n.H, out.W_hh.data());
  }
  add_column_sums(out.dz.data(), n.T * n.B, n.H, out.b_h.data());
  out.h0 = carry;
  return out;
}

// logits [rows, V] from h [rows, H].
inline Values read_out(const Sizes& n, const Values& h, const Values& W_hq, const Values& b_q) {
  const int64_t rows = static_cast<int64_t>(h.size()) / n.H;
  Values logits(rows * n.V);
  add_product(h.data(), false, W_hq.data(), false, rows, n.H, n.V, logits.data());
  for (size_t i = 0; i < logits.size(); ++i) logits[i] += b_q[i % n.V];
  return logits;
}

// Rows of logits become rows of probabilities.
inline void softmax(int64_t V, Values& logits) {
  for (size_t row = 0; row < logits.size(); row += V) {
    double largest = logits[row], sum = 0;
    for (int64_t v = 1; v < V; ++v) largest = std::fmax(largest, logits[row + v]);
    for (int64_t v = 0; v < V; ++v) sum += logits[row + v] = std::exp(logits[row + v] - largest);
    for (int64_t v = 0; v < V; ++v) logits[row + v] /= sum;
  }
}

}  // namespace naive
