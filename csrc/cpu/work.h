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
 public:
  int64_t workers() const { return split_.workers; }
  bool splits_rows() const { return split_.by_rows; }

 protected:
  // Whether the pass multiplies by the transpose of W_hh, and how many directions of a layer run at
  // the same time, their states side by side in the arrays.
  struct Way {
    bool transposed;
    int64_t directions;
  };

  // Takes T, B, H and cell from the arguments of a call.
  template <class Args>
  Recurrence(const Args& args, const Steps& steps, const Way& way)
      : split_(Split::of<Real>(args.T, steps.length(args.B) / args.T, args.H, way.directions)),
        layer_(steps, args.T, args.B, args.H, args.cell, way.directions * args.H, way.transposed,
               split_),
        sums_(Panels::of<Real>(args.H, 1, kVectorsOfSums)),
        num_regions_(split_.by_rows ? split_.workers : 1) {
    if (!is_cut()) return;
    int64_t widest = 0;
    for (int64_t worker = 0; worker < split_.workers; ++worker) {
      const Share columns = columns_of(worker);
      if (columns.end - columns.begin > widest) widest = columns.end - columns.begin;
    }
    layer_.h_stride = layer_.own_stride = with_gap<Real>(widest);
  }

  // Lays out the workspace: `shared()` for all workers, `region(r)` for the workers of one region,
  // and `rows(r, first)` for one worker's columns of it, from column `first` on. Each region is on
  // pages of its own, and so is each worker's part of a row that is cut.
  template <class LayOutShared, class LayOutRegion, class LayOutRows>
  void allocate(const LayOutShared& shared, const LayOutRegion& region, const LayOutRows& rows) {
    const auto lay_out = [&] {
      memory_.take(regions_, split_.workers);
      layer_.steps.lay_out(memory_);
      if (!is_single_row()) memory_.take(layer_.W, layer_.H * layer_.width);
      shared();
      for (int64_t i = 0; i < num_regions_; ++i) {
        memory_.start_page();
        const Share batch_rows = batch_rows_of(i);
        Region<Real> laid_out;
        laid_out.first = batch_rows.begin;
        laid_out.count = batch_rows.end - batch_rows.begin;
        if (layer_.steps.are_ragged()) memory_.take(laid_out.state_rows, layer_.T + 2);
        region(laid_out);
        if (!is_cut()) rows(laid_out, int64_t{0});
        const Share members = split_.by_rows ? Share{i, i + 1} : Share{0, split_.workers};
        for (int64_t worker = members.begin; worker < members.end; ++worker) {
          if (is_cut()) {
            memory_.start_page();
            rows(laid_out, columns_of(worker).begin);
          }
          if (regions_ != nullptr) regions_[worker] = laid_out;
        }
      }
      memory_.start_page();
    };
    lay_out();
    memory_.allocate();
    lay_out();
    layer_.steps.prepare();
    for (int64_t i = 0; layer_.steps.are_ragged() && i < num_regions_; ++i)
      count_states(regions_[i]);
  }

  // The region's rows of h, from column `first` on.
  void take_h(Region<Real>& region, int64_t first) {
    memory_.take(region.h, region.kept_h * region.count * layer_.h_stride, first);
  }

  // What multiply_row() needs.
  void take_product(Region<Real>& region) {
    if (!multiplies_rows()) return;
    memory_.take(region.product, layer_.width);
    memory_.take(region.whole, is_cut() ? layer_.width : 0);
  }

  Region<Real>& region_of(int64_t worker) const { return regions_[worker]; }

  // A single row that several workers share is cut: each has what it writes in every step, and the
  // inputs, in memory of its own; of dz it fetches the others' columns after each step. Where rows
  // lie in one piece, the hardware prefetchers run past a worker's columns and pull lines away from
  // the worker that is about to write them (H = 512, two workers: the layer's forward call took 5 %
  // longer where their cores are close and 22 % where they are far, its backward call 2 and 6 %).
  bool is_cut() const { return is_single_row() && !split_.by_rows; }

  // The batch rows of a region. All regions have about as many steps to take.
  Share batch_rows_of(int64_t region) const {
    if (!layer_.steps.are_ragged()) return share_of(layer_.B, region, num_regions_);
    return {layer_.steps.rows_of_length(region, num_regions_),
            layer_.steps.rows_of_length(region + 1, num_regions_)};
  }

  // Fills state_rows: where each step's states lie in the copies.
  void count_states(const Region<Real>& region) const {
    region.state_rows[0] = 0;
    for (int64_t s = 0; s <= layer_.T; ++s) {
      region.state_rows[s + 1] = region.state_rows[s] + region.num_states(layer_, s);
    }
  }

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

  // Calls f(panel, first row, rows) for each tile of the worker's in rows [first, end) of its
  // region.
  template <class F>
  void each_tile(int64_t worker, int64_t first, int64_t end, const F& f) const {
    if (first >= end) return;
    const Share panels = panels_of(worker);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      const Panel panel(layer_.panels, p);
      each_row_block(end - first, [&](int64_t row, int rows) { f(panel, first + row, rows); });
    }
  }

  // The same for all rows that have step t.
  template <class F>
  void each_tile(int64_t worker, int64_t t, const F& f) const {
    each_tile(worker, 0, region_of(worker).rows(layer_, t), f);
  }

  // A single row takes its products from W_hh as it lies, see single_row.h; more rows from a packed
  // copy.
  bool is_single_row() const { return layer_.B == 1; }

  // The worker's share of the packed copy.
  void pack_weights(const Layer<Real>& layer, const Real* W_hh, int64_t worker) const {
    if (is_single_row()) return;
    const Share panels = share_of(layer.panels.count, worker, split_.workers);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      const Panel panel(layer.panels, p);
      if (layer.transposed) {
        pack_transposed(W_hh, layer.H, layer.H, panel, layer.W);
      } else {
        pack(W_hh, layer.H, layer.H, panel, layer.W);
      }
    }
  }

  // A single row's product without a transpose, from its h or dz of step t: each worker multiplies
  // its own columns of the row, as soon as it has them.
  void multiply_columns(const Real* W_hh, int64_t worker, const Real* row, int64_t t) const {
    if (!is_single_row() || layer_.transposed) return;
    add_rows_times(row, W_hh, sums_, units_of(worker), t % 2 != 0, layer_.product(t, worker));
  }

  // A single row's product with a transpose: each worker makes its own columns of it, from the
  // whole row.
  void multiply_row(const Real* W_hh, int64_t worker, const Real* row) const {
    const Region<Real>& region = region_of(worker);
    const Share columns = columns_of(worker), units = without_padding(columns);
    dot_rows(row, W_hh, layer_.H, layer_.H, units, region.product);
    for (int64_t i = units.end; i < columns.end; ++i) region.product[i] = 0;
  }
  bool multiplies_rows() const { return is_single_row() && layer_.transposed; }

  // h_t of a single row with the others' columns, where the row is cut.
  const Real* whole_h(int64_t worker, int64_t t) const {
    const Region<Real>& region = region_of(worker);
    if (!is_cut()) return region.h_at(layer_, t);
    for (int64_t other = 0; other < split_.workers; ++other)
      copy_columns(regions_[other].h_at(layer_, t), columns_of(other), region.whole);
    return region.whole;
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

  // The worker's hidden units: rows of W_hh, and columns of h.
  Share units_of(int64_t worker) const { return without_padding(columns_of(worker)); }

  Share without_padding(Share columns) const {
    return {columns.begin, columns.end < layer_.H ? columns.end : layer_.H};
  }

  // h0 in the worker's columns. Of ragged sequences in both places for h: where time runs backwards
  // some begin in any step, and find their first state there.
  void copy_initial_state(const Real* h0, int64_t worker) const {
    const Region<Real>& region = region_of(worker);
    for (int64_t t = 0; t < (layer_.steps.are_ragged() ? 2 : 1); ++t) {
      for (int64_t n = 0; n < region.count; ++n) {
        copy_padded(h0 + (region.first + n) * layer_.H, columns_of(worker),
                    region.h_at(layer_, t) + n * layer_.h_stride);
      }
    }
  }

  // Calls f(n) for each row n of the worker's region whose state before step t is replaced.
  template <class F>
  void each_reset(const RnnOptions& options, int64_t worker, int64_t t, const F& f) const {
    if (options.resets == nullptr) return;
    const Region<Real>& region = region_of(worker);
    const uint8_t* resets = layer_.steps.resets_of(t, options.resets) + region.first;
    for (int64_t n = 0, rows = region.rows(layer_, t); n < rows; ++n) {
      if (resets[n] != 0) f(n);
    }
  }

  // The leak of a cell that has one; the worker copies the columns that it looks after.
  void take_leak(const Real* leak) {
    memory_.take(layer_.leak, leak != nullptr ? layer_.width : 0);
  }
  void copy_leak(const Real* leak, int64_t worker) const {
    if (leak != nullptr) copy_padded(leak, columns_looked_after(worker), layer_.leak);
  }

  static void clear(Real* row, Share columns) {
    std::memset(row + columns.begin, 0,
                static_cast<size_t>(columns.end - columns.begin) * sizeof(Real));
  }

  // Columns of a row, zeros in the padding.
  void copy_padded(const Real* from, Share columns, Real* to) const {
    for (int64_t c = columns.begin; c < columns.end; c += kLanes<Real>)
      store(to + c, load_first(from + c, layer_.H - c));
  }

  // The worker's rows of hs [T, B, H], each at the last step that it has.
  void copy_last_state(int64_t worker, const Real* hs, Real* h_last) const {
    const Share rows =
        split_.by_rows ? batch_rows_of(worker) : share_of(layer_.B, worker, split_.workers);
    for (int64_t t = layer_.T - 1, n = rows.begin; n < rows.end; --t) {
      const int64_t end = layer_.steps.rows(t) < rows.end ? layer_.steps.rows(t) : rows.end;
      if (n < end) copy_rows(hs + layer_.at(t, n), end - n, h_last + n * layer_.H);
      n = n < end ? end : n;
    }
  }

  // Rows of an array [T, B, H] without what lies between them.
  void copy_rows(const Real* from, int64_t rows, Real* to) const {
    const int64_t length = layer_.array_stride == layer_.H ? rows * layer_.H : layer_.H;
    for (int64_t i = 0; i < rows * layer_.H; i += length, from += layer_.array_stride)
      std::memcpy(to + i, from, static_cast<size_t>(length) * sizeof(Real));
  }

  // The states before the first step, and those after each, in the worker's columns of the copy of
  // h. The state before a row's first step is h0.
  void copy_states(const Real* h0, const Real* hs, int64_t worker) const {
    const Region<Real>& region = region_of(worker);
    for (int64_t s = 0; s <= layer_.T; ++s) {
      const int64_t old = region.rows(layer_, s - 1), rows = region.num_states(layer_, s);
      if (s > 0) {
        copy_state(hs + layer_.at(s - 1, region.first), layer_.array_stride, s, {0, old}, worker);
      }
      copy_state(h0 + (region.first + old) * layer_.H, layer_.H, s, {old, rows}, worker);
    }
  }

  // Rows of h [B, H] as the states [rows) before step s.
  void copy_state(const Real* h, int64_t h_stride, int64_t s, Share rows, int64_t worker) const {
    const Region<Real>& region = region_of(worker);
    const Share panels = panels_of(worker);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      const Panel panel(layer_.panels, p);
      const int64_t stride = region.h_copy.stride(panel);
      for (int64_t c = 0; c < panel.vectors * kLanes<Real>; c += kLanes<Real>) {
        Real* to = region.h_copy.column(panel, c) + (region.state_row(s) + rows.begin) * stride;
        const Real* from = h + panel.column + c;
        for (int64_t n = rows.begin; n < rows.end; ++n, to += stride, from += h_stride)
          store(to, load_first(from, panel.columns_left - c));
      }
    }
  }

  // What the products of a single row need.
  void lay_out_products() {
    if (!is_single_row() || layer_.transposed) return;
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
