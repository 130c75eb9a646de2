// Generation: each step's choice is the next step's input, so there is nothing to batch over time
// and every step reads all weights once. They are packed once per call, in the order in which a
// step reads them.
//
// One sequence: the workers share the hidden units. Each computes its columns of h and, from these
// alone, its part of all logits; so one barrier per step is enough, after which every worker adds
// up the parts and makes the same choice. Several sequences: the workers share these and never
// meet.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cells/cells.h"
#include "kernels.h"
#include "math.h"
#include "panels.h"
#include "parallel.h"
#include "tile_sizes.h"
#include "workspace.h"

namespace rnnfast::RNNFAST_ISA {

// Less of W_hh than this per worker, and the barrier may cost more than is gained: at H = 192 in
// float32 two take 0.6 of one's time where the cores are close, 1.2 where they are far.
constexpr int64_t kFewestBytesPerWorker = 64 << 10;
// Every worker adds up the parts of all, so that many workers would be busy with this alone.
constexpr int64_t kMostColumnWorkers = 16;

// Sequences that go through a tile together: enough to compute more than to load, and a third of
// the time and code that the compiler would make of the full kTileRows.
constexpr int kRows = 4;
// One sequence takes wider panels instead, so that W_hh is read in long runs and a number of h is
// spread to all lanes less often (12 vectors instead of 8 with AVX-512: 3 to 5 % of a step at
// H = 320 and 384; 6 instead of 4 with AVX2: 2 to 3 % from H = 256 on).
constexpr int kVectorsOfOne = kRegisters * 3 / 8;

// First index of the largest logit; a NaN counts as larger than anything, as in torch.argmax.
template <class Real>
int64_t largest(const Real* logits, int64_t padded_V) {
  Vec<Real> best = splat(static_cast<Real>(-INFINITY));
  Bits<Real> any_nan{};
  for (int64_t v = 0; v < padded_V; v += kLanes<Real>) {
    const Vec<Real> logit = load(logits + v);
    best = larger<Real>(logit, best);
    any_nan |= logit != logit;
  }
  const Vec<Real> maximum = splat(max_lanes<Real>(best));
  const bool has_nan = min_lanes<Real>(any_nan) != 0;
  // No loop that ends where the logit is found: its wrong guess of the end would cost 20 cycles and
  // all that the CPU had begun of the next step.
  using Number = std::remove_reference_t<decltype(any_nan[0])>;
  Bits<Real> found = Bits<Real>{} + static_cast<Number>(padded_V), number{};
  RNNFAST_UNROLL for (int i = 0; i < kLanes<Real>; ++i) number[i] = static_cast<Number>(i);
  for (int64_t v = 0; v < padded_V; v += kLanes<Real>, number += kLanes<Real>) {
    const Vec<Real> logit = load(logits + v);
    const Bits<Real> is_it = has_nan ? logit != logit : logit == maximum;
    found = is_it && number < found ? number : found;
  }
  return min_lanes<Real>(found);
}

// First index whose cumulative probability under softmax(logits / temperature) exceeds u, and 0
// where the probabilities are NaN. Overwrites the logits.
template <class Real>
int64_t sample(Real* logits, int64_t V, int64_t padded_V, double temperature, double u) {
  Vec<Real> best = splat(static_cast<Real>(-INFINITY));
  for (int64_t v = 0; v < padded_V; v += kLanes<Real>) best = larger<Real>(load(logits + v), best);
  const Vec<Real> maximum = splat(max_lanes<Real>(best));
  const Vec<Real> slope = splat(static_cast<Real>(1 / temperature));
  for (int64_t v = 0; v < padded_V; v += kLanes<Real>) {
    store(logits + v, exp_nonpositive<Real>((load(logits + v) - maximum) * slope));
  }
  double total = 0;
  for (int64_t v = 0; v < V; ++v) total += logits[v];
  double cumulative = 0;
  int64_t last = 0;  // with a probability above 0: what rounding may not pass
  for (int64_t v = 0; v < V; ++v) {
    cumulative += logits[v];
    if (!(cumulative <= u * total)) return v;
    if (logits[v] > 0) last = v;
  }
  return last;
}

// h = act(inputs[id] + h_before W_hh) for some sequences and one panel of columns.
template <class Real, class Operand>
struct HiddenTile {
  int cell;
  const Real* inputs;  // [V][H, padded] from the panel's first column on: W_xh + b_h
  int64_t inputs_stride;
  const int64_t* ids;
  const Operand* before;
  int64_t depth, stride;  // of all rows of h
  const Operand* W_hh;    // the packed panel
  Operand* after;
  Real* h;         // may be `after`
  bool backwards;  // through W_hh, for a single sequence

  template <int Rows, int Vectors>
  void run() const {
    Tile<Real, Rows, Vectors> tile;
    tile.clear();
    if (Rows == 1 && backwards) {
      tile.template multiply<-1>(depth, before, stride, W_hh);
    } else {
      tile.multiply(depth, before, stride, W_hh);
    }
    // The inputs last: the product need not wait for the choice of the id.
    cells::with_activation(cell, [&]<class Activation>() {
      tile.each([&](int i, int j, int c) {
        const Vec<Real> z = tile.at[i][j] + load(inputs + ids[i] * inputs_stride + c);
        tile.at[i][j] = Activation::template of<VectorMath<Real>>(z);
      });
    });
    tile.store_rows(h, stride);
    if constexpr (std::is_same_v<Operand, Pair>) tile.store_rows(after, stride);
  }
};

// parts = h W_hq over some of the hidden units, for some sequences and one panel of the vocabulary.
template <class Real>
struct LogitTile {
  const Real* h;
  int64_t units, h_stride;
  const Real* W_hq;  // the packed panel, from the first of the hidden units on
  Real* parts;
  int64_t parts_stride;

  template <int Rows, int Vectors>
  void run() const {
    Tile<Real, Rows, Vectors> tile;
    tile.clear();
    tile.multiply(units, h, h_stride, W_hq);
    tile.store_rows(parts, parts_stride);
  }
};

// Operand: as what h and W_hh are multiplied, Real itself or pairs of bfloat16.
template <class Real, class Operand>
class Decoder {
  static constexpr bool kRounds = std::is_same_v<Operand, Pair>;

 public:
  explicit Decoder(const DecodeArgs<Real>& args)
      : args_(args),
        width_(padded<Real>(args.H)),
        h_stride_(with_gap<Real>(width_)),
        logits_width_(padded<Real>(args.V)),
        column_workers_(args.B == 1 ? workers_for_one_sequence(args.H) : 1),
        row_workers_(args.B < num_threads() ? args.B : num_threads()),
        hidden_panels_(Panels::of<Real>(args.H, column_workers_, widest_panel())),
        logit_panels_(Panels::of<Real>(args.V, 1, widest_panel())) {
    lay_out();
    memory_.allocate();
    lay_out();
    for (int64_t worker = 0; worker < workers(); ++worker)
      part_of_worker_[worker] = part_of(worker);
  }

  void run() {
    run_team(workers(), [this](Team& team) {
      team.each([&](int64_t worker) { load_arguments(worker); });
      team.sync();
      for (int64_t step = 0; step < args_.steps; ++step) {
        team.each([&](int64_t worker) { advance(worker, step); });
        if (column_workers_ > 1) team.sync();
        team.each([&](int64_t worker) { choose(worker, step); });
      }
      team.each([&](int64_t worker) { store_last(worker); });
    });
  }

 private:
  static int64_t workers_for_one_sequence(int64_t H) {
    int64_t workers =
        depth_of<Operand>(H) * H * static_cast<int64_t>(sizeof(Operand)) / kFewestBytesPerWorker;
    if (workers > kMostColumnWorkers) workers = kMostColumnWorkers;
    if (workers > num_threads()) workers = num_threads();
    return workers < 1 ? 1 : workers;
  }

  // A worker's share of the sequences and, within it, of the hidden units. Computed once: the
  // divisions are 100 cycles, a sixth of a step at H = 64.
  struct Part {
    int64_t column_worker;
    Share rows, panels;
  };
  Part part_of(int64_t worker) const {
    const int64_t column_worker = worker % column_workers_;
    return {column_worker, share_of(args_.B, worker / column_workers_, row_workers_),
            share_of(hidden_panels_.count, column_worker, column_workers_)};
  }
  int64_t workers() const { return row_workers_ * column_workers_; }
  int64_t column_worker(int64_t worker) const { return part_of_worker_[worker].column_worker; }
  Share rows_of(int64_t worker) const { return part_of_worker_[worker].rows; }
  Share panels_of(int64_t worker) const { return part_of_worker_[worker].panels; }

  int64_t widest_panel() const { return args_.B == 1 ? kVectorsOfOne : kTileVectors; }

  template <class Task>
  void run_rows(int rows, int vectors, const Task& task) const {
    if (args_.B == 1) {
      run_vectors<1, kVectorsOfOne>(vectors, task);
    } else {
      run_sizes<kRows, kTileVectors>(rows, vectors, task);
    }
  }

  void lay_out() {
    memory_.take(part_of_worker_, workers());
    memory_.take(inputs_, args_.V * width_);
    memory_.take(W_hh_, depth_of<Operand>(args_.H) * width_);
    memory_.take(W_hq_, args_.H * logits_width_);
    memory_.take(b_q_, logits_width_);
    for (auto& h : h_) memory_.take(h, args_.B * h_stride_);
    for (auto& rounded : rounded_) memory_.take(rounded, kRounds ? args_.B * h_stride_ : 0);
    for (auto& parts : parts_) memory_.take(parts, column_workers_ * args_.B * logits_width_);
    memory_.take(logits_, workers() * logits_width_);
    memory_.take(ids_, column_workers_ * args_.B);
  }

  int64_t* ids(int64_t worker, int64_t row) { return ids_ + column_worker(worker) * args_.B + row; }
  Real* h_at(int64_t step, int64_t row) { return h_[step % 2] + row * h_stride_; }
  Operand* operands_at(int64_t step, int64_t row) {
    if constexpr (kRounds) {
      return rounded_[step % 2] + row * h_stride_;
    } else {
      return h_at(step, row);
    }
  }
  Real* parts_at(int64_t step, int64_t column_worker, int64_t row) {
    return parts_[step % 2] + (column_worker * args_.B + row) * logits_width_;
  }

  // Packs a share of the weights; the state of the worker's own sequences.
  void load_arguments(int64_t worker) {
    pack_share(args_.W_hh, args_.H, hidden_panels_, worker, W_hh_);
    pack_share(args_.W_hq, args_.V, logit_panels_, worker, W_hq_);
    const Share classes = share_of(args_.V, worker, workers());
    for (int64_t v = classes.begin; v < classes.end; ++v) {
      load_padded(args_.W_xh + v * args_.H, args_.b_h, args_.H, Real{0}, inputs_ + v * width_);
    }
    if (worker == 0) {
      load_padded(args_.b_q, nullptr, args_.V, static_cast<Real>(-INFINITY), b_q_);
    }
    const Share rows = rows_of(worker);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      *ids(worker, row) = args_.first[row];
      if (column_worker(worker) == 0) {
        load_padded(args_.h0 + row * args_.H, nullptr, args_.H, Real{0}, h_at(0, row));
        if constexpr (kRounds) round_state(row);
      }
    }
  }

  void round_state(int64_t row) {
    for (int64_t c = 0; c < width_; c += kLanes<Real>) {
      store_pairs(operands_at(0, row) + c / 2, load(h_at(0, row) + c));
    }
  }

  template <class Packed>
  void pack_share(const Real* matrix, int64_t stride, const Panels& panels, int64_t worker,
                  Packed* packed) {
    const Share share = share_of(panels.count, worker, workers());
    for (int64_t p = share.begin; p < share.end; ++p) {
      pack(matrix, stride, args_.H, Panel(panels, p), packed);
    }
  }

  // out = a + b, padded to whole vectors.
  static void load_padded(const Real* a, const Real* b, int64_t count, Real padding, Real* out) {
    for (int64_t i = 0; i < count; ++i) out[i] = b == nullptr ? a[i] : a[i] + b[i];
    for (int64_t i = count; i < padded<Real>(count); ++i) out[i] = padding;
  }

  void advance(int64_t worker, int64_t step) {
    const Share rows = rows_of(worker), panels = panels_of(worker);
    const int64_t depth = depth_of<Operand>(args_.H);
    for (int64_t row = rows.begin; row < rows.end; row += kRows) {
      const int count = rows.end - row < kRows ? static_cast<int>(rows.end - row) : kRows;
      // One sequence: every second step goes through W_hh backwards, and finds in the L1 cache what
      // the one before has read last (H = 256: 5 % of a step, H = 512: 2 %).
      const bool backwards = args_.B == 1 && step % 2 != 0;
      for (int64_t i = panels.begin; i < panels.end; ++i) {
        const Panel panel(hidden_panels_, backwards ? panels.begin + panels.end - 1 - i : i);
        run_rows(count, panel.vectors,
                 HiddenTile<Real, Operand>{
                     args_.cell, inputs_ + panel.column, width_, ids(worker, row),
                     operands_at(step, row), depth, h_stride_, W_hh_ + depth * panel.column,
                     operands_at(step + 1, row) + panel.column / (kRounds ? 2 : 1),
                     h_at(step + 1, row) + panel.column, backwards});
      }
      if constexpr (kRounds) clear_half_pairs(step + 1, row, count, panels);
      add_logits(worker, step, row, count, panels);
    }
  }

  // By the worker that has stored them.
  void clear_half_pairs(int64_t step, int64_t row, int count, Share panels) {
    if (panels.begin == panels.end || panels.end != hidden_panels_.count) return;
    for (int i = 0; i < count; ++i) clear_half_pair(operands_at(step, row + i), args_.H);
  }

  // The part of the logits that comes from the hidden units of these panels.
  void add_logits(int64_t worker, int64_t step, int64_t row, int count, Share panels) {
    const int64_t first = hidden_panels_.first(panels.begin) * kLanes<Real>;
    const int64_t end = hidden_panels_.first(panels.end) * kLanes<Real>;
    const int64_t units = (end < args_.H ? end : args_.H) - first;
    for (int64_t p = 0; p < logit_panels_.count; ++p) {
      const Panel panel(logit_panels_, p);
      const int64_t panel_width = panel.vectors * kLanes<Real>;
      run_rows(count, panel.vectors,
               LogitTile<Real>{h_at(step + 1, row) + first, units, h_stride_,
                               W_hq_ + args_.H * panel.column + first * panel_width,
                               parts_at(step, column_worker(worker), row) + panel.column,
                               logits_width_});
    }
  }

  void choose(int64_t worker, int64_t step) {
    const Share rows = rows_of(worker);
    Real* logits = logits_ + worker * logits_width_;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (int64_t v = 0; v < logits_width_; v += kLanes<Real>) {
        Vec<Real> sum = load(b_q_ + v);
        for (int64_t c = 0; c < column_workers_; ++c) sum += load(parts_at(step, c, row) + v);
        store(logits + v, sum);
      }
      hide_padding(logits);
      const int64_t at = step * args_.B + row;
      const int64_t id = args_.uniforms == nullptr ? largest(logits, logits_width_)
                                                   : sample(logits, args_.V, logits_width_,
                                                            args_.temperature, args_.uniforms[at]);
      *ids(worker, row) = id;
      if (column_worker(worker) == 0) args_.ids[at] = id;
    }
  }

  // Puts the last lanes, of classes that do not exist, below all others: an infinite state times
  // their weights, 0, is NaN.
  void hide_padding(Real* logits) const {
    Real* last = logits + logits_width_ - kLanes<Real>;
    const int64_t exist = args_.V - (logits_width_ - kLanes<Real>);
    const Vec<Real> below = splat(static_cast<Real>(-INFINITY));
    store(last, lane_numbers<Real>() < static_cast<Real>(exist) ? load(last) : below);
  }

  void store_last(int64_t worker) {
    if (column_worker(worker) != 0) return;
    const Share rows = rows_of(worker);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      std::memcpy(args_.h_last + row * args_.H, h_at(args_.steps, row),
                  static_cast<size_t>(args_.H) * sizeof(Real));
    }
  }

  const DecodeArgs<Real>& args_;
  const int64_t width_, h_stride_, logits_width_;
  const int64_t column_workers_, row_workers_;
  const Panels hidden_panels_, logit_panels_;
  Workspace memory_;
  Part* part_of_worker_;  // [worker]
  Real *inputs_, *W_hq_, *b_q_;
  Operand* W_hh_;
  // Two of each, in turn: a worker may write the next step's while another still reads this step's.
  Real *h_[2], *parts_[2];
  Operand* rounded_[2];
  Real* logits_;  // [worker]
  int64_t* ids_;  // [column worker][B]: each of them makes the choice for itself
};

}  // namespace rnnfast::RNNFAST_ISA
