// The operators that train, on CUDA tensors: a few launches, no synchronisation, all memory from
// torch's allocator, so that a step can be captured in a CUDA graph.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "cuda/device/params.h"
#include "cuda/device/readout_shape.h"
#include "cuda/host/training_choice.h"
#include "cuda_clip.h"
#include "cuda_gradients.h"
#include "cuda_part_sums.h"
#include "cuda_sums.h"
#include "gradients.h"
#include "ops/cuda_recurrence.h"
#include "ops/recurrence_arguments.h"
#include "torch/aten.h"
#include "training_arguments.h"

namespace rnnfast::cuda {

namespace {

// A longer row of logits is shared by the eight warps of a block.
constexpr int64_t kMostClassesPerWarp = 1024;

// With 51 KB of shared memory each, for up to 32 classes. More would only leave more parts.
constexpr int64_t kReadoutsPerMultiprocessor = 2;

void require_all_here(const Call& call, const std::string& of, const Params& params) {
  const char* names[] = {"W_xh", "W_hh", "b_h", "W_hq", "b_q"};
  for (size_t i = 0; i < params.size(); ++i) {
    call.require_here(*params[i], (of + names[i]).c_str());
  }
}

// The network from its inputs to the loss, and back. All tensors are checked; all but ids and
// targets are contiguous. What is left in parts is added up by `sums`.
class Network {
 public:
  Network(const Call& call, const Sizes& n, Tensor ids, const Tensor& targets, const Params& params,
          const Tensor& h0, int cell, const Tensor& loss, PartSums& sums)
      : call_(call),
        loss_(loss),
        sums_(sums),
        n_(n),
        direction_{n.T, n.B, n.H},
        columns_(readout_columns(n.V, real_bytes(n.dtype), call.device())),
        rows_(n.T * n.B),
        ids_(std::move(ids)),
        targets_(targets),
        W_xh_(*params[0]),
        W_hh_(*params[1]),
        b_h_(same(*params[2])),
        W_hq_(*params[3]),
        b_q_(*params[4]),
        h0_(h0),
        cell_(cell),
        hs_(call.empty({n.T, n.B, n.H}, n.dtype)),
        logits_(call.empty({rows_, n.V}, n.dtype)),
        losses_(call.empty({columns_ > 0 ? 0 : rows_}, n.dtype)) {}

  // h_last [B, H], which must not be h0's memory, the loss and, where there are gradients to be
  // made, those of the readout.
  void forward(const Tensor& h_last, const Params* grads) {
    cuda::forward(call_, {direction_, n_.V, W_xh_, ids_, W_hh_, b_h_, h0_, cell_, hs_, h_last});
    if (grads != nullptr) grad_hs_ = call_.empty({n_.T, n_.B, n_.H}, n_.dtype);
    if (columns_ > 0) {
      read_out(grads != nullptr ? (*grads)[4] : nullptr);
    } else {
      multiply(matrix(hs_, rows_, n_.H), W_hq_, logits_);
      cross_entropy(grads != nullptr);
      if (grads == nullptr) sum_losses();
    }
  }

  // All gradients; grad_h0 may be null. After forward() with gradients.
  void backward(const Params& grads, const Tensor* grad_h0) {
    if (columns_ == 0) {
      multiply(logits_, transposed(W_hq_), matrix(*grad_hs_, rows_, n_.H));
    }
    const Tensor dz = call_.empty({n_.T, n_.B, n_.H}, n_.dtype);
    const std::optional<Tensor> no_grad_h_last;
    cuda::backward(call_,
                   {direction_, grad_hs_, no_grad_h_last, hs_, W_hh_, h0_, cell_, dz, grad_h0});
    Gradients gradients(call_, rows_, n_.dtype, sums_);
    gradients.add_recurrence(direction_, {h0_, hs_}, dz, false, *grads[1]);
    if (columns_ > 0) {
      gradients.add_table(dz, *ids_, *grads[0]);
      gradients.add_sum(dz, *grads[2]);
      gradients.add_product(rows_of(hs_, n_.H), rows_of(logits_, n_.V), same(*grads[3]));
    } else {
      sum_by_several(dz, grads);
    }
    gradients.run();
  }

 private:
  // What the kernels of the loss are told alike.
  template <class LossParams>
  void set_rows(LossParams& params) const {
    params.N = rows_;
    params.V = n_.V;
    params.B = n_.B;
    params.targets = targets_.data<const long long>();
    params.targets_stride_t = targets_.stride(0);
    params.targets_stride_b = targets_.stride(1);
    params.error = call_.error();
  }

  void read_out(const Tensor* grad_b_q) {
    const ReadoutShape shape{columns_, real_bytes(n_.dtype)};
    const int64_t groups = ceil_div(rows_, shape.kRows);
    const int64_t most = limits_of(call_.device()).multiprocessors * kReadoutsPerMultiprocessor;
    const int64_t blocks = std::min(groups, most);
    ReadoutParams params{};
    set_rows(params);
    params.H = n_.H;
    params.hs = hs_.data<void>();
    params.W_hq = W_hq_.data<void>();
    params.b_q = b_q_.data<void>();
    params.losses = sums_.parts_of(loss_, blocks, false);
    if (grad_b_q != nullptr) {
      params.grad_logits = logits_.data<void>();
      params.grad_hs = grad_hs_->data<void>();
      params.grad_b_q = sums_.parts_of(*grad_b_q, blocks);
    }
    const std::string columns = " -DRF_COLUMNS=" + std::to_string(columns_);
    launch("readout", "readout", real_option(n_.dtype) + columns,
           {static_cast<unsigned>(blocks), 1, shape.kThreads,
            static_cast<unsigned>(shape.shared_bytes())},
           &params, call_.device(), call_.stream());
  }

  void cross_entropy(bool wants_gradient) {
    const int64_t warps = n_.V <= kMostClassesPerWarp ? 1 : 8;
    CrossEntropyParams params{};
    set_rows(params);
    params.bias = b_q_.data<void>();
    params.logits = logits_.data<void>();
    params.losses = losses_.data<void>();
    params.wants_gradient = wants_gradient;
    const std::string options = real_option(n_.dtype) + " -DRF_ROW_WARPS=" + std::to_string(warps);
    call_.launch_over(rows_ * warps * 32, "cross_entropy", "cross_entropy", options, params, 64);
  }

  void sum_by_several(const Tensor& dz, const Params& grads) {
    multiply(transposed(matrix(hs_, rows_, n_.H)), logits_, *grads[3]);
    RowSumJobs sums(call_, n_.dtype);
    sums.add(dz, n_.H, *ids_, n_.V, *grads[0]);
    sums.add(dz, rows_, n_.H, *grads[2]);
    sums.add(logits_, rows_, n_.V, *grads[4]);
    sums.add(losses_, rows_, 1, loss_);
    sums.run();
    for (const int i : {0, 2, 3, 4}) sums_.add_to_norm(*grads[i]);
  }

  void sum_losses() {
    RowSumJobs sums(call_, n_.dtype);
    sums.add(losses_, rows_, 1, loss_);
    sums.run();
  }

  const Call& call_;
  const Tensor& loss_;  // 0-dim
  PartSums& sums_;
  const Sizes n_;
  const Direction direction_;
  const int columns_;  // of readout.cu, or 0
  const int64_t rows_;
  const std::optional<Tensor> ids_;
  const Tensor &targets_, &W_xh_, &W_hh_;
  const std::optional<Tensor> b_h_;
  const Tensor &W_hq_, &b_q_, &h0_;
  const int cell_;
  const Tensor hs_;                // [T, B, H]
  const Tensor logits_, losses_;   // [T B, V], which become their gradient, and [T B]
  std::optional<Tensor> grad_hs_;  // [T, B, H]
};

void require_classes(const Call& call, const Sizes& n, const Tensor& ids, const Tensor& targets) {
  call.require(ids, "ids", aoti_torch_dtype_int64(), "[T, B]", {n.T, n.B});
  call.require(targets, "targets", aoti_torch_dtype_int64(), "[T, B]", {n.T, n.B});
  require_at_least(n.V, "V, the number of classes,", 1);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rnn_cross_entropy(
    Tensor ids, Tensor targets, Tensor W_xh, Tensor W_hh, Tensor b_h, Tensor W_hq, Tensor b_q,
    Tensor h0, int64_t cell, bool need_grads, bool need_h0) {
  const Call call(W_xh, "W_xh");
  const Sizes n = sizes_of(ids, W_xh);
  const Params params = {&W_xh, &W_hh, &b_h, &W_hq, &b_q};
  require_params(n, "", params);
  require_all_here(call, "", params);
  call.require(h0, "h0", n.dtype, "[B, H]", {n.B, n.H});
  require_classes(call, n, ids, targets);
  make_all_contiguous(W_xh, W_hh, b_h, W_hq, b_q, h0);

  Tensor loss = call.empty({}, n.dtype), h_last = call.empty({n.B, n.H}, n.dtype);
  const auto grad = [&](bool wanted, std::initializer_list<int64_t> sizes) {
    return need_grads && wanted ? call.empty(sizes, n.dtype) : call.empty({0}, n.dtype);
  };
  Tensor grad_W_xh = grad(true, {n.V, n.H}), grad_W_hh = grad(true, {n.H, n.H});
  Tensor grad_b_h = grad(true, {n.H}), grad_W_hq = grad(true, {n.H, n.V});
  Tensor grad_b_q = grad(true, {n.V}), grad_h0 = grad(need_h0, {n.B, n.H});
  const Params grads = {&grad_W_xh, &grad_W_hh, &grad_b_h, &grad_W_hq, &grad_b_q};
  PartSums sums(call, n.dtype);
  Network network(call, n, std::move(ids), targets, params, h0, cell_of(cell), loss, sums);
  network.forward(h_last, need_grads ? &grads : nullptr);
  if (need_grads) network.backward(grads, need_h0 ? &grad_h0 : nullptr);
  sums.run(false);
  return {std::move(loss),     std::move(h_last),    std::move(grad_W_xh), std::move(grad_W_hh),
          std::move(grad_b_h), std::move(grad_W_hq), std::move(grad_b_q),  std::move(grad_h0)};
}

namespace {

// One step on ids and targets [T, B]; its loss (0-dim) is written to `loss`.
void take_step(const Call& call, Tensor ids, const Tensor& targets, const Params& w,
               const Params& g, const Tensor& h, double lr, double max_norm, int cell,
               const Tensor& loss) {
  const Sizes n = sizes_of(ids, *w[0]);
  require_params(n, "params: ", w);
  require_params(n, "grads: ", g);
  require_all_here(call, "params: ", w);
  require_all_here(call, "grads: ", g);
  call.require(h, "h", n.dtype, "[B, H]", {n.B, n.H});
  require_plain({w[0], w[1], w[2], w[3], w[4], g[0], g[1], g[2], g[3], g[4], &h});
  require_classes(call, n, ids, targets);

  PartSums sums(call, n.dtype);
  Network network(call, n, std::move(ids), targets, w, h, cell, loss, sums);
  const Tensor h_last = call.empty({n.B, n.H}, n.dtype);
  network.forward(h_last, &g);
  network.backward(g, nullptr);
  sums.copy(h_last, h);
  const std::optional<Tensor> squares = sums.run(!std::isinf(max_norm));
  ClipNorm clip(call);
  for (size_t i = 0; i < w.size(); ++i) clip.add(*g[i], w[i]);
  clip.step(squares, max_norm, lr);
}

}  // namespace

// keep_grads is of no use here: the clip takes the gradients from memory anyway.
Tensor train_steps(std::vector<Tensor> ids, std::vector<Tensor> targets, std::vector<Tensor> params,
                   std::vector<Tensor> grads, Tensor h, double lr, double max_norm, int64_t cell,
                   bool /* keep_grads */, bool steps_first) {
  require_pairs(ids, targets);
  const Call call(h, "h");
  const Params w = five_of(params, "params"), g = five_of(grads, "grads");
  const char* shape = steps_first ? "[T, B]" : "[B, T]";
  Tensor losses = call.empty({static_cast<int64_t>(ids.size())}, h.dtype());
  for (size_t i = 0; i < ids.size(); ++i) {
    require_rank(ids[i], "ids", 2, shape);
    require_rank(targets[i], "targets", 2, shape);
    if (!steps_first) {
      ids[i] = transposed(ids[i]);
      targets[i] = transposed(targets[i]);
    }
    take_step(call, std::move(ids[i]), targets[i], w, g, h, lr, max_norm, cell_of(cell),
              view(losses, {}, {}, static_cast<int64_t>(i)));
  }
  return losses;
}

Tensor clip_grads(std::vector<Tensor> grads, double max_norm, bool d2l) {
  if (grads.empty()) fail("grads is empty; there must be at least one");
  const Call call(grads[0], "grads[0]");
  ClipNorm clip(call);
  for (size_t i = 0; i < grads.size(); ++i) {
    const std::string name = "grads[" + std::to_string(i) + "]";
    call.require_here(grads[i], name.c_str());
    require_scalable(grads[i], i);
    clip.add(grads[i]);
  }
  Tensor norm = call.empty({}, grads[0].dtype());
  clip.run(max_norm, d2l, norm);
  return norm;
}

}  // namespace rnnfast::cuda
