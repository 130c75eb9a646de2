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
                     lay_out_state_gradients(region);
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
      const bool others_copies_changed = first.args_.options.resets != nullptr;
      if (first.groups_share_regions() || others_copies_changed) team.sync();
      all.each(team, [](const Backward& pass, int64_t worker) { pass.sum_weights(worker); });
      team.sync();
      all.each(team, [](const Backward& pass, int64_t worker) { pass.add_up(worker); });
    });
  }

 private:
  bool reads_out() const { return args_.grad_W_hq != nullptr; }

  void lay_out_shared() {
    this->lay_out_products();
    this->take_leak(args_.leak);
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

  bool keeps_to_h0() const { return args_.options.resets_to_h0 && args_.options.resets != nullptr; }

  void lay_out_state_gradients(Region<Real>& region) {
    const int64_t size = region.count * layer_.stride;
    if (cells::num_saved(args_.cell) > 0) {
      memory_.take(region.carry, size);
      if (args_.grad_leak != nullptr) this->take(region.leak_gradient);
      if (keeps_to_h0()) memory_.take(region.carry_to_h0, size);
    }
    if (keeps_to_h0()) memory_.take(region.dz_to_h0, size);
  }

  void prepare(int64_t worker) const {
    this->copy_leak(args_.leak, worker);
    this->pack_weights(layer_, args_.W_hh, worker);
    const Region<Real>& region = this->region_of(worker);
    const Share rows = this->share_in_region(region.count, worker);
    this->copy_states(args_.h0, args_.hs, worker);
    this->clear_sums(worker);
    if (layer_.steps.are_ragged()) {
      // Rows that have had no step yet have no dz either: it is read as that of their next step.
      clear_rows(region.dz, region.kept_dz * region.count, worker);
    }
    Real* const sums[] = {region.carry, region.dz_to_h0, region.carry_to_h0};
    for (Real* each : sums) {
      if (each != nullptr) clear_rows(each, region.count, worker);
    }
    // The derivative is taken from what was saved, or from these very states.
    if (cells::num_saved(args_.cell) > 0) reset_copies(worker);
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

  void clear_rows(Real* rows, int64_t count, int64_t worker) const {
    for (int64_t i = 0; i < count; ++i)
      this->clear(rows + i * layer_.stride, this->columns_of(worker));
  }

  // The states before the steps that begin anew, in the worker's columns of the copy of h.
  void reset_copies(int64_t worker) const {
    if (args_.options.resets == nullptr) return;
    const Region<Real>& region = this->region_of(worker);
    for (int64_t t = 0; t < args_.T; ++t) {
      this->each_reset(args_.options, worker, t, [&](int64_t n) {
        const Real* h0 = args_.h0 + (region.first + n) * args_.H;
        if (args_.options.resets_to_h0) {
          this->copy_state(h0, args_.H, t, {n, n + 1}, worker);
        } else {
          this->clear_copy(region.h_copy, region.state_row(t) + n, 1, worker);
        }
      });
    }
  }

  // Nothing reaches the state before step t where that has been replaced, but h0 where it was that.
  void cut_gradients(int64_t worker, int64_t t) const {
    const Region<Real>& region = this->region_of(worker);
    this->each_reset(args_.options, worker, t, [&](int64_t n) {
      move(region.dz_at(layer_, t), region.dz_to_h0, n, worker);
      if (region.carry != nullptr) move(region.carry, region.carry_to_h0, n, worker);
    });
    if (!keeps_to_h0() || args_.grad_h0 == nullptr) return;
    for (int64_t n = region.rows(layer_, t - 1); n < region.rows(layer_, t); ++n) {
      move(region.dz_to_h0, region.dz_at(layer_, t), n, worker);
      if (region.carry != nullptr) move(region.carry_to_h0, region.carry, n, worker);
    }
  }

  // Row n of `to`, where there is one, gets that of `from` as well, which becomes zero; in the
  // worker's columns.
  void move(Real* from, Real* to, int64_t n, int64_t worker) const {
    const Share columns = this->columns_of(worker);
    const int64_t row = n * layer_.stride;
    for (int64_t c = row + columns.begin; to != nullptr && c < row + columns.end;
         c += kLanes<Real>) {
      store(to + c, load(to + c) + load(from + c));
    }
    this->clear(from + row, columns);
  }

  void step(int64_t worker, int64_t t) const {
    const Region<Real>& region = this->region_of(worker);
    if (t < args_.T - 1) {
      if (args_.grad_h0 != nullptr && layer_.steps.are_ragged()) initial_states(worker, t + 1);
      multiply_row(worker, t + 1);
    }
    const DenseGradients<Real> dense{args_.grad_hs, args_.grad_h_last,
                                     args_.ids == nullptr ? args_.grad_x : nullptr, nullptr,
                                     args_.saved};
    const ReadoutGradient<Real> readout = readout_.of_state(region);
    const int64_t at = layer_.at(t, region.first);
    this->each_tile(worker, t, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors,
               BackwardTile<Real>{layer_, region, t, at, row, panel, dense,
                                  reads_out() ? &readout : nullptr});
    });
    if (t + 1 < args_.T) this->clear_ended(worker, t + 1);  // step t has read the last states
    cut_gradients(worker, t);
    if (t > 0 || args_.grad_h0 != nullptr) {
      this->multiply_columns(args_.W_hh, worker, region.dz_at(layer_, t), t);
    }
  }

  void multiply_row(int64_t worker, int64_t t) const {
    if (!this->multiplies_rows()) return;
    this->fetch_dz(worker, t);
    const Real* dz = this->region_of(worker).dz_at(layer_, t);
    Base::multiply_row(args_.W_hh, worker, dz);
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
                          BackwardTile<Real>{layer_, region, t - 1, 0, row, panel, dense, nullptr});
                    });
  }

  void finish_steps(int64_t worker) const {
    if (layer_.steps.are_ragged()) this->flush_sums(worker);
    if (cells::num_saved(args_.cell) == 0) reset_copies(worker);
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
    this->sum_regions(worker, &Region<Real>::leak_gradient, args_.grad_leak);
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
