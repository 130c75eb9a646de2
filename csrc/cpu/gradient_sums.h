// Sums over all rows and steps: the gradients of the weights, of the bias and of the input table,
// from what each region's backward steps have left. Shared by the layer's backward call and the
// training step.
#pragma once

#include "inputs.h"
#include "work.h"

namespace rnnfast::RNNFAST_ISA {

template <class Real>
class GradientSums : public Recurrence<Real> {
 protected:
  using Base = Recurrence<Real>;
  using Base::layer_, Base::memory_, Base::num_regions_, Base::regions_, Base::split_;

  // Each group of workers sums a weight gradient over its own regions, with no traffic between
  // cores, but with the whole matrix's memory per group: hence not one group per worker on many
  // cores.
  static constexpr int64_t kMostGroups = 4;

  // adds: the sums go on top of what their outputs hold. The rest as in Recurrence.
  template <class Args>
  GradientSums(const Args& args, const Steps& steps, const typename Base::Way& way, bool adds)
      : Base(args, steps, way),
        V_(args.V),
        ids_(args.ids),
        ids_stride_t_(args.ids_stride_t),
        ids_stride_b_(args.ids_stride_b),
        by_table_(Inputs<Real>::has_small_table(args, steps)),
        groups_(num_regions_ < kMostGroups ? num_regions_ : kMostGroups),
        adds_(adds) {}

  // A weight gradient of H x columns: group 0 sums into the result, the others into their own
  // parts.
  struct WeightSum {
    Real* out = nullptr;  // null: not wanted
    Real* parts = nullptr;
    int64_t size = 0;
  };

  void lay_out(WeightSum& sum) {
    memory_.take(sum.parts, sum.out != nullptr ? (groups_ - 1) * sum.size : 0);
  }

  // What the backward steps of a region write. copies: of h and dz, for the weight gradient;
  // grad_table: where that of the table goes, at once where no other region adds to it and rows
  // have no padding and are not cut (one row, H = 512: 1 % of a step).
  void lay_out_backward(Region<Real>& region, bool copies, bool transposed, Real* grad_table) {
    if (copies) {
      const int64_t end = region.first + region.count;
      const int64_t steps = layer_.steps.length(end) - layer_.steps.length(region.first);
      region.h_copy.rows = steps + region.count;
      region.dz_copy.rows = region.h_copy.rows - region.rows(layer_, layer_.T - 1);
      // The gradient has the orientation of W_hh: h stands left, or dz where W_hh is a transpose.
      (transposed ? region.h_copy : region.dz_copy).in_panels = true;
      memory_.take(region.h_copy.values, region.h_copy.size(layer_.width));
      memory_.take(region.dz_copy.values, region.dz_copy.size(layer_.width));
    }
    if (by_table_ && sums_in_place()) region.table_gradient = grad_table;
  }

  // The rows that a worker writes in each of them, of those that are cut from column `first` on.
  void lay_out_rows(Region<Real>& region, int64_t first, bool bias) {
    if (by_table_ && !sums_in_place())
      memory_.take(region.table_gradient, V_ * layer_.own_stride, first);
    memory_.take(region.dz, region.kept_dz * region.count * layer_.stride);
    if (this->is_single_row()) memory_.take(region.product, layer_.width);
    if (bias) take(region.bias_gradient);
  }

  void take(RunningSum<Real>& sum) {
    memory_.take(sum.sum, layer_.width);
    memory_.take(sum.run, layer_.width);
  }

  void clear_sums(int64_t worker) const {
    const Region<Real>& region = this->region_of(worker);
    const Share columns = this->columns_of(worker);
    const RunningSum<Real> sums[] = {region.bias_gradient, region.leak_gradient};
    for (const RunningSum<Real>& each : sums) {
      if (each.sum == nullptr) continue;
      this->clear(each.sum, columns);
      this->clear(each.run, columns);
    }
    if (!by_table_ || (adds_ && sums_in_place())) return;
    for (int64_t v = 0; v < V_; ++v)
      this->clear(region.table_gradient + v * layer_.own_stride, columns);
  }

  // A row's last state has a place in the copy of h, so that it and its dz must be zero where no
  // step t follows: were that state infinite, 0 alone would make it NaN.
  void clear_ended(int64_t worker, int64_t t) const {
    const Region<Real>& region = this->region_of(worker);
    const int64_t first = region.rows(layer_, t), end = region.num_states(layer_, t);
    if (first >= end) return;
    const Copy<Real> copies[] = {region.h_copy, region.dz_copy};
    for (const Copy<Real>& each : copies)
      clear_copy(each, region.state_row(t) + first, end - first, worker);
  }

  // Rows of a copy, in the worker's columns.
  void clear_copy(const Copy<Real>& copy, int64_t first, int64_t rows, int64_t worker) const {
    const Share panels = this->panels_of(worker);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      const Panel panel(layer_.panels, p);
      const int64_t stride = copy.stride(panel);
      for (int64_t c = 0; c < panel.vectors * kLanes<Real>; c += kLanes<Real>) {
        Real* to = copy.column(panel, c) + first * stride;
        for (int64_t n = 0; n < rows; ++n, to += stride) store(to, Vec<Real>{});
      }
    }
  }

  // In a region of ragged sequences nobody may have had a step 0, which ends the last run.
  void flush_sums(int64_t worker) const {
    const Region<Real>& region = this->region_of(worker);
    const Share columns = this->columns_of(worker);
    const RunningSum<Real> sums[] = {region.bias_gradient, region.leak_gradient};
    for (const RunningSum<Real>& each : sums) {
      if (each.sum != nullptr) each.flush(columns.begin, columns.end);
    }
  }

  bool groups_share_regions() const { return groups_ < num_regions_; }

  // The worker's rows of its group's part of the sum; gradient_of(region, out) is one region's.
  template <class GradientOf>
  void sum_group(const WeightSum& sum, int64_t worker, const GradientOf& gradient_of) const {
    int64_t group = 0;
    while (worker >= share_of(split_.workers, group, groups_).end) ++group;
    const Share members = share_of(split_.workers, group, groups_);
    // where h is read as it lies, what the worker has of it
    const Share rows =
        this->region_of(worker).h_copy.values == nullptr
            ? this->units_of(worker)
            : share_of(layer_.H, worker - members.begin, members.end - members.begin, kTileRows);
    const Share regions = split_.by_rows ? members : Share{worker, worker + 1};
    Real* out = group == 0 ? sum.out : sum.parts + (group - 1) * sum.size;
    for (int64_t i = regions.begin; i < regions.end; ++i) {
      const bool adds = i > regions.begin || (group == 0 && adds_);
      gradient_of(regions_[i], out).run(rows.begin, rows.end, adds);
    }
  }

  WeightGradient<Real> recurrent_gradient(const Region<Real>& region, Real* out) const {
    const int64_t K = region.state_row(layer_.T);
    if (region.h_copy.in_panels) {
      return {K, region.dz_copy.on_the_left(), 0, region.h_copy.on_the_right(), layer_.panels, out};
    }
    return {K, region.all_h(layer_), 0, region.all_dz(layer_), layer_.panels, out};
  }

  Share share_of_sum(const WeightSum& sum, int64_t worker) const {
    return share_of(sum.size, worker, split_.workers, kLanes<Real>);
  }

  // Adds the groups' parts in their order, in the worker's share of the elements.
  void add_groups(const WeightSum& sum, int64_t worker) const {
    const Share share = share_of_sum(sum, worker);
    for (int64_t group = 1; group < groups_; ++group) {
      const Real* part = sum.parts + (group - 1) * sum.size;
      int64_t i = share.begin;
      for (; i + kLanes<Real> <= share.end; i += kLanes<Real>)
        store(sum.out + i, load(sum.out + i) + load(part + i));
      for (; i < share.end; ++i) sum.out[i] += part[i];
    }
  }

  // grad_b_h (or null) and, with ids, the gradient of the table, in the columns that the worker
  // looks after.
  void sum_inputs(int64_t worker, Real* grad_table, Real* grad_b_h) const {
    const Share columns = this->columns_looked_after(worker);
    sum_regions(worker, &Region<Real>::bias_gradient, grad_b_h);
    if (by_table_) {
      for (int64_t v = 0; !sums_in_place() && v < V_; ++v) {
        const int64_t row = v * layer_.own_stride;
        add_regions(
            worker, [=](const Region<Real>& region) { return region.table_gradient + row; },
            columns, grad_table + v * layer_.H);
      }
    } else if (ids_ != nullptr) {
      scatter(worker, columns, grad_table);
    }
  }

  // out (or null) = a running sum of all regions, in the columns that the worker looks after.
  void sum_regions(int64_t worker, RunningSum<Real> Region<Real>::* running, Real* out) const {
    if (out == nullptr) return;
    add_regions(
        worker, [=](const Region<Real>& region) { return (region.*running).sum; },
        this->columns_looked_after(worker), out);
  }

 private:
  // Whether the one region's sums for the table are the result, without padding.
  bool sums_in_place() const {
    return num_regions_ == 1 && layer_.width == layer_.H && !this->is_cut();
  }

  // Where the workers' regions are to be summed: all, or the one that they share, as they see it.
  Share regions_for(int64_t worker) const {
    return split_.by_rows ? Share{0, split_.workers} : Share{worker, worker + 1};
  }

  // out = the sum of part_of(region), a row of each.
  template <class PartOf>
  void add_regions(int64_t worker, const PartOf& part_of, Share columns, Real* out) const {
    const Share regions = regions_for(worker);
    for (int64_t c = columns.begin; c < columns.end; c += kLanes<Real>) {
      Vec<Real> sum = load(part_of(regions_[regions.begin]) + c);
      for (int64_t i = regions.begin + 1; i < regions.end; ++i)
        sum += load(part_of(regions_[i]) + c);
      if (adds_) sum += load_first(out + c, layer_.H - c);
      store_first(out + c, layer_.H - c, sum);
    }
  }

  // Adds dz to the rows of its ids, where a table per region would be larger than dz.
  void scatter(int64_t worker, Share columns, Real* grad_table) const {
    const Share regions = regions_for(worker);
    const int64_t end = this->without_padding(columns).end;
    for (int64_t v = 0; !adds_ && v < V_; ++v)
      this->clear(grad_table + v * layer_.H, {columns.begin, end});
    for (int64_t p = 0; p < layer_.panels.count; ++p) {
      const Panel panel(layer_.panels, p);
      for (int64_t c = 0; c < panel.vectors * kLanes<Real>; c += kLanes<Real>) {
        const int64_t column = panel.column + c;
        if (column < columns.begin || column >= columns.end) continue;
        for (int64_t i = regions.begin; i < regions.end; ++i)
          scatter_vector(regions_[i], panel, c, grad_table + column);
      }
    }
  }

  void scatter_vector(const Region<Real>& region, const Panel& panel, int64_t c,
                      Real* grad_column) const {
    const int64_t left = panel.columns_left - c;
    const Real* all_dz = region.dz_copy.values == nullptr ? region.dz + panel.column + c
                                                          : region.dz_copy.column(panel, c);
    const int64_t stride =
        region.dz_copy.values == nullptr ? layer_.stride : region.dz_copy.stride(panel);
    for (int64_t t = 0; t < layer_.T; ++t) {
      const int64_t* ids = layer_.steps.ids_of(t, ids_, ids_stride_t_, ids_stride_b_);
      const Real* dz = all_dz + region.state_row(t) * stride;
      for (int64_t n = 0; n < region.rows(layer_, t); ++n, dz += stride) {
        Real* sum = grad_column + ids[(region.first + n) * ids_stride_b_] * layer_.H;
        store_first(sum, left, load_first(sum, left) + load(dz));
      }
    }
  }

 protected:
  const int64_t V_;
  const int64_t* ids_;
  const int64_t ids_stride_t_, ids_stride_b_;
  const bool by_table_;
  const int64_t groups_;
  const bool adds_;
};

}  // namespace rnnfast::RNNFAST_ISA
