// The readout and its loss: logits = h W_hq + b_q, then -log softmax(logits)[target] and its
// derivative by the logits, while they are in the L1 cache.
#pragma once

#include <cmath>
#include <limits>

#include "math.h"
#include "panels.h"
#include "parallel.h"
#include "workspace.h"

namespace rnnfast::RNNFAST_ISA {

// What all workers share of it.
template <class Real>
struct Readout {
  int64_t H, V;
  Panels panels;  // of V
  int64_t width;  // V, padded
  Real* W;        // [panel][H][its columns]: W_hq
  Real* bias;     // [width]: b_q, -inf in the padding, whose exp is then 0

  Readout(int64_t H, int64_t V)
      : H(H), V(V), panels(Panels::of<Real>(V, 1)), width(padded<Real>(V)) {}

  void lay_out(Workspace& memory) {
    memory.take(W, H * width);
    memory.take(bias, width);
  }

  // A worker's share of the rows, about those that it has moved in a training step.
  void prepare(const Real* W_hq, const Real* b_q, int64_t worker, int64_t workers) const {
    const Share rows = share_of(H, worker, workers);
    for (int64_t p = 0; p < panels.count; ++p)
      pack(W_hq, V, H, rows.begin, rows.end, Panel(panels, p), W);
    if (worker < workers - 1) return;
    for (int64_t c = 0; c < width; ++c)
      bias[c] = c < V ? b_q[c] : -std::numeric_limits<Real>::infinity();
  }
};

// The targets as vectors, divided by the number of tokens, whose mean the loss is.
template <class Real>
struct OneHots {
  Real tokens;
  int64_t width;
  Real* values;  // [2 * width]: zeros but for `width`

  void lay_out(Workspace& memory) { memory.take(values, 2 * width); }

  void prepare() const {
    for (int64_t c = 0; c < 2 * width; ++c) values[c] = c == width ? Real{1} / tokens : Real{0};
  }

  // To be subtracted as it is: a 1 subtracted at y in place would be a scalar store under a vector
  // load, which stalls.
  const Real* of(int64_t y) const { return values + width - y; }
};

// logits for some rows of h and one panel of classes.
template <class Real>
struct LogitsTile {
  const Readout<Real>& readout;
  const Real* h;  // the first of the rows
  int64_t h_stride;
  const Panel& panel;
  Real* logits;             // where the first of the rows has the panel's first class
  int64_t stride, columns;  // of the logits, from there on

  template <int Rows, int Vectors>
  void run() const {
    Tile<Real, Rows, Vectors> tile;
    tile.each([&](int i, int j, int c) { tile.at[i][j] = load(readout.bias + panel.column + c); });
    tile.multiply(readout.H, h, h_stride, readout.W + readout.H * panel.column);
    tile.store_rows(logits, stride, columns);
  }
};

// Rows of logits in panels of `rows` rows, which become the derivatives of the loss by them.
template <class Real>
struct Logits {
  Real* values;
  int64_t rows;

  Real* at(const Panel& panel, int64_t row) const {
    return values + rows * panel.column + row * panel.vectors * kLanes<Real>;
  }

  Real* element(const Panels& panels, int64_t row, int64_t column) const {
    int64_t p = 0;
    while (panels.first(p + 1) * panels.lanes <= column) ++p;
    const Panel panel(panels, p);
    return at(panel, row) + (column - panel.column);
  }
};

// The sum of -log softmax over rows.
class LossSum {
 public:
  // A row whose softmax is exp(target - shift) / sum at its target.
  void add(double shift, double target, double sum) {
    // One logarithm for many rows: it takes 20 ns, a row of 28 classes not twice that.
    sum_ += shift - target;
    product_ *= sum;
    if (!(product_ < 1e280)) {
      sum_ += std::log(product_);
      product_ = 1;
    }
  }
  double total() const { return sum_ + std::log(product_); }

 private:
  double sum_ = 0, product_ = 1;
};

// Adds rows to the loss and, where wanted, to the derivative by b_q.
template <class Real>
class CrossEntropy {
 public:
  // Rows at a time, at most: their logits are still in the L1 cache when their softmax is taken.
  static constexpr int64_t kMostRows = 32;

  CrossEntropy(const Readout<Real>& readout, const OneHots<Real>& one_hots, LossSum& loss,
               Real* bias_gradient)  // [width], or null
      : readout_(readout), one_hots_(one_hots), loss_(loss), bias_gradient_(bias_gradient) {}

  // Rows [row, row + count) of the logits, from as many rows of h. next_target() is the class of
  // one after the other.
  template <class NextTarget>
  void add_rows(const Real* h, int64_t h_stride, const Logits<Real>& logits, int64_t row,
                int64_t count, NextTarget next_target) const {
    for (int64_t p = 0; p < readout_.panels.count; ++p) {
      const Panel panel(readout_.panels, p);
      const int64_t width = panel.vectors * kLanes<Real>;
      each_row_block(count, [&](int64_t i, int rows) {
        run_tile(rows, panel.vectors,
                 LogitsTile<Real>{readout_, h + i * h_stride, h_stride, panel,
                                  logits.at(panel, row + i), width, width});
      });
    }
    int64_t classes[kMostRows];
    Real scales[kMostRows];
    for (int64_t i = 0; i < count; ++i) classes[i] = next_target();
    softmax(logits, row, count, classes, scales);
    if (bias_gradient_ != nullptr) differentiate(logits, row, count, classes, scales);
  }

 private:
  // The rows become exp(logit - largest), each to be multiplied by its scale for a softmax over
  // T * B. Pass by pass over all rows, not row by row: combining the lanes of one takes 30 cycles,
  // in which others go on (about 21 ns a row, not 33).
  void softmax(const Logits<Real>& logits, int64_t row, int64_t count, const int64_t* classes,
               Real* scales) const {
    Vec<Real> lanes[kMostRows];
    Real shifts[kMostRows], at_target[kMostRows];
    for (int64_t i = 0; i < count; ++i) lanes[i] = splat(-std::numeric_limits<Real>::infinity());
    each_vector(logits, row, count,
                [&](int64_t i, Real* at) { lanes[i] = larger<Real>(load(at), lanes[i]); });
    for (int64_t i = 0; i < count; ++i) {
      shifts[i] = max_lanes<Real>(lanes[i]);
      at_target[i] = *logits.element(readout_.panels, row + i, classes[i]);
      lanes[i] = Vec<Real>{};
    }
    each_vector(logits, row, count, [&](int64_t i, Real* at) {
      const Vec<Real> e = exp_nonpositive<Real>(load(at) - shifts[i]);
      lanes[i] += e;
      store(at, e);
    });
    for (int64_t i = 0; i < count; ++i) {
      const Real sum = sum_lanes<Real>(lanes[i]);
      loss_.add(static_cast<double>(shifts[i]), static_cast<double>(at_target[i]),
                static_cast<double>(sum));
      scales[i] = Real{1} / (one_hots_.tokens * sum);
    }
  }

  // (softmax - one_hot) / (T * B). Its sum over the rows is taken apart from what came before:
  // many small numbers added to a large one would lose their last bits (T = 512: 8 times the error)
  void differentiate(const Logits<Real>& logits, int64_t row, int64_t count, const int64_t* classes,
                     const Real* scales) const {
    each_column(logits, row, [&](Real* first, int64_t row_stride, int64_t column) {
      Vec<Real> sum{};
      for (int64_t i = 0; i < count; ++i) {
        Real* at = first + i * row_stride;
        const Vec<Real> derivative = load(at) * scales[i] - load(one_hots_.of(classes[i]) + column);
        store(at, derivative);
        sum += derivative;
      }
      store(bias_gradient_ + column, load(bias_gradient_ + column) + sum);
    });
  }

  // Calls f(its first row, from row to row, its first class) for each vector of classes.
  template <class F>
  RNNFAST_INLINE void each_column(const Logits<Real>& logits, int64_t row, const F& f) const {
    for (int64_t p = 0; p < readout_.panels.count; ++p) {
      const Panel panel(readout_.panels, p);
      for (int j = 0; j < panel.vectors; ++j) {
        f(logits.at(panel, row) + j * kLanes<Real>, panel.vectors * kLanes<Real>,
          panel.column + j * kLanes<Real>);
      }
    }
  }

  // Calls f(i, a vector of row + i's classes) for all of the rows.
  template <class F>
  RNNFAST_INLINE void each_vector(const Logits<Real>& logits, int64_t row, int64_t count,
                                  const F& f) const {
    each_column(logits, row, [&](Real* first, int64_t row_stride, int64_t) {
      for (int64_t i = 0; i < count; ++i) f(i, first + i * row_stride);
    });
  }

  const Readout<Real>& readout_;
  const OneHots<Real>& one_hots_;
  LossSum& loss_;
  Real* bias_gradient_;
};

}  // namespace rnnfast::RNNFAST_ISA
