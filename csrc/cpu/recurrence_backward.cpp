// The layer backward: dz_t for all steps, and from it every gradient.
#include "directions.h"
#include "gradient_sums.h"
#include "isa.h"
#include "readout_gradient.h"

namespace rnnfast::RNNFAST_ISA {

namespace {

template <class Real>
class Backward : public GradientSums<Real> {
  using Base = GradientSums<Real>;
  using Base::by_table_, Base::layer_, Base::memory_, Base::split_;

 public:
  explicit Backward(const RnnBackwardArgs<Real>& args)
      : Base(args, Steps(args.T, args.B, args.options),
             {!args.options.transposed, args.options.directions}, false),
        args_(args),
        readout_(args.classes),
        W_hh_{args.grad_W_hh, nullptr, args.H * args.H},
        W_hq_{args.grad_W_hq, nullptr, args.H * args.classes} {
    this->allocate([&] { lay_out_shared(); }, [&](Region<Real>& region) { lay_out_region(region); },
                   [&](Region<Real>& region, int64_t first) {
                     this->lay_out_rows(region, first, args_.grad_b_h != nullptr);
                   });
  }

  static void run(const Directions<Backward>& all) {
    const Backward& first = all.first();
    const bool needs_h0 = first.args_.grad_h0 != nullptr;
    run_team(all.workers(), [&](const Team& team) {
      all.each(team, [](const Backward& pass, int64_t worker) { pass.prepare(worker); });
      team.sync();
      all.each_step(team, first.args_.T - 1, -1, -1,
                    [](const Backward& pass, int64_t worker, int64_t t) { pass.step(worker, t); });
      all.each(team, [&](const Backward& pass, int64_t worker) {
        if (needs_h0) pass.initial_states(worker, 0);
        pass.finish_steps(worker);
      });
      if (first.groups_share_regions()) team.sync();
      all.each(team, [](const Backward& pass, int64_t worker) { pass.sum_weights(worker); });
      team.sync();
      all.each(team, [](const Backward& pass, int64_t worker) { pass.add_up(worker); });
    });
  }

 private:
  bool reads_out() const { return args_.grad_W_hq != nullptr; }

  void lay_out_shared() {
    this->lay_out_products();
    this->lay_out(W_hh_);
    if (!reads_out()) return;
    readout_.lay_out(memory_, layer_, split_.workers);
    this->lay_out(W_hq_);
  }

  void lay_out_region(Region<Real>& region) {
    this->lay_out_backward(region, true, args_.options.transposed, args_.grad_x);
    if (reads_out()) readout_.lay_out(memory_, layer_, region);
    if (by_table_) {
      region.slots_stride = region.count;
      memory_.take(region.slots, args_.T * region.count);
    }
  }

  void prepare(int64_t worker) const {
    this->pack_weights(layer_, args_.W_hh, worker);
    const Region<Real>& region = this->region_of(worker);
    const Share rows = this->share_in_region(region.count, worker);
    this->copy_states(args_.h0, args_.hs, worker);
    this->clear_sums(worker);
    if (layer_.steps.are_ragged()) clear_dz(worker);
    if (reads_out()) {
      readout_.prepare(layer_, args_.W_hq, worker, split_.workers);
      readout_.copy(args_.grad_logits, layer_, region,
                    this->share_in_region(args_.T * region.count, worker), worker);
    }
    if (by_table_) {
      Inputs<Real>::copy_ids(args_.ids, args_.ids_stride_t, args_.ids_stride_b, layer_, region,
                             rows);
    }
  }

  // Rows that have no step yet have no dz either: it is read as that of their next step.
  void clear_dz(int64_t worker) const {
    const Region<Real>& region = this->region_of(worker);
    for (int64_t row = 0; row < region.kept_dz * region.count; ++row)
      this->clear(region.dz + row * layer_.stride, this->columns_of(worker));
  }

  void step(int64_t worker, int64_t t) const {
    const Region<Real>& region = this->region_of(worker);
    if (t < args_.T - 1) {
      if (args_.grad_h0 != nullptr && layer_.steps.are_ragged()) initial_states(worker, t + 1);
      multiply_row(worker, t + 1);
    }
    const DenseGradients<Real> dense{args_.grad_hs, args_.grad_h_last,
                                     args_.ids == nullptr ? args_.grad_x : nullptr};
    const ReadoutGradient<Real> readout = readout_.of_state(region);
    this->each_tile(worker, t, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors,
               BackwardTile<Real>{layer_, region, t, row, panel, dense,
                                  reads_out() ? &readout : nullptr});
    });
    this->clear_ended(worker, t);
    if (t > 0 || args_.grad_h0 != nullptr) {
      this->multiply_columns(layer_, args_.W_hh, worker, region.dz_at(layer_, t), t);
    }
  }

  void multiply_row(int64_t worker, int64_t t) const {
    if (!this->multiplies_rows(layer_)) return;
    this->fetch_dz(worker, t);
    const Real* dz = this->region_of(worker).dz_at(layer_, t);
    Base::multiply_row(layer_, args_.W_hh, worker, dz);
  }

  // grad_h0 of the rows whose first step is t.
  void initial_states(int64_t worker, int64_t t) const {
    if (t == 0) multiply_row(worker, 0);
    const Region<Real>& region = this->region_of(worker);
    const DenseGradients<Real> dense{.h0 = args_.grad_h0};
    this->each_tile(worker, region.rows(layer_, t - 1), region.rows(layer_, t),
                    [&](const Panel& panel, int64_t row, int rows) {
                      run_tile(
                          rows, panel.vectors,
                          BackwardTile<Real>{layer_, region, t - 1, row, panel, dense, nullptr});
                    });
  }

  void finish_steps(int64_t worker) const {
    if (layer_.steps.are_ragged()) this->flush_bias(worker);
  }

  void sum_weights(int64_t worker) const {
    if (args_.grad_W_hh != nullptr) {
      this->sum_group(W_hh_, worker, [&](const Region<Real>& region, Real* out) {
        return this->recurrent_gradient(region, out);
      });
    }
    if (reads_out()) {
      this->sum_group(W_hq_, worker, [&](const Region<Real>& region, Real* out) {
        return readout_.of_weights(layer_, region, out);
      });
    }
  }

  // What regions, groups and workers have summed on their own.
  void add_up(int64_t worker) const {
    if (args_.grad_W_hh != nullptr) this->add_groups(W_hh_, worker);
    this->sum_inputs(worker, args_.grad_x, args_.grad_b_h);
    if (!reads_out()) return;
    this->add_groups(W_hq_, worker);
    readout_.sum_bias(worker, split_.workers, false, args_.grad_b_q);
  }

  const RnnBackwardArgs<Real>& args_;
  ReadoutBackward<Real> readout_;
  typename Base::WeightSum W_hh_, W_hq_;
};

}  // namespace

template <class Real>
void rnn_backward(const RnnBackwardArgs<Real>& args) {
  run_directions<Backward<Real>>(args);
}

template void rnn_backward<float>(const RnnBackwardArgs<float>&);
template void rnn_backward<double>(const RnnBackwardArgs<double>&);

}  // namespace rnnfast::RNNFAST_ISA
