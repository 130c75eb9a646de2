// The operators that train: the loss with its gradients, and the whole step.
#include <utility>

#include "kernels.h"
#include "ops/recurrence_arguments.h"
#include "ops/schemas.h"
#include "torch/arguments.h"
#include "torch/checks.h"
#include "training_arguments.h"

namespace rnnfast {

namespace {

template <class Real>
CrossEntropyArgs<Real> arguments_of(const Sizes& n, const Classes& ids, const Classes& targets,
                                    const Params& params, const Tensor& h0, int64_t cell) {
  CrossEntropyArgs<Real> args{};
  args.T = n.T;
  args.B = n.B;
  args.H = n.H;
  args.V = n.V;
  args.ids = ids.values;
  args.ids_stride_t = ids.stride_t;
  args.ids_stride_b = ids.stride_b;
  args.targets = targets.values;
  args.targets_stride_t = targets.stride_t;
  args.targets_stride_b = targets.stride_b;
  args.W_xh = params[0]->data<Real>();
  args.W_hh = params[1]->data<Real>();
  args.b_h = params[2]->data<Real>();
  args.W_hq = params[3]->data<Real>();
  args.b_q = params[4]->data<Real>();
  args.h0 = h0.data<Real>();
  args.cell = cell_of(cell);
  return args;
}

template <class Real>
void point_at_gradients(CrossEntropyArgs<Real>& args, const Params& g) {
  args.grad_W_xh = g[0]->data<Real>();
  args.grad_W_hh = g[1]->data<Real>();
  args.grad_b_h = g[2]->data<Real>();
  args.grad_W_hq = g[3]->data<Real>();
  args.grad_b_q = g[4]->data<Real>();
}

template <class Real>
void compute_loss(CrossEntropyArgs<Real> args, const Tensor& loss, const Tensor& h_last) {
  double value;
  args.loss = &value;
  args.h_last = h_last.data<Real>();
  kernels_of<Real>().rnn_cross_entropy(args);
  *loss.data<Real>() = static_cast<Real>(value);
}

// The tensors that training steps change, and how.
struct Training {
  Params w, g;
  const Tensor& h;
  double lr, max_norm;
  int64_t cell;

  // Of the sizes of any minibatch, and in memory of their own.
  void require_fit(const Sizes& n) const {
    require_params(n, "params: ", w);
    require_params(n, "grads: ", g);
    require_plain({w[0], w[1], w[2], w[3], w[4], g[0], g[1], g[2], g[3], g[4], &h});
  }
};

// A minibatch as the kernel takes it: checked, and of the state's batch size.
struct Minibatch {
  Sizes n;
  Classes ids, targets;

  Minibatch(const Tensor& ids, const Tensor& targets, Axes axes, const Training& training)
      : n(sizes_of(ids, *training.w[0], axes)) {
    require(training.h, "h", n.dtype, "[B, H]", {n.B, n.H});
    this->ids = Classes(ids, "ids", n.T, n.B, n.V, axes);
    this->targets = Classes(targets, "targets", n.T, n.B, n.V, axes);
  }
};

// The loss before the step.
template <class Real>
Real take_step(const Training& training, const Minibatch& minibatch, bool keep_grads) {
  const Params& w = training.w;
  double loss;
  auto args = arguments_of<Real>(minibatch.n, minibatch.ids, minibatch.targets, w, training.h,
                                 training.cell);
  args.loss = &loss;
  args.h_last = training.h.data<Real>();
  point_at_gradients(args, training.g);
  kernels_of<Real>().train_step({
      .cross_entropy = args,
      .W_xh = w[0]->data<Real>(),
      .W_hh = w[1]->data<Real>(),
      .b_h = w[2]->data<Real>(),
      .W_hq = w[3]->data<Real>(),
      .b_q = w[4]->data<Real>(),
      .lr = training.lr,
      .max_norm = training.max_norm,
      .keeps_gradients = keep_grads,
  });
  return static_cast<Real>(loss);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rnn_cross_entropy(
    Tensor ids, Tensor targets, Tensor W_xh, Tensor W_hh, Tensor b_h, Tensor W_hq, Tensor b_q,
    Tensor h0, int64_t cell, bool need_grads, bool need_h0) {
  const Sizes n = sizes_of(ids, W_xh);
  const Params params = {&W_xh, &W_hh, &b_h, &W_hq, &b_q};
  require_params(n, "", params);
  require(h0, "h0", n.dtype, "[B, H]", {n.B, n.H});
  const Classes inputs(ids, "ids", n.T, n.B, n.V), outputs(targets, "targets", n.T, n.B, n.V);
  make_all_contiguous(W_xh, W_hh, b_h, W_hq, b_q, h0);

  Tensor loss = empty({}, n.dtype), h_last = empty({n.B, n.H}, n.dtype);
  OptionalOutput grad_W_xh(need_grads, {n.V, n.H}, n.dtype);
  OptionalOutput grad_W_hh(need_grads, {n.H, n.H}, n.dtype);
  OptionalOutput grad_b_h(need_grads, {n.H}, n.dtype);
  OptionalOutput grad_W_hq(need_grads, {n.H, n.V}, n.dtype);
  OptionalOutput grad_b_q(need_grads, {n.V}, n.dtype);
  OptionalOutput grad_h0(need_grads && need_h0, {n.B, n.H}, n.dtype);
  with_real(n.dtype, [&]<class Real>() {
    auto args = arguments_of<Real>(n, inputs, outputs, params, h0, cell);
    if (need_grads) {
      point_at_gradients(args, {&grad_W_xh.tensor, &grad_W_hh.tensor, &grad_b_h.tensor,
                                &grad_W_hq.tensor, &grad_b_q.tensor});
    }
    args.grad_h0 = grad_h0.data<Real>();
    compute_loss(args, loss, h_last);
  });
  return {std::move(loss),
          std::move(h_last),
          std::move(grad_W_xh.tensor),
          std::move(grad_W_hh.tensor),
          std::move(grad_b_h.tensor),
          std::move(grad_W_hq.tensor),
          std::move(grad_b_q.tensor),
          std::move(grad_h0.tensor)};
}

std::tuple<Tensor, Tensor> rnn_cross_entropy_grads(Tensor ids, Tensor targets,
                                                   std::vector<Tensor> params,
                                                   std::vector<Tensor> grads, Tensor h0,
                                                   int64_t cell) {
  const Params w = five_of(params, "params"), g = five_of(grads, "grads");
  const Sizes n = sizes_of(ids, *w[0]);
  require_params(n, "params: ", w);
  require_params(n, "grads: ", g);
  require(h0, "h0", n.dtype, "[B, H]", {n.B, n.H});
  require_plain({w[0], w[1], w[2], w[3], w[4], g[0], g[1], g[2], g[3], g[4]});
  const Classes inputs(ids, "ids", n.T, n.B, n.V), outputs(targets, "targets", n.T, n.B, n.V);
  make_contiguous(h0);

  Tensor loss = empty({}, n.dtype), h_last = empty({n.B, n.H}, n.dtype);
  with_real(n.dtype, [&]<class Real>() {
    auto args = arguments_of<Real>(n, inputs, outputs, w, h0, cell);
    point_at_gradients(args, g);
    args.adds_gradients = true;
    compute_loss(args, loss, h_last);
  });
  return {std::move(loss), std::move(h_last)};
}

Tensor train_steps(std::vector<Tensor> ids, std::vector<Tensor> targets, std::vector<Tensor> params,
                   std::vector<Tensor> grads, Tensor h, double lr, double max_norm, int64_t cell,
                   bool keep_grads, bool steps_first) {
  require_pairs(ids, targets);
  // Whatever is refused is refused before the first step.
  const Training training{
      five_of(params, "params"), five_of(grads, "grads"), h, lr, max_norm, cell};
  const Axes axes = steps_first ? Axes::kStepsFirst : Axes::kBatchFirst;
  std::vector<Minibatch> minibatches;
  for (size_t i = 0; i < ids.size(); ++i)
    minibatches.emplace_back(ids[i], targets[i], axes, training);
  training.require_fit(minibatches[0].n);

  Tensor losses = empty({static_cast<int64_t>(ids.size())}, params[0].dtype());
  with_real(losses.dtype(), [&]<class Real>() {
    Real* loss = losses.data<Real>();
    for (const Minibatch& each : minibatches)
      *loss++ = take_step<Real>(training, each, keep_grads && &each == &minibatches.back());
  });
  return losses;
}

}  // namespace rnnfast
