// The way back through a readout h W_hq + b_q: from the gradient of the logits (dlogits, which each
// region keeps in panels of classes) to those of h, W_hq and b_q. Shared by the layer's backward
// call and the training step.
#pragma once

#include "recurrence_tiles.h"
#include "workspace.h"

namespace rnnfast::RNNFAST_ISA {

template <class Real>
class ReadoutBackward {
 public:
  explicit ReadoutBackward(int64_t V) : V_(V), panels_(Panels::of<Real>(V, 1)) {}

  int64_t width() const { return panels_.vectors * kLanes<Real>; }

  void lay_out(Workspace& memory, const Layer<Real>& layer, int64_t workers) {
    memory.take(W_transposed_, V_ * layer.width);
    memory.take(bias_gradients_, workers);
    for (int64_t worker = 0; worker < workers; ++worker) {
      memory.start_page();
      Real* bias_gradient;
      memory.take(bias_gradient, width());
      if (bias_gradients_ != nullptr) bias_gradients_[worker] = bias_gradient;
    }
  }

  void lay_out(Workspace& memory, const Layer<Real>& layer, Region<Real>& region) const {
    memory.take(region.dlogits, layer.T * region.count * width());
  }

  // A worker's part.
  void prepare(const Layer<Real>& layer, const Real* W_hq, int64_t worker, int64_t workers) const {
    const Share panels = share_of(layer.panels.count, worker, workers);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      pack_transposed(W_hq, V_, V_, Panel(layer.panels, p), W_transposed_);
    }
    for (int64_t c = 0; c < width(); ++c) bias_gradients_[worker][c] = 0;
  }

  // The worker's sum over rows of dlogits [width]; null where no gradient is wanted.
  Real* bias_gradient(int64_t worker) const {
    return bias_gradients_ == nullptr ? nullptr : bias_gradients_[worker];
  }

  // grad_logits [T, B, V] for rows [rows) of the region, numbered t * count + n, to its panels and
  // the worker's bias_gradient. The sum over some rows is taken apart from what came before: many
  // small numbers added to a large one would lose their last bits.
  void copy(const Real* grad_logits, const Layer<Real>& layer, const Region<Real>& region,
            Share rows, int64_t worker) const {
    constexpr int64_t kRows = 32;
    for (int64_t row = rows.begin; row < rows.end; row += kRows) {
      const int64_t end = row + kRows < rows.end ? row + kRows : rows.end;
      for (int64_t p = 0; p < panels_.count; ++p) {
        const Panel panel(panels_, p);
        for (int j = 0; j < panel.vectors; ++j)
          copy_vectors(grad_logits, layer, region, {row, end}, panel, j * kLanes<Real>, worker);
      }
    }
  }

  ReadoutGradient<Real> of_state(const Region<Real>& region) const {
    return {V_, panels_, region.dlogits, W_transposed_};
  }

  WeightGradient<Real> of_weights(const Layer<Real>& layer, const Region<Real>& region,
                                  Real* out) const {
    const int64_t K = layer.T * region.count;
    const auto dlogits = RightMatrix<Real>::in_panels(region.dlogits, K);
    // h_t, where W_hh has h_{t-1}
    return {K, region.all_h(layer), region.count, dlogits, panels_, out};
  }

  Share share_of_bias(int64_t worker, int64_t workers) const {
    return share_of(V_, worker, workers);
  }

  // grad_b_q [V] in the share of a worker, on top of what it holds or over it.
  void sum_bias(int64_t worker, int64_t workers, bool adds, Real* grad_b_q) const {
    const Share classes = share_of_bias(worker, workers);
    for (int64_t v = classes.begin; v < classes.end; ++v) {
      Real sum = bias_gradients_[0][v];
      for (int64_t i = 1; i < workers; ++i) sum += bias_gradients_[i][v];
      grad_b_q[v] = adds ? grad_b_q[v] + sum : sum;
    }
  }

 private:
  void copy_vectors(const Real* grad_logits, const Layer<Real>& layer, const Region<Real>& region,
                    Share rows, const Panel& panel, int64_t c, int64_t worker) const {
    const int64_t stride = panel.vectors * kLanes<Real>;
    Real* out = region.dlogits + layer.T * region.count * panel.column + c;
    Vec<Real> sum{};
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int64_t t = row / region.count, n = row % region.count;
      const Real* from = grad_logits + (t * layer.B + region.first + n) * V_ + panel.column + c;
      const Vec<Real> gradient = load_first(from, panel.columns_left - c);
      store(out + row * stride, gradient);
      sum += gradient;
    }
    Real* bias_gradient = bias_gradients_[worker] + panel.column + c;
    store(bias_gradient, load(bias_gradient) + sum);
  }

  const int64_t V_;
  const Panels panels_;
  Real* W_transposed_ = nullptr;  // W_hq^T packed: panels of H, V rows
  Real** bias_gradients_ = nullptr;
};

}  // namespace rnnfast::RNNFAST_ISA
