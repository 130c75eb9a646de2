// Layer, readout and mean cross-entropy in one call, with all gradients; and the whole training
// step, which goes on to clip them and to move the parameters.
#include "directions.h"
#include "gradient_sums.h"
#include "gram.h"
#include "isa.h"
#include "readout.h"
#include "readout_gradient.h"
#include "sum_of_squares.h"

namespace rnnfast::RNNFAST_ISA {

namespace {

// What each worker has to itself.
template <class Real>
struct Tally {
  LossSum loss;
  double squares;  // of its share of the gradients
  Real* strip;     // logits of some rows, where they are not kept for the way back
  Real* h;         // [its share of T][stride]: rows to read out, whole, where they are cut
};

template <class Real>
class TrainStep : public GradientSums<Real> {
  using Base = GradientSums<Real>;
  using Base::layer_, Base::memory_, Base::split_;

  static constexpr int64_t kRows = CrossEntropy<Real>::kMostRows;

 public:
  TrainStep(const CrossEntropyArgs<Real>& args, bool moves_parameters)
      : Base(args, Steps(args.T, args.B), {false, 1}, args.adds_gradients),
        args_(args),
        inputs_(args, args.W_xh, layer_, this->is_cut()),
        readout_(args.H, args.V),
        one_hots_{static_cast<Real>(args.T * args.B), readout_.width, nullptr},
        readout_backward_(args.V),
        backward_layer_(layer_),
        norm_first_(moves_parameters && norm_is_cheap()),
        W_hh_{args.grad_W_hh, nullptr, args.H * args.H},
        W_hq_{args.grad_W_hq, nullptr, args.H * args.V} {
    this->allocate([&] { lay_out_shared(); }, [&](Region<Real>& region) { lay_out_region(region); },
                   [&](Region<Real>& region, int64_t first) {
                     this->take_h(region, first);
                     inputs_.lay_out_rows(memory_, region, first);
                     if (wants_gradients()) this->lay_out_rows(region, first, true);
                   });
  }

  void run(const Team& team) const {
    team.each([&](int64_t worker) { prepare(worker); });
    team.sync();
    const Directions<TrainStep> all(*this, nullptr);
    all.each_step(team, 0, args_.T, 1, [](const TrainStep& pass, int64_t worker, int64_t t) {
      pass.forward_step(worker, t);
    });
    team.each([&](int64_t worker) { finish_forward(worker); });
    if (!wants_gradients()) return;
    if (!split_.by_rows) team.sync();
    all.each_step(team, args_.T - 1, -1, -1, [](const TrainStep& pass, int64_t worker, int64_t t) {
      pass.backward_step(worker, t);
    });
    if (args_.grad_h0 != nullptr) team.each([&](int64_t worker) { initial_state(worker); });
  }

  // After run(): the five gradients.
  void finish_gradients(const Team& team) const {
    if (!wants_gradients()) return;
    if (this->groups_share_regions()) team.sync();
    team.each([&](int64_t worker) { sum_weights(worker, nullptr); });
    team.sync();
    team.each([&](int64_t worker) { add_up(worker); });
  }

  // After run(): the five gradients, d2l's clip and SGD.
  void finish_step(const Team& team, const TrainStepArgs<Real>& step) const {
    if (norm_first_) {
      team.each([&](int64_t worker) {
        add_up(worker);
        count_squares(step, worker, false);
        gram_.multiply(layer_, this->region_of(worker), readout_,
                       this->without_padding(this->columns_looked_after(worker)), worker);
      });
      team.sync();
      const double squares = all_squares() + gram_.squares();
      // Products of two gradients overflow from 1e19 on in float32, where their squares, which are
      // summed in double, do not.
      if (std::isfinite(squares)) {
        team.each([&](int64_t worker) { move_parameters(step, worker, squares, true); });
        return;
      }
      team.sync();  // before they are counted again, everyone has seen this
    }
    finish_gradients(team);
    team.each([&](int64_t worker) { count_squares(step, worker, true); });
    team.sync();
    const double squares = all_squares();
    team.each([&](int64_t worker) { move_parameters(step, worker, squares, false); });
  }

  void write_loss() const {
    double sum = 0;
    for (int64_t worker = 0; worker < split_.workers; ++worker)
      sum += tallies_[worker].loss.total();
    *args_.loss = sum / static_cast<double>(args_.T * args_.B);
  }

 private:
  bool wants_gradients() const { return args_.grad_W_hh != nullptr; }

  // One region (its rows of h and dz are then all kept), and few enough rows: with T * B = 35 and H
  // = 512 two passes over the gradients, 10 % of the step, become 3 % for products of rows. Each of
  // many workers would have to add up the products of all.
  bool norm_is_cheap() const {
    const int64_t tokens = args_.T * args_.B, parts = split_.workers < 2 ? 2 : split_.workers;
    return this->num_regions_ == 1 && tokens <= 256 && tokens * tokens * parts < 32 * args_.H;
  }

  double all_squares() const {
    double squares = 0;
    for (int64_t i = 0; i < split_.workers; ++i) squares += tallies_[i].squares;
    return squares;
  }

  // The worker's part of the squared norm of the gradients, of what it has just added up, so that
  // nobody waits.
  void count_squares(const TrainStepArgs<Real>& step, int64_t worker, bool of_weights) const {
    SumOfSquares sum;
    const auto add = [&](const Real*, const Real* grad, int64_t count) { sum.add(grad, count); };
    each_small_parameter(step, worker, add);
    if (of_weights) each_weight(step, worker, add);
    tallies_[worker].squares = sum.total();
  }

  void move_parameters(const TrainStepArgs<Real>& step, int64_t worker, double squares,
                       bool norm_first) const {
    const double norm = std::sqrt(squares);
    const auto factor = static_cast<Real>(norm > step.max_norm ? step.max_norm / norm : 1.0);
    const auto lr = static_cast<Real>(step.lr);
    const auto move = [&](Real* param, Real* grad, int64_t count) {
      descend(param, grad, count, factor, lr);
    };
    each_small_parameter(step, worker, move);
    if (norm_first) {
      const bool stores = step.keeps_gradients;
      const Descent<Real> descents[] = {{step.W_hh, factor, lr, stores},
                                        {step.W_hq, factor, lr, stores}};
      sum_weights(worker, descents);
    } else {
      each_weight(step, worker, move);
    }
  }

  void lay_out_shared() {
    this->lay_out_products();
    inputs_.lay_out(memory_);
    readout_.lay_out(memory_);
    one_hots_.lay_out(memory_);
    memory_.take(tallies_, split_.workers);
    for (int64_t worker = 0; worker < split_.workers; ++worker) {
      memory_.start_page();
      Tally<Real> tally{};
      if (!wants_gradients()) memory_.take(tally.strip, kRows * readout_.width);
      if (this->is_cut()) {
        const Share rows = share_of(args_.T, worker, split_.workers);
        memory_.take(tally.h, (rows.end - rows.begin) * layer_.stride);
      }
      if (tallies_ != nullptr) tallies_[worker] = tally;
    }
    if (!wants_gradients()) return;
    backward_layer_ = layer_;
    backward_layer_.transposed = true;
    if (!this->is_single_row()) memory_.take(backward_layer_.W, args_.H * layer_.width);
    readout_backward_.lay_out(memory_, layer_, split_.workers);
    if (norm_first_) gram_.lay_out(memory_, (args_.T + 1) * args_.B, split_.workers);
    this->lay_out(W_hh_);
    this->lay_out(W_hq_);
  }

  void lay_out_region(Region<Real>& region) {
    if (norm_first_) region.kept_dz = args_.T + 1;
    if (norm_first_ || !split_.by_rows) region.kept_h = args_.T + 1;
    inputs_.lay_out(memory_, region);
    if (!wants_gradients()) return;
    this->lay_out_backward(region, !norm_first_, false, args_.grad_W_xh);
    readout_backward_.lay_out(memory_, layer_, region);
  }

  void prepare(int64_t worker) const {
    this->pack_weights(layer_, args_.W_hh, worker);
    this->multiply_columns(args_.W_hh, worker, args_.h0, 0);
    readout_.prepare(args_.W_hq, args_.b_q, worker, split_.workers);
    if (worker == split_.workers - 1) one_hots_.prepare();
    const Region<Real>& region = this->region_of(worker);
    const Share rows = this->share_in_region(region.count, worker);
    this->copy_initial_state(args_.h0, worker);
    inputs_.prepare(region, rows, this->columns_looked_after(worker));
    if (!wants_gradients()) return;
    this->pack_weights(backward_layer_, args_.W_hh, worker);
    readout_backward_.prepare(layer_, args_.W_hq, worker, split_.workers);
    if (region.h_copy.values != nullptr) {
      this->copy_state(args_.h0 + region.first * args_.H, args_.H, 0, {0, region.count}, worker);
    }
    this->clear_sums(worker);
  }

  void forward_step(int64_t worker, int64_t t) const {
    const Region<Real>& region = this->region_of(worker);
    inputs_.prepare_step(t, region, this->columns_of(worker));
    this->each_tile(worker, t, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors, ForwardTile<Real>{layer_, region, t, 0, row, panel, nullptr});
    });
    if (t + 1 < args_.T) {
      this->multiply_columns(args_.W_hh, worker, region.h_at(layer_, t + 1), t + 1);
    }
    if (split_.by_rows)
      read_out(worker, {t * region.count, (t + 1) * region.count}, region.h_at(layer_, t + 1));
  }

  // In a split by columns a worker does not have whole rows of h until all have come to the end.
  void finish_forward(int64_t worker) const {
    const Region<Real>& region = this->region_of(worker);
    if (!split_.by_rows) {
      const Share rows = share_of(args_.T * region.count, worker, split_.workers);
      const Real* h = region.h + (region.count + rows.begin) * layer_.h_stride;
      if (this->is_cut()) {
        gather_h(rows, tallies_[worker].h);
        h = tallies_[worker].h;
      }
      read_out(worker, rows, h);
    }
    for (int64_t n = 0; n < region.count; ++n) {
      this->copy_columns(region.h_at(layer_, args_.T) + n * layer_.h_stride, this->units_of(worker),
                         args_.h_last + (region.first + n) * args_.H);
    }
  }

  // h after each of some steps, whole, from the columns that each worker has.
  void gather_h(Share steps, Real* out) const {
    for (int64_t t = steps.begin; t < steps.end; ++t, out += layer_.stride) {
      for (int64_t worker = 0; worker < split_.workers; ++worker) {
        this->copy_columns(this->region_of(worker).h_at(layer_, t + 1), this->units_of(worker),
                           out);
      }
    }
  }

  // Loss and dlogits of the region's rows [rows), numbered t * count + n; h is the first of them.
  void read_out(int64_t worker, Share rows, const Real* h) const {
    const Region<Real>& region = this->region_of(worker);
    Tally<Real>& tally = tallies_[worker];
    const CrossEntropy<Real> cross_entropy(readout_, one_hots_, tally.loss,
                                           readout_backward_.bias_gradient(worker));
    for (int64_t row = rows.begin; row < rows.end; row += kRows) {
      const int64_t count = rows.end - row < kRows ? rows.end - row : kRows;
      const bool keep = wants_gradients();
      const Logits<Real> logits = keep ? Logits<Real>{region.dlogits, args_.T * region.count}
                                       : Logits<Real>{tally.strip, kRows};
      const auto next_target = [this, &region, t = row / region.count,
                                n = row % region.count]() mutable {
        const int64_t batch_row = region.first + n;
        const int64_t target =
            args_.targets[t * args_.targets_stride_t + batch_row * args_.targets_stride_b];
        if (++n == region.count) n = 0, ++t;
        return target;
      };
      cross_entropy.add_rows(h + (row - rows.begin) * layer_.stride, layer_.stride, logits,
                             keep ? row : 0, count, next_target);
    }
  }

  void backward_step(int64_t worker, int64_t t) const {
    const Region<Real>& region = this->region_of(worker);
    if (t + 1 < args_.T) multiply_dz(worker, t + 1);
    const DenseGradients<Real> none;
    const ReadoutGradient<Real> readout = readout_backward_.of_state(region);
    this->each_tile(worker, t, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors,
               BackwardTile<Real>{backward_layer_, region, t, 0, row, panel, none, &readout});
    });
  }

  // A single row's product for the step before t.
  void multiply_dz(int64_t worker, int64_t t) const {
    if (!this->is_single_row()) return;
    this->fetch_dz(worker, t);
    this->multiply_row(args_.W_hh, worker, this->region_of(worker).dz_at(layer_, t));
  }

  void initial_state(int64_t worker) const {
    multiply_dz(worker, 0);
    const Region<Real>& region = this->region_of(worker);
    const DenseGradients<Real> dense{.h0 = args_.grad_h0};
    this->each_tile(worker, 0, [&](const Panel& panel, int64_t row, int rows) {
      run_tile(rows, panel.vectors,
               BackwardTile<Real>{backward_layer_, region, -1, 0, row, panel, dense, nullptr});
    });
  }

  // The weights may move at once: descents are those of W_hh and W_hq, or null.
  void sum_weights(int64_t worker, const Descent<Real>* descents) const {
    if (norm_first_) this->fetch_dz(worker, 0);  // the last that nobody has fetched yet
    this->sum_group(W_hh_, worker, [&](const Region<Real>& region, Real* out) {
      WeightGradient<Real> gradient = this->recurrent_gradient(region, out);
      if (descents != nullptr) gradient.descent = &descents[0];
      return gradient;
    });
    this->sum_group(W_hq_, worker, [&](const Region<Real>& region, Real* out) {
      WeightGradient<Real> gradient = readout_backward_.of_weights(layer_, region, out);
      if (descents != nullptr) gradient.descent = &descents[1];
      return gradient;
    });
  }

  // What regions, groups and workers have summed on their own.
  void add_up(int64_t worker) const {
    this->add_groups(W_hh_, worker);
    this->add_groups(W_hq_, worker);
    this->sum_inputs(worker, args_.grad_W_xh, args_.grad_b_h);
    readout_backward_.sum_bias(worker, split_.workers, this->adds_, args_.grad_b_q);
  }

  // Calls f(parameter, gradient, elements) for what add_up() has summed for the worker.
  template <class F>
  void each_small_parameter(const TrainStepArgs<Real>& step, int64_t worker, const F& f) const {
    const Share columns = this->without_padding(this->columns_looked_after(worker));
    const int64_t count = columns.end - columns.begin;
    for (int64_t v = 0; v < args_.V; ++v) {
      const int64_t at = v * args_.H + columns.begin;
      f(step.W_xh + at, args_.grad_W_xh + at, count);
    }
    f(step.b_h + columns.begin, args_.grad_b_h + columns.begin, count);
    const Share classes = readout_backward_.share_of_bias(worker, split_.workers);
    f(step.b_q + classes.begin, args_.grad_b_q + classes.begin, classes.end - classes.begin);
  }

  template <class F>
  void each_weight(const TrainStepArgs<Real>& step, int64_t worker, const F& f) const {
    const auto of = [&](Real* weight, const typename Base::WeightSum& sum) {
      const Share share = this->share_of_sum(sum, worker);
      f(weight + share.begin, sum.out + share.begin, share.end - share.begin);
    };
    of(step.W_hh, W_hh_);
    of(step.W_hq, W_hq_);
  }

  const CrossEntropyArgs<Real>& args_;
  Inputs<Real> inputs_;
  Readout<Real> readout_;
  OneHots<Real> one_hots_;
  ReadoutBackward<Real> readout_backward_;
  Layer<Real> backward_layer_;  // the same with W_hh^T
  bool norm_first_;
  GramMatrices<Real> gram_;  // where the norm comes first
  Tally<Real>* tallies_ = nullptr;
  typename Base::WeightSum W_hh_, W_hq_;
};

}  // namespace

template <class Real>
void rnn_cross_entropy(const CrossEntropyArgs<Real>& args) {
  const TrainStep<Real> step(args, false);
  run_team(step.workers(), [&](const Team& team) {
    step.run(team);
    step.finish_gradients(team);
  });
  step.write_loss();
}

template <class Real>
void train_step(const TrainStepArgs<Real>& args) {
  const TrainStep<Real> step(args.cross_entropy, true);
  run_team(step.workers(), [&](const Team& team) {
    step.run(team);
    step.finish_step(team, args);
  });
  step.write_loss();
}

template void rnn_cross_entropy<float>(const CrossEntropyArgs<float>&);
template void rnn_cross_entropy<double>(const CrossEntropyArgs<double>&);
template void train_step<float>(const TrainStepArgs<float>&);
template void train_step<double>(const TrainStepArgs<double>&);

}  // namespace rnnfast::RNNFAST_ISA
