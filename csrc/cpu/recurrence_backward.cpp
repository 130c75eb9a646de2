// The layer backward: dz_t for all steps, and from it every gradient.
#include "isa.h"
#include "recurrence.h"

namespace rnnfast::RNNFAST_ISA {

namespace {

template <class Real>
class Backward : Recurrence<Real> {
  using Base = Recurrence<Real>;
  using Base::layer_, Base::memory_, Base::num_regions_, Base::regions_, Base::split_;

  // Each group of workers sums the weight gradient over its own regions: no traffic between cores, but H x H
  // memory per group, hence not one group per worker on many cores.
  static constexpr int64_t kMostGroups = 4;

 public:
  explicit Backward(const RnnBackwardArgs<Real>& args)
      : Base(args.T, args.B, args.H, args.relu),
        args_(args),
        by_table_(args.ids != nullptr && args.V <= args.T * args.B),
        groups_(num_regions_ < kMostGroups ? num_regions_ : kMostGroups) {
    this->allocate(
        [&] {
          memory_.start_page();
          memory_.take(partials_, args.grad_W_hh != nullptr ? (groups_ - 1) * args.H * args.H : 0);
        },
        [&](Region<Real>& region) { lay_out(region); });
  }

  void run() const {
    run_team(split_.workers, [&](const Team& team) {
      team.each([&](int64_t worker) { prepare(worker); });
      team.sync();
      this->each_step(team, args_.T - 1, -1, -1, [&](int64_t worker, int64_t t) { step(worker, t); });
      if (args_.grad_h0 != nullptr) team.each([&](int64_t worker) { initial_state(worker); });
      if (groups_ < num_regions_) team.sync();
      if (args_.grad_W_hh != nullptr) team.each([&](int64_t worker) { weight_gradient(worker); });
      team.sync();
      team.each([&](int64_t worker) { reduce(worker); });
    });
  }

 private:
  void lay_out(Region<Real>& region) {
    const int64_t rows = args_.T * region.count;
    memory_.take(region.h_blocks, (rows + region.count) * padded_to_blocks(layer_.width));
    memory_.take(region.dz, 2 * region.count * layer_.stride);
    memory_.take(region.dz_panels, rows * layer_.width);
    if (by_table_) {
      memory_.take(region.slots, rows);
      region.slots_stride = region.count;
      memory_.take(region.table_gradient, args_.V * layer_.width);
    }
    if (args_.grad_b_h != nullptr) memory_.take(region.bias_gradient, layer_.width);
  }

  static int64_t padded_to_blocks(int64_t columns) {
    return (columns + kBlock<Real> - 1) / kBlock<Real> * kBlock<Real>;
  }

  void prepare(int64_t worker) const {
    const Share panels = share_of(layer_.panels.count, worker, split_.workers);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      pack_transposed(args_.W_hh, args_.H, args_.H, Panel(layer_.panels, p), layer_.W);
    }
    const Region<Real>& region = this->region_of(worker);
    const Share rows = this->share_in_region(region.count, worker);
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      copy_to_blocks(args_.h0 + (region.first + n) * args_.H, region, n);
      for (int64_t t = 0; t < args_.T; ++t) {
        copy_to_blocks(args_.hs + (t * args_.B + region.first + n) * args_.H, region,
                       (t + 1) * region.count + n);
      }
    }
    const Share columns = this->columns_of(worker);
    if (region.bias_gradient != nullptr) clear(region.bias_gradient, columns);
    if (by_table_) {
      this->copy_ids(args_, worker);
      for (int64_t v = 0; v < args_.V; ++v) clear(region.table_gradient + v * layer_.width, columns);
    }
  }

  static void clear(Real* row, Share columns) {
    std::memset(row + columns.begin, 0, static_cast<size_t>(columns.end - columns.begin) * sizeof(Real));
  }

  void copy_to_blocks(const Real* h, const Region<Real>& region, int64_t row) const {
    const int64_t rows = (args_.T + 1) * region.count;
    for (int64_t c = 0; c < layer_.width; c += kLanes<Real>) {
      store(region.h_blocks + in_blocks<Real>(rows, row, c), load_first(h + c, args_.H - c));
    }
  }

  void step(int64_t worker, int64_t t) const {
    const Region<Real>& region = this->region_of(worker);
    Real* dense = args_.ids == nullptr ? args_.grad_x : nullptr;
    this->each_tile(worker, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors,
               BackwardTile<Real>{layer_, region, t, row, panel, args_.grad_hs, args_.grad_h_last, dense});
    });
  }

  void initial_state(int64_t worker) const {
    const Region<Real>& region = this->region_of(worker);
    this->each_tile(worker, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors, InitialStateTile<Real>{layer_, region, row, panel, args_.grad_h0});
    });
  }

  // The worker's rows of its group's part of grad_W_hh.
  void weight_gradient(int64_t worker) const {
    int64_t group = 0;
    while (worker >= share_of(split_.workers, group, groups_).end) ++group;
    const Share members = share_of(split_.workers, group, groups_);
    const Share rows =
        share_of(args_.H, worker - members.begin, members.end - members.begin, kTileRows);
    const Share regions = split_.by_rows ? members : Share{0, 1};
    for (int64_t i = regions.begin; i < regions.end; ++i) {
      const Region<Real>& region = regions_[i];
      const int64_t K = args_.T * region.count;
      const WeightGradient<Real> gradient{K, region.h_blocks, K + region.count, region.dz_panels,
                                          layer_.panels, group == 0 ? args_.grad_W_hh : partial(group)};
      gradient.run(rows.begin, rows.end, i > regions.begin);
    }
  }

  Real* partial(int64_t group) const { return partials_ + (group - 1) * args_.H * args_.H; }

  // Sums what regions and groups have each on their own, in a fixed order.
  void reduce(int64_t worker) const {
    if (args_.grad_W_hh != nullptr) {
      const Share share = share_of(args_.H * args_.H, worker, split_.workers, kLanes<Real>);
      for (int64_t group = 1; group < groups_; ++group) {
        add_to(args_.grad_W_hh, partial(group), share);
      }
    }
    const Share columns = share_of(layer_.width, worker, split_.workers, kLanes<Real>);
    if (args_.grad_b_h != nullptr) {
      sum_regions(&Region<Real>::bias_gradient, 0, columns, args_.grad_b_h);
    }
    if (by_table_) {
      for (int64_t v = 0; v < args_.V; ++v) {
        sum_regions(&Region<Real>::table_gradient, v * layer_.width, columns, args_.grad_x + v * args_.H);
      }
    } else if (args_.ids != nullptr) {
      scatter(columns);
    }
  }

  static void add_to(Real* sum, const Real* part, Share share) {
    int64_t i = share.begin;
    for (; i + kLanes<Real> <= share.end; i += kLanes<Real>) store(sum + i, load(sum + i) + load(part + i));
    for (; i < share.end; ++i) sum[i] += part[i];
  }

  void sum_regions(Real* Region<Real>::*part, int64_t offset, Share columns, Real* out) const {
    for (int64_t c = columns.begin; c < columns.end; c += kLanes<Real>) {
      Vec<Real> sum = load(regions_[0].*part + offset + c);
      for (int64_t i = 1; i < num_regions_; ++i) sum += load(regions_[i].*part + offset + c);
      store_first(out + c, args_.H - c, sum);
    }
  }

  // Adds dz to the rows of its ids, where a table per region would be larger than dz.
  void scatter(Share columns) const {
    const int64_t end = columns.end < args_.H ? columns.end : args_.H;
    for (int64_t v = 0; v < args_.V; ++v) clear(args_.grad_x + v * args_.H, {columns.begin, end});
    for (int64_t p = 0; p < layer_.panels.count; ++p) {
      const Panel panel(layer_.panels, p);
      for (int64_t c = 0; c < panel.vectors * kLanes<Real>; c += kLanes<Real>) {
        const int64_t column = panel.column + c;
        if (column < columns.begin || column >= columns.end) continue;
        for (int64_t i = 0; i < num_regions_; ++i) scatter_vector(regions_[i], panel, c);
      }
    }
  }

  void scatter_vector(const Region<Real>& region, const Panel& panel, int64_t c) const {
    const int64_t width = panel.vectors * kLanes<Real>, left = panel.columns_left - c;
    const Real* dz = region.dz_panels + args_.T * region.count * panel.column + c;
    for (int64_t t = 0; t < args_.T; ++t) {
      for (int64_t n = 0; n < region.count; ++n, dz += width) {
        const int64_t id = input_row<Real>(args_, t, region.first + n);
        Real* sum = args_.grad_x + id * args_.H + panel.column + c;
        store_first(sum, left, load_first(sum, left) + load(dz));
      }
    }
  }

  const RnnBackwardArgs<Real>& args_;
  const bool by_table_;
  const int64_t groups_;
  Real* partials_ = nullptr;
};

}  // namespace

template <class Real>
void rnn_backward(const RnnBackwardArgs<Real>& args) {
  Backward<Real>(args).run();
}

template void rnn_backward<float>(const RnnBackwardArgs<float>&);
template void rnn_backward<double>(const RnnBackwardArgs<double>&);

}  // namespace rnnfast::RNNFAST_ISA
