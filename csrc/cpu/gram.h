// The norm of a gradient H^T Z before the gradient itself is there: |H^T Z|^2 is the sum over all
// pairs of rows of <h_r, h_s> <z_r, z_s>. With few rows that is far less work than a pass over the
// gradient, which can then be scaled, and moved along, while it is still in registers.
#pragma once

#include <cstring>

#include "readout.h"
#include "recurrence_tiles.h"
#include "single_row.h"
#include "workspace.h"

namespace rnnfast::RNNFAST_ISA {

// Of a region that kept all its steps: the products of its rows for grad_W_hh, which is made of
// h_{t-1} and dz_t, and for grad_W_hq, of h_t and dlogits_t, where those of h serve both. Each
// worker multiplies its own columns, and needs no line that another has written (one row, H = 512:
// 1 % of a step).
template <class Real>
class GramMatrices {
 public:
  void lay_out(Workspace& memory, int64_t rows, int64_t workers) {
    rows_ = rows;
    workers_ = workers;
    memory.take(parts_, workers);
    for (int64_t worker = 0; worker < workers; ++worker) {
      memory.start_page();
      Part part;
      memory.take(part.h, rows * rows);
      memory.take(part.z, rows * rows);
      if (parts_ != nullptr) parts_[worker] = part;
    }
  }

  // The worker's part of them, from its columns of h and dz and some rows of dlogits.
  void multiply(const Layer<Real>& layer, const Region<Real>& region, const Readout<Real>& readout,
                Share columns, int64_t worker) const {
    const Part& part = parts_[worker];
    const int64_t lag = region.count, tokens = rows_ - lag;
    std::memset(part.h, 0, static_cast<size_t>(rows_ * rows_) * sizeof(Real));
    std::memset(part.z, 0, static_cast<size_t>(rows_ * rows_) * sizeof(Real));
    for (int64_t c = columns.begin; c < columns.end; c += kChunk) {
      const int64_t count = columns.end - c < kChunk ? columns.end - c : kChunk;
      for (int64_t r = 0; r < rows_; ++r)
        add_products(region.h + c, layer.h_stride, count, r, part.h + r * rows_);
      for (int64_t r = 0; r < tokens; ++r)
        add_products(region.dz + c, layer.stride, count, r, part.z + r * rows_);
    }
    const Logits<Real> dlogits{region.dlogits, tokens};
    for (int64_t r = worker; r < tokens; r += workers_) {
      for (int64_t p = 0; p < readout.panels.count; ++p) {
        const Panel panel(readout.panels, p);
        const int64_t width = panel.vectors * kLanes<Real>;
        add_products(dlogits.at(panel, 0), width, width, r, part.z + (r + lag) * rows_ + lag);
      }
    }
  }

  // After all have multiplied: |grad_W_hh|^2 + |grad_W_hq|^2.
  double squares() const {
    double squares = 0;
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t s = 0; s <= r; ++s) {
        double h = 0, z = 0;
        for (int64_t i = 0; i < workers_; ++i) {
          h += parts_[i].h[r * rows_ + s];
          z += parts_[i].z[r * rows_ + s];
        }
        squares += (r == s ? 1 : 2) * h * z;
      }
    }
    return squares;
  }

 private:
  struct Part {
    Real* h;  // [rows][rows]: the lower triangle
    Real* z;
  };

  // Of 36 rows, so much stays in the L1 cache.
  static constexpr int64_t kChunk = 512 / static_cast<int64_t>(sizeof(Real));

  // out[s] += <row r, row s> for s <= r
  static void add_products(const Real* rows, int64_t stride, int64_t count, int64_t r, Real* out) {
    dot_rows<Real, true>(rows + r * stride, rows, stride, count, {0, r + 1}, out);
  }

  int64_t rows_ = 0, workers_ = 0;
  Part* parts_ = nullptr;
};

}  // namespace rnnfast::RNNFAST_ISA
