// The layer forward: h_t = act(u_t + h_{t-1} W_hh + b_h) for all steps.
#include "isa.h"
#include "recurrence.h"

namespace rnnfast::RNNFAST_ISA {

namespace {

template <class Real>
class Forward : Recurrence<Real> {
  using Base = Recurrence<Real>;
  using Base::layer_, Base::memory_, Base::split_;

 public:
  explicit Forward(const RnnForwardArgs<Real>& args)
      : Base(args.T, args.B, args.H, args.relu),
        args_(args),
        // A small table gets its bias added once; inputs of any other kind are made ready step by step.
        by_table_(args.ids != nullptr && args.V <= args.T * args.B) {
    this->allocate([&] { memory_.take(table_, by_table_ ? args.V * layer_.width : 0); },
                   [&](Region<Real>& region) { lay_out(region); });
  }

  void run() const {
    run_team(split_.workers, [&](const Team& team) {
      team.each([&](int64_t worker) { prepare(worker); });
      team.sync();
      this->each_step(team, 0, args_.T, 1, [&](int64_t worker, int64_t t) { step(worker, t); });
      team.each([&](int64_t worker) { copy_last_state(worker); });
    });
  }

 private:
  void lay_out(Region<Real>& region) {
    region.kept_steps = 2;
    memory_.take(region.h, 2 * region.count * layer_.stride);
    if (by_table_) {
      region.inputs = table_;
      region.slots_stride = region.count;
      memory_.take(region.slots, args_.T * region.count);
    } else {
      memory_.take(region.inputs, region.count * layer_.width);
      memory_.take(region.slots, region.count);
    }
  }

  void prepare(int64_t worker) const {
    const Share panels = share_of(layer_.panels.count, worker, split_.workers);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      pack(args_.W_hh, args_.H, args_.H, Panel(layer_.panels, p), layer_.W);
    }
    const Region<Real>& region = this->region_of(worker);
    const Share rows = this->share_in_region(region.count, worker);
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      copy_padded(args_.h0 + (region.first + n) * args_.H, region.h + n * layer_.stride);
    }
    if (by_table_) {
      this->copy_ids(args_, worker);
      const Share ids = share_of(args_.V, worker, split_.workers);
      for (int64_t v = ids.begin; v < ids.end; ++v) {
        add_bias(args_.x + v * args_.H, table_ + v * layer_.width, {0, layer_.width});
      }
    } else {
      for (int64_t n = rows.begin; n < rows.end; ++n) region.slots[n] = static_cast<int32_t>(n);
    }
  }

  void step(int64_t worker, int64_t t) const {
    const Region<Real>& region = this->region_of(worker);
    if (!by_table_) {
      for (int64_t n = 0; n < region.count; ++n) {
        const int64_t row = input_row<Real>(args_, t, region.first + n);
        add_bias(args_.x + row * args_.H, region.inputs + n * layer_.width, this->columns_of(worker));
      }
    }
    this->each_tile(worker, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors, ForwardTile<Real>{layer_, region, t, row, panel, args_.hs});
    });
  }

  void copy_padded(const Real* row, Real* out) const {
    for (int64_t c = 0; c < layer_.width; c += kLanes<Real>) store(out + c, load_first(row + c, args_.H - c));
  }

  // out = row + b_h in the given columns, zero in the padding
  void add_bias(const Real* row, Real* out, Share columns) const {
    for (int64_t c = columns.begin; c < columns.end; c += kLanes<Real>) {
      Vec<Real> sum = load_first(row + c, args_.H - c);
      if (args_.b_h != nullptr) sum += load_first(args_.b_h + c, args_.H - c);
      store(out + c, sum);
    }
  }

  void copy_last_state(int64_t worker) const {
    const Share rows = share_of(args_.B, worker, split_.workers);
    const Real* last = args_.hs + (args_.T - 1) * args_.B * args_.H;
    std::memcpy(args_.h_last + rows.begin * args_.H, last + rows.begin * args_.H,
                static_cast<size_t>((rows.end - rows.begin) * args_.H) * sizeof(Real));
  }

  const RnnForwardArgs<Real>& args_;
  const bool by_table_;
  Real* table_ = nullptr;
};

}  // namespace

template <class Real>
void rnn_forward(const RnnForwardArgs<Real>& args) {
  Forward<Real>(args).run();
}

template void rnn_forward<float>(const RnnForwardArgs<float>&);
template void rnn_forward<double>(const RnnForwardArgs<double>&);

}  // namespace rnnfast::RNNFAST_ISA
