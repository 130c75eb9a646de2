// The layer forward: h_t = act(u_t + h_{t-1} W_hh + b_h) for all steps, and its readout.
#include "directions.h"
#include "inputs.h"
#include "isa.h"
#include "noise.h"
#include "readout.h"
#include "work.h"

namespace rnnfast::RNNFAST_ISA {

namespace {

template <class Real>
class Forward : public Recurrence<Real> {
  using Base = Recurrence<Real>;
  using Base::layer_, Base::memory_, Base::split_;

 public:
  explicit Forward(const RnnForwardArgs<Real>& args)
      : Base(args, Steps(args.T, args.B, args.options),
             {args.options.transposed, args.options.directions}),
        args_(args),
        noise_{args.options.noise, args.options.seed, args.options.reverse},
        inputs_(args, args.x, layer_, this->is_cut(), noise_.exists()),
        readout_(args.H, args.classes) {
    this->allocate([&] { lay_out_shared(); },
                   [&](Region<Real>& region) {
                     if (this->is_cut()) region.kept_h = args.T + 1;
                     inputs_.lay_out(memory_, region);
                   },
                   [&](Region<Real>& region, int64_t first) {
                     this->take_h(region, first);
                     this->take_product(region);
                     inputs_.lay_out_rows(memory_, region, first);
                   });
  }

  static void run(const Directions<Forward>& all) {
    run_team(all.workers(), [&](const Team& team) {
      all.each(team, [](const Forward& pass, int64_t worker) { pass.prepare(worker); });
      team.sync();
      all.each_step(team, 0, all.first().args_.T, 1,
                    [](const Forward& pass, int64_t worker, int64_t t) { pass.step(worker, t); });
      if (all.first().is_cut()) {
        all.each(team, [](const Forward& pass, int64_t worker) { pass.copy_cut_states(worker); });
        team.sync();
      }
      all.each(team, [](const Forward& pass, int64_t worker) { pass.finish(worker); });
    });
  }

 private:
  void lay_out_shared() {
    this->lay_out_products();
    this->take_leak(args_.leak);
    inputs_.lay_out(memory_);
    readout_.lay_out(memory_);
  }

  void prepare(int64_t worker) const {
    this->pack_weights(layer_, args_.W_hh, worker);
    this->copy_leak(args_.leak, worker);
    const Region<Real>& region = this->region_of(worker);
    const Share rows = this->share_in_region(region.count, worker);
    this->copy_initial_state(args_.h0, worker);
    reset_states(worker, 0);
    this->multiply_columns(args_.W_hh, worker, region.h_at(layer_, 0), 0);
    inputs_.prepare(region, rows, this->columns_looked_after(worker));
    readout_.prepare(args_.W_hq, args_.b_q, worker, split_.workers);
  }

  void step(int64_t worker, int64_t t) const {
    const Region<Real>& region = this->region_of(worker);
    inputs_.prepare_step(t, region, this->columns_of(worker));
    if (noise_.exists()) add_noise(worker, t);
    if (this->multiplies_rows()) {
      this->multiply_row(args_.W_hh, worker, this->whole_h(worker, t));
    }
    Real* const hs = this->is_cut() ? nullptr : args_.hs;
    const int64_t at = layer_.at(t, region.first);
    this->each_tile(worker, t, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors,
               ForwardTile<Real>{layer_, region, t, at, row, panel, hs, args_.saved});
    });
    if (t + 1 < args_.T) {
      reset_states(worker, t + 1);
      this->multiply_columns(args_.W_hh, worker, region.h_at(layer_, t + 1), t + 1);
    }
    if (split_.by_rows) {
      read_out(region.h_at(layer_, t + 1), layer_.h_stride,
               {t * args_.B + region.first, t * args_.B + region.first + region.count});
    }
  }

  // To the worker's columns of the strip of step t.
  void add_noise(int64_t worker, int64_t t) const {
    const Region<Real>& region = this->region_of(worker);
    const Share columns = this->units_of(worker);
    for (int64_t n = 0; n < region.rows(layer_, t); ++n) {
      noise_.add(layer_.steps.row(t, region.first + n), columns,
                 region.inputs + n * layer_.own_stride);
    }
  }

  // The worker's columns of the states before step t that are replaced. Those of a row that is cut
  // go to hs before.
  void reset_states(int64_t worker, int64_t t) const {
    this->each_reset(args_.options, worker, t, [&](int64_t n) {
      const Region<Real>& region = this->region_of(worker);
      Real* h = region.h_at(layer_, t) + n * layer_.h_stride;
      if (this->is_cut() && t > 0) copy_cut_state(worker, t);
      if (args_.options.resets_to_h0) {
        this->copy_padded(args_.h0 + (region.first + n) * args_.H, this->columns_of(worker), h);
      } else {
        this->clear(h, this->columns_of(worker));
      }
    });
  }

  // The worker's columns of the states after each step to hs.
  void copy_cut_states(int64_t worker) const {
    for (int64_t t = 1; t <= args_.T; ++t) {
      bool is_copied = false;
      if (t < args_.T)
        this->each_reset(args_.options, worker, t, [&](int64_t) { is_copied = true; });
      if (!is_copied) copy_cut_state(worker, t);
    }
  }

  void copy_cut_state(int64_t worker, int64_t t) const {
    this->copy_columns(this->region_of(worker).h_at(layer_, t), this->units_of(worker),
                       args_.hs + layer_.at(t - 1, 0));
  }

  // In a split by columns a worker does not have whole rows of h until all have come to the end.
  void finish(int64_t worker) const {
    const Share rows = share_of(args_.T * args_.B, worker, split_.workers);
    this->copy_last_state(worker, args_.hs, args_.h_last);
    if (split_.by_rows) return;
    read_out(args_.hs + rows.begin * args_.H, args_.H, rows);
  }

  // Rows of the logits from as many of h.
  void read_out(const Real* h, int64_t h_stride, Share rows) const {
    for (int64_t p = 0; p < readout_.panels.count; ++p) {
      const Panel panel(readout_.panels, p);
      Real* logits = args_.logits + rows.begin * args_.classes + panel.column;
      each_row_block(rows.end - rows.begin, [&](int64_t i, int count) {
        run_tile(count, panel.vectors,
                 LogitsTile<Real>{readout_, h + i * h_stride, h_stride, panel,
                                  logits + i * args_.classes, args_.classes, panel.columns_left});
      });
    }
  }

  const RnnForwardArgs<Real>& args_;
  const Noise noise_;
  Inputs<Real> inputs_;
  Readout<Real> readout_;
};

}  // namespace

template <class Real>
void rnn_forward(const RnnForwardArgs<Real>& args) {
  run_directions<Forward<Real>>(args);
}

template void rnn_forward<float>(const RnnForwardArgs<float>&);
template void rnn_forward<double>(const RnnForwardArgs<double>&);

}  // namespace rnnfast::RNNFAST_ISA
