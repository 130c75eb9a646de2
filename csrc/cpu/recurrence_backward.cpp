// The layer backward: dz_t for all steps, and from it every gradient.
#include "gradient_sums.h"
#include "isa.h"
#include "readout_gradient.h"

namespace rnnfast::RNNFAST_ISA {

namespace {

template <class Real>
class Backward : GradientSums<Real> {
  using Base = GradientSums<Real>;
  using Base::by_table_, Base::layer_, Base::memory_, Base::split_;

 public:
  explicit Backward(const RnnBackwardArgs<Real>& args)
      : Base(args, false),
        args_(args),
        readout_(args.classes),
        W_hh_{args.grad_W_hh, nullptr, args.H * args.H},
        W_hq_{args.grad_W_hq, nullptr, args.H * args.classes} {
    this->allocate([&] { lay_out_shared(); }, [&](Region<Real>& region) { lay_out_region(region); },
                   [&](Region<Real>& region, int64_t first) {
                     this->lay_out_rows(region, first, args_.grad_b_h != nullptr);
                   });
  }

  void run() const {
    run_team(split_.workers, [&](const Team& team) {
      team.each([&](int64_t worker) { prepare(worker); });
      team.sync();
      this->each_step(team, args_.T - 1, -1, -1,
                      [&](int64_t worker, int64_t t) { step(worker, t); });
      if (args_.grad_h0 != nullptr) team.each([&](int64_t worker) { initial_state(worker); });
      if (this->groups_share_regions()) team.sync();
      team.each([&](int64_t worker) { sum_weights(worker); });
      team.sync();
      team.each([&](int64_t worker) { add_up(worker); });
    });
  }

 private:
  bool reads_out() const { return args_.grad_W_hq != nullptr; }

  void lay_out_shared() {
    this->lay_out(W_hh_);
    if (!reads_out()) return;
    readout_.lay_out(memory_, layer_, split_.workers);
    this->lay_out(W_hq_);
  }

  void lay_out_region(Region<Real>& region) {
    this->lay_out_backward(region, true, args_.grad_x);
    if (reads_out()) readout_.lay_out(memory_, layer_, region);
    if (by_table_) {
      region.slots_stride = region.count;
      memory_.take(region.slots, args_.T * region.count);
    }
  }

  void prepare(int64_t worker) const {
    this->pack_columns(layer_, args_.W_hh, worker);
    const Region<Real>& region = this->region_of(worker);
    const Share rows = this->share_in_region(region.count, worker);
    this->copy_to_blocks(args_.h0, 1, 0, worker);
    this->copy_to_blocks(args_.hs, args_.T, 1, worker);
    this->clear_sums(worker);
    if (reads_out()) {
      readout_.prepare(layer_, args_.W_hq, worker, split_.workers);
      readout_.copy(args_.grad_logits, layer_, region,
                    this->share_in_region(args_.T * region.count, worker), worker);
    }
    if (by_table_) {
      Inputs<Real>::copy_ids(args_.ids, args_.ids_stride_t, args_.ids_stride_b, args_.T, region,
                             rows);
    }
  }

  void step(int64_t worker, int64_t t) const {
    const Region<Real>& region = this->region_of(worker);
    this->multiply_backward(layer_, args_.W_hh, worker, t);
    const DenseGradients<Real> dense{args_.grad_hs, args_.grad_h_last,
                                     args_.ids == nullptr ? args_.grad_x : nullptr};
    const ReadoutGradient<Real> readout = readout_.of_state(region);
    this->each_tile(worker, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors,
               BackwardTile<Real>{layer_, region, t, row, panel, dense,
                                  reads_out() ? &readout : nullptr});
    });
  }

  void initial_state(int64_t worker) const {
    this->multiply_backward(layer_, args_.W_hh, worker, -1);
    const Region<Real>& region = this->region_of(worker);
    const DenseGradients<Real> dense{.h0 = args_.grad_h0};
    this->each_tile(worker, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors,
               BackwardTile<Real>{layer_, region, -1, row, panel, dense, nullptr});
    });
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
  Backward<Real>(args).run();
}

template void rnn_backward<float>(const RnnBackwardArgs<float>&);
template void rnn_backward<double>(const RnnBackwardArgs<double>&);

}  // namespace rnnfast::RNNFAST_ISA
