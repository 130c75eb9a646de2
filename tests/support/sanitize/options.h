// The layer's kernels with their options: transposed weights, time backwards, sequences of
// different lengths, both directions, resets, a leak.
#pragma once

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "kernels.h"
#include "naive_options.h"

namespace rnnfast {

class OptionsCase {
 public:
  OptionsCase(const naive::Sizes& n, unsigned seed) : n_(n), random_(seed) {}

  // All of them drawn at random, so that in time each meets each.
  void run() {
    if (n_.B == 0) return;
    const bool both = flip(), leaks = flip();
    std::vector<naive::Recurrence> directions;
    const naive::Options options = draw();
    for (int i = 0; i < (both ? 2 : 1); ++i) {
      naive::Recurrence one;
      one.n = n_;
      one.options = options;
      if (both) one.options.reverse = i == 1;
      if (leaks) one.options.leak = numbers(n_.H, [this] { return 0.5 + uniform() / 2; });
      const int64_t rows = one.num_rows();
      one.x = around_0(rows * n_.H), one.grad_hs = around_0(rows * n_.H);
      one.W = around_0(n_.H * n_.H), one.b = around_0(n_.H);
      for (double& weight : one.W) weight = rounded(weight / std::sqrt(double(n_.H)));
      one.h0 = around_0(n_.B * n_.H), one.grad_last = around_0(n_.B * n_.H);
      one.run();
      directions.push_back(one);
    }
    run_as<float>(kernels().f32, directions);
    run_as<double>(kernels().f64, directions);
  }

 private:
  using Values = naive::Values;
  using Directions = std::vector<naive::Recurrence>;

  bool flip() { return random_() / 64 % 2 == 1; }
  double uniform() { return std::uniform_real_distribution<double>(-1, 1)(random_); }
  static double rounded(double value) { return static_cast<float>(value); }
  Values numbers(int64_t count, const std::function<double()>& next) {
    Values values(count);
    for (double& value : values) value = rounded(next());
    return values;
  }
  Values around_0(int64_t count) {
    return numbers(count, [this] { return uniform(); });
  }

  naive::Options draw() {
    naive::Options options{flip(), flip()};
    options.lengths.assign(n_.B, n_.T);
    is_ragged_ = flip();
    if (is_ragged_) {
      for (int64_t i = 1; i < n_.B; ++i) {
        const auto fewer = static_cast<int64_t>(random_() / 64 % 3);
        options.lengths[i] = std::max<int64_t>(1, options.lengths[i - 1] - fewer);
      }
    }
    options.resets_to_h0 = flip();
    if (flip()) {
      options.resets.resize(n_.T * n_.B);
      for (uint8_t& each : options.resets) each = random_() / 64 % 3 == 0;
    }
    return options;
  }

  // [rows, H] of each direction as [rows, directions, H]
  static Values side_by_side(const Directions& all, Values naive::Recurrence::* of) {
    const auto H = static_cast<size_t>(all[0].n.H);
    Values out;
    for (size_t row = 0; row < (all[0].*of).size(); row += H) {
      for (const naive::Recurrence& one : all) {
        const auto begin = (one.*of).begin() + static_cast<int64_t>(row);
        out.insert(out.end(), begin, begin + static_cast<int64_t>(H));
      }
    }
    return out;
  }
  static Values behind(const Directions& all, Values naive::Recurrence::* of) {
    Values out;
    for (const naive::Recurrence& one : all)
      out.insert(out.end(), (one.*of).begin(), (one.*of).end());
    return out;
  }

  RnnOptions options_of(const Directions& all) {
    const naive::Options& options = all[0].options;
    batch_sizes_.assign(n_.T, 0);
    for (const int64_t length : options.lengths) {
      for (int64_t t = 0; t < length; ++t) ++batch_sizes_[t];
    }
    resets_ = options.resets;
    return {.transposed = options.transposed,
            .reverse = options.reverse,
            .batch_sizes = is_ragged_ ? batch_sizes_.data() : nullptr,
            .directions = static_cast<int64_t>(all.size()),
            .resets = resets_.empty() ? nullptr : resets_.data(),
            .resets_to_h0 = options.resets_to_h0};
  }

  template <class Real>
  void run_as(const KernelsOf<Real>& kernels, const Directions& all) {
    using naive::Recurrence;
    const auto rows = [&](Values Recurrence::* of) { return Buffer<Real>(side_by_side(all, of)); };
    const auto each = [&](Values Recurrence::* of) { return Buffer<Real>(behind(all, of)); };
    const bool leaks = !all[0].options.leak.empty();
    Values leak;
    for (const Recurrence& one : all)
      leak.insert(leak.end(), one.options.leak.begin(), one.options.leak.end());
    Buffer<Real> leak_in(leak), x = rows(&Recurrence::x), W = each(&Recurrence::W),
                                b = each(&Recurrence::b), h0 = each(&Recurrence::h0),
                                hs_in = rows(&Recurrence::hs), saved_in = rows(&Recurrence::saved),
                                grad_hs = rows(&Recurrence::grad_hs),
                                grad_last = each(&Recurrence::grad_last);
    Buffer<Real> hs(hs_in.size()), last(h0.size()), saved(leaks ? hs_in.size() : 0);
    Buffer<Real> grad_x(x.size()), grad_W(W.size()), grad_b(b.size()), grad_h0(h0.size()),
        grad_leak(leak_in.size());

    RnnForwardArgs<Real> forward{};
    forward.T = n_.T, forward.B = n_.B, forward.H = n_.H;
    forward.x = x.data(), forward.W_hh = W.data(), forward.b_h = b.data(), forward.h0 = h0.data();
    forward.cell = (leaks ? 2 : 0) + (n_.relu ? 1 : 0);
    forward.hs = hs.data(), forward.h_last = last.data();
    forward.options = options_of(all);
    if (leaks) forward.leak = leak_in.data(), forward.saved = saved.data();
    kernels.rnn_forward(forward);
    expect(n_, "hs with options", hs, side_by_side(all, &Recurrence::hs));
    expect(n_, "h_last with options", last, behind(all, &Recurrence::last));
    if (leaks) expect(n_, "saved", saved, side_by_side(all, &Recurrence::saved));

    RnnBackwardArgs<Real> backward{};
    backward.T = n_.T, backward.B = n_.B, backward.H = n_.H, backward.cell = forward.cell;
    backward.grad_hs = grad_hs.data(), backward.grad_h_last = grad_last.data();
    backward.hs = hs_in.data(), backward.W_hh = W.data(), backward.h0 = h0.data();
    backward.grad_x = grad_x.data(), backward.grad_W_hh = grad_W.data();
    backward.grad_b_h = grad_b.data(), backward.grad_h0 = grad_h0.data();
    backward.options = forward.options;
    if (leaks) {
      backward.leak = leak_in.data(), backward.saved = saved_in.data();
      backward.grad_leak = grad_leak.data();
    }
    kernels.rnn_backward(backward);
    expect(n_, "grad_x with options", grad_x, side_by_side(all, &Recurrence::dz));
    expect(n_, "grad_W_hh with options", grad_W, behind(all, &Recurrence::grad_W));
    expect(n_, "grad_b_h with options", grad_b, behind(all, &Recurrence::grad_b));
    expect(n_, "grad_h0 with options", grad_h0, behind(all, &Recurrence::grad_h0));
    if (leaks) expect(n_, "grad_leak", grad_leak, behind(all, &Recurrence::grad_leak));
  }

  const naive::Sizes n_;
  std::minstd_rand random_;
  bool is_ragged_ = false;
  std::vector<int64_t> batch_sizes_;
  std::vector<uint8_t> resets_;
};

}  // namespace rnnfast
