// What every call that runs the recurrence has in common: its split, its regions and each worker's
// shares.
#pragma once

#include <cstring>

#include "recurrence_tiles.h"
#include "single_row.h"
#include "workspace.h"

namespace rnnfast::RNNFAST_ISA {

template <class Real>
class Recurrence {
 protected:
  Recurrence(int64_t T, int64_t B, int64_t H, int cell)
      : split_(Split::of<Real>(T, B, H)),
        layer_(T, B, H, cell, split_),
        sums_(Panels::of<Real>(H, 1, kVectorsOfSums)),
        num_regions_(split_.by_rows ? split_.workers : 1) {
    if (!is_cut()) return;
    int64_t widest = 0;
    for (int64_t worker = 0; worker < split_.workers; ++worker) {
      const Share columns = columns_of(worker);
      if (columns.end - columns.begin > widest) widest = columns.end - columns.begin;
    }
    layer_.h_stride = layer_.own_stride = layer_.with_gap(widest);
  }

  // Asks for the memory of both passes: what all share; what those who work on a region share; and
  // rows(region, first), what a worker has for its columns of it, the first of them `first`. Each
  // region is on pages of its own, and each worker's part of a row that is cut.
  template <class LayOutShared, class LayOutRegion, class LayOutRows>
  void allocate(const LayOutShared& shared, const LayOutRegion& region, const LayOutRows& rows) {
    const auto lay_out = [&] {
      memory_.take(regions_, split_.workers);
      if (!is_single_row()) memory_.take(layer_.W, layer_.H * layer_.width);
      shared();
      for (int64_t i = 0; i < num_regions_; ++i) {
        memory_.start_page();
        const Share batch_rows = share_of(layer_.B, i, num_regions_);
        Region<Real> laid_out;
        laid_out.first = batch_rows.begin;
        laid_out.count = batch_rows.end - batch_rows.begin;
        region(laid_out);
        if (!is_cut()) rows(laid_out, int64_t{0});
        const Share members = split_.by_rows ? Share{i, i + 1} : Share{0, split_.workers};
        for (int64_t worker = members.begin; worker < members.end; ++worker) {
          Region<Real> seen = laid_out;
          if (is_cut()) {
            memory_.start_page();
            rows(seen, columns_of(worker).begin);
          }
          if (regions_ != nullptr) regions_[worker] = seen;
        }
      }
      memory_.start_page();
    };
    lay_out();
    memory_.allocate();
    lay_out();
  }

  // The region's rows of h, from column `first` on.
  void take_h(Region<Real>& region, int64_t first) {
    memory_.take(region.h, region.kept_h * region.count * layer_.h_stride, first);
  }

  Region<Real>& region_of(int64_t worker) const { return regions_[worker]; }

  // A single row that several workers share is cut: each has what it writes in every step, and the
  // inputs, in memory of its own; of dz it fetches the others' columns after each step. Where rows
  // lie in one piece, the hardware prefetchers run past a worker's columns and pull lines away from
  // the worker that is about to write them (H = 512, two workers: the layer's forward call took 5 %
  // longer where their cores are close and 22 % where they are far, its backward call 2 and 6 %).
  bool is_cut() const { return is_single_row() && !split_.by_rows; }

  // A worker's share of n things of its region: all of them, or its part where all work on one
  // region.
  Share share_in_region(int64_t n, int64_t worker) const {
    return split_.by_rows ? Share{0, n} : share_of(n, worker, split_.workers);
  }

  Share panels_of(int64_t worker) const { return share_in_region(layer_.panels.count, worker); }

  // The columns of panels_of(worker), padding included.
  Share columns_of(int64_t worker) const {
    const Share panels = panels_of(worker);
    return {layer_.panels.first(panels.begin) * kLanes<Real>,
            layer_.panels.first(panels.end) * kLanes<Real>};
  }

  // The columns that the worker looks after in what all share: where the work is split by columns
  // these are its own, so that no core waits for a line that another has written.
  Share columns_looked_after(int64_t worker) const {
    return split_.by_rows ? share_of(layer_.width, worker, split_.workers, kLanes<Real>)
                          : columns_of(worker);
  }

  // Calls f(panel, first row, rows) for each tile of the worker's in one step.
  template <class F>
  void each_tile(int64_t worker, const F& f) const {
    const Share panels = panels_of(worker);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      const Panel panel(layer_.panels, p);
      each_row_block(region_of(worker).count, [&](int64_t row, int rows) { f(panel, row, rows); });
    }
  }

  // Runs step(worker, t) for each t: on its own, or together with a barrier after each step.
  template <class Step>
  void each_step(const Team& team, int64_t first, int64_t end, int64_t increment,
                 const Step& step) const {
    if (split_.by_rows) {
      team.each([&](int64_t worker) {
        for (int64_t t = first; t != end; t += increment) step(worker, t);
      });
      return;
    }
    for (int64_t t = first; t != end; t += increment) {
      team.each([&](int64_t worker) { step(worker, t); });
      team.sync();
    }
  }

  // A single row takes its products from W_hh as it lies, see single_row.h; more rows from a packed
  // copy. Two of these three functions pack a worker's share; the others act for a single row only.
  bool is_single_row() const { return layer_.B == 1; }

  void pack_rows(const Layer<Real>& layer, const Real* W_hh, int64_t worker) const {
    if (is_single_row()) return;
    const Share panels = share_of(layer.panels.count, worker, split_.workers);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      pack(W_hh, layer.H, layer.H, Panel(layer.panels, p), layer.W);
    }
  }

  void pack_columns(const Layer<Real>& layer, const Real* W_hh, int64_t worker) const {
    if (is_single_row()) return;
    const Share panels = share_of(layer.panels.count, worker, split_.workers);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      pack_transposed(W_hh, layer.H, layer.H, Panel(layer.panels, p), layer.W);
    }
  }

  // The worker's part of h_t W_hh, from its own columns of h_t.
  void multiply_forward(const Layer<Real>& layer, const Real* W_hh, int64_t worker, const Real* h,
                        int64_t t) const {
    if (!is_single_row()) return;
    add_rows_times(h, W_hh, sums_, rows_of_W(worker), t % 2 != 0, layer.product(t, worker));
  }

  // The worker's columns of dz_{t+1} W_hh^T.
  void multiply_backward(const Layer<Real>& layer, const Real* W_hh, int64_t worker,
                         int64_t t) const {
    if (!is_single_row() || t == layer.T - 1) return;
    fetch_dz(worker, t + 1);
    const Region<Real>& region = region_of(worker);
    const Share rows = rows_of_W(worker);
    dot_rows(region.dz_at(layer, t + 1), W_hh, layer.H, layer.H, rows, region.product);
    for (int64_t i = rows.end; i < columns_of(worker).end; ++i) region.product[i] = 0;
  }

  // The others' columns of dz_t, where the row is cut.
  void fetch_dz(int64_t worker, int64_t t) const {
    for (int64_t other = 0; is_cut() && other < split_.workers; ++other) {
      if (other == worker) continue;
      copy_columns(regions_[other].dz_at(layer_, t), columns_of(other),
                   regions_[worker].dz_at(layer_, t));
    }
  }

  static void copy_columns(const Real* from, Share columns, Real* to) {
    std::memcpy(to + columns.begin, from + columns.begin,
                static_cast<size_t>(columns.end - columns.begin) * sizeof(Real));
  }

  Share rows_of_W(int64_t worker) const { return without_padding(columns_of(worker)); }

  Share without_padding(Share columns) const {
    return {columns.begin, columns.end < layer_.H ? columns.end : layer_.H};
  }

  // h0 in the worker's columns
  void copy_initial_state(const Real* h0, int64_t worker) const {
    const Region<Real>& region = region_of(worker);
    const Share columns = columns_of(worker);
    for (int64_t n = 0; n < region.count; ++n) {
      const Real* from = h0 + (region.first + n) * layer_.H;
      Real* to = region.h + n * layer_.h_stride;
      for (int64_t c = columns.begin; c < columns.end; c += kLanes<Real>)
        store(to + c, load_first(from + c, layer_.H - c));
    }
  }

  // The worker's rows of hs [T, B, H] at the last step.
  void copy_last_state(int64_t worker, const Real* hs, Real* h_last) const {
    const Share rows = share_of(layer_.B, worker, split_.workers);
    const Real* last = hs + (layer_.T - 1) * layer_.B * layer_.H;
    std::memcpy(h_last + rows.begin * layer_.H, last + rows.begin * layer_.H,
                static_cast<size_t>((rows.end - rows.begin) * layer_.H) * sizeof(Real));
  }

  // The worker's part of h [steps, B, H] goes to its region's copy of h, from step `first` on.
  void copy_to_blocks(const Real* h, int64_t steps, int64_t first, int64_t worker) const {
    const Region<Real>& region = region_of(worker);
    // Locals: a field would be read anew after each store (a backward call of many rows: 8 %).
    const Share columns = columns_of(worker);
    const int64_t B = layer_.B, H = layer_.H, count = region.count, rows = (layer_.T + 1) * count;
    Real* const to = region.h_blocks;
    for (int64_t t = 0; t < steps; ++t) {
      for (int64_t n = 0; n < count; ++n) {
        const Real* from = h + (t * B + region.first + n) * H;
        const int64_t row = (first + t) * count + n;
        for (int64_t c = columns.begin; c < columns.end; c += kLanes<Real>) {
          store(to + in_blocks<Real>(rows, row, c), load_first(from + c, H - c));
        }
      }
    }
  }

  void lay_out_products() {
    if (!is_single_row()) return;
    constexpr int64_t kPage = 4096 / static_cast<int64_t>(sizeof(Real));
    layer_.num_products = split_.workers;
    layer_.products_stride = (layer_.width + kPage - 1) / kPage * kPage;
    memory_.start_page();
    memory_.take(layer_.products, 2 * split_.workers * layer_.products_stride);
  }

  const Split split_;
  Layer<Real> layer_;
  const Panels sums_;  // of a single row's product
  const int64_t num_regions_;
  Region<Real>* regions_ = nullptr;
  Workspace memory_;
};

}  // namespace rnnfast::RNNFAST_ISA
