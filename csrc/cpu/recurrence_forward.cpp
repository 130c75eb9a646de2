// The layer forward: h_t = act(u_t + h_{t-1} W_hh + b_h) for all steps.
#include "inputs.h"
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
      : Base(args.T, args.B, args.H, args.relu), args_(args), inputs_(args, args.x) {
    this->allocate([&] { inputs_.lay_out(memory_); },
                   [&](Region<Real>& region) {
                     memory_.take(region.h, 2 * region.count * layer_.stride);
                     inputs_.lay_out(memory_, args.T, region);
                   });
  }

  void run() const {
    run_team(split_.workers, [&](const Team& team) {
      team.each([&](int64_t worker) { prepare(worker); });
      team.sync();
      this->each_step(team, 0, args_.T, 1, [&](int64_t worker, int64_t t) { step(worker, t); });
      team.each([&](int64_t worker) { this->copy_last_state(worker, args_.hs, args_.h_last); });
    });
  }

 private:
  void prepare(int64_t worker) const {
    this->pack_rows(layer_, args_.W_hh, worker);
    this->multiply_forward(layer_, args_.W_hh, worker, args_.h0, 0);
    const Region<Real>& region = this->region_of(worker);
    const Share rows = this->share_in_region(region.count, worker);
    this->copy_initial_state(args_.h0, region, rows);
    inputs_.prepare(args_.T, region, rows, inputs_.table_share(worker, split_.workers));
  }

  void step(int64_t worker, int64_t t) const {
    const Region<Real>& region = this->region_of(worker);
    inputs_.prepare_step(t, region, this->columns_of(worker));
    this->each_tile(worker, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors, ForwardTile<Real>{layer_, region, t, row, panel, args_.hs});
    });
    if (t + 1 < args_.T) {
      this->multiply_forward(layer_, args_.W_hh, worker, region.h_at(layer_, t + 1), t + 1);
    }
  }

  const RnnForwardArgs<Real>& args_;
  Inputs<Real> inputs_;
};

}  // namespace

template <class Real>
void rnn_forward(const RnnForwardArgs<Real>& args) {
  Forward<Real>(args).run();
}

template void rnn_forward<float>(const RnnForwardArgs<float>&);
template void rnn_forward<double>(const RnnForwardArgs<double>&);

}  // namespace rnnfast::RNNFAST_ISA
