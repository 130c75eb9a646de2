#include "cuda_gradients.h"

#include <algorithm>

#include "cuda/device/gradients_shape.h"
#include "cuda/device/weight_product_shape.h"
#include "cuda/host/training_choice.h"
#include "torch/aten.h"

namespace rnnfast::cuda {

namespace {

constexpr GradientsShape kFloat{4}, kDouble{8};
constexpr int64_t kBlocksPerMultiprocessor = 2;  // with 33 KB each

// The number of slices in which tiles * slices blocks, one for each multiprocessor at a time, are
// done first.
int64_t best_slices(int64_t N, int64_t tiles, int64_t multiprocessors, int64_t chunk) {
  constexpr int64_t kMostSlices = 16;  // more parts take longer to add up
  int64_t best = 1, least = 0;
  for (int64_t slices = 1; slices <= kMostSlices; ++slices) {
    const int64_t waves = ceil_div(tiles * slices, multiprocessors);
    const int64_t chunks = waves * ceil_div(ceil_div(N, slices), chunk);
    if (slices == 1 || chunks < least) best = slices, least = chunks;
  }
  return best;
}

bool is_aligned(const MatrixRows& rows) {
  return (reinterpret_cast<uintptr_t>(rows.first) | reinterpret_cast<uintptr_t>(rows.others)) %
             16 ==
         0;
}

// The state before each step of T with B rows in one piece [T B, H], for one product over all.
Tensor shifted(const Call& call, const Direction& d, const States& states) {
  const int64_t B = d.B, H = d.H, others = (d.T - 1) * B;
  Tensor before = call.empty({B + others, H}, states.hs.dtype());
  copy(matrix(before, B, H, d.reverse ? others * H : 0), d.state_of(states.h0));
  copy(matrix(before, others, H, d.reverse ? 0 : B * H),
       d.rows_of(states.hs, d.reverse ? 1 : 0, others));
  return before;
}

// before, after [N, H]
void multiply_by_cublas(const Tensor& before, const Tensor& after, bool transposed,
                        const Tensor& out) {
  multiply(rnnfast::transposed(transposed ? after : before), transposed ? before : after, out);
}

// The factors A and B of grad_W_hh = A^T B: the state before each step, and the step's dz.
struct Factors {
  MatrixRows a, b;
};

Factors factors_of(const Direction& d, const States& states, const Tensor& dz, bool transposed) {
  const int64_t B = d.B, H = d.H, row = d.row();
  MatrixRows before{address(states.h0, d.state()), B, H, address(states.hs, d.at(0)), row, H};
  MatrixRows after{nullptr, 0, 0, address(dz, d.at(0)), row, H};
  if (states.before != nullptr) {
    before = {nullptr, 0, 0, address(states.before, d.at(0)), row, H};
  } else if (d.reverse) {
    before.others = address(states.hs, d.at(1));
    after = {address(dz, d.at(d.T - 1)), B, row, address(dz, d.at(0)), row, H};
  }
  return transposed ? Factors{after, before} : Factors{before, after};
}

void multiply_on_tensor_cores(const Call& call, int64_t N, const Factors& factors,
                              const Tensor& out, PartSums& sums) {
  constexpr WeightProductShape shape;
  const int64_t H = out.size(0), side = ceil_div(H, shape.kSide), tiles = side * side;
  const int64_t wanted =
      best_slices(N, tiles, limits_of(call.device()).multiprocessors, shape.kRows);
  WeightProductParams params{};
  params.N = N;
  params.H = H;
  params.rows = ceil_div(ceil_div(N, wanted), shape.kRows) * shape.kRows;
  params.a = factors.a;
  params.b = factors.b;
  const int64_t slices = ceil_div(N, params.rows);
  params.parts = static_cast<float*>(sums.parts_of(out, slices));
  launch("weight_product", "weight_product", "",
         {static_cast<unsigned>(slices * tiles), 1, shape.kThreads,
          static_cast<unsigned>(shape.shared_bytes())},
         &params, call.device(), call.stream());
}

}  // namespace

MatrixRows rows_of(const Tensor& matrix, int64_t columns) {
  return {nullptr, 0, 0, matrix.data<void>(), columns, columns};
}

void Gradients::add_recurrence(const Direction& d, const States& states, const Tensor& dz,
                               bool transposed, const Tensor& grad_W_hh) {
  const Factors factors = factors_of(d, states, dz, transposed);
  Tensor out = d.weights_of(grad_W_hh);
  const Product product = product_for(d.H, real_bytes(dtype_), call_.device());
  if (product == Product::kWithOthers) {
    add_product(factors.a, factors.b, std::move(out));
  } else if (product == Product::kTensorCores && is_aligned(factors.a) && is_aligned(factors.b)) {
    multiply_on_tensor_cores(call_, N_, factors, out, sums_);
  } else {  // or a state that is a slice of a tensor, which may begin anywhere
    multiply_by_cublas(
        states.before != nullptr ? d.rows_of(*states.before, 0, N_) : shifted(call_, d, states),
        d.rows_of(dz, 0, N_), transposed, out);
    sums_.add_to_norm(out);
  }
}

void Gradients::add_product(const MatrixRows& a, const MatrixRows& b, Tensor out) {
  if (outs_.size() == kMostProducts) fail("more than ", kMostProducts, " products in one launch");
  const int64_t side = GradientsShape::kSide;
  const int64_t tiles = ceil_div(a.columns, side) * ceil_div(b.columns, side);
  params_.products[outs_.size()] = {a, b, nullptr, static_cast<int>(tiles)};
  outs_.push_back(std::move(out));
}

void Gradients::add_table(const Tensor& x, const Tensor& ids, const Tensor& table) {
  take_rows(x, table.size(1));
  params_.sums.V = table.size(0);
  params_.sums.ids = ids.data<const long long>();
  params_.sums.B = ids.size(1);
  params_.sums.ids_stride_t = ids.stride(0);
  params_.sums.ids_stride_b = ids.stride(1);
  table_ = &table;
}

void Gradients::add_sum(const Tensor& x, const Tensor& sum) {
  take_rows(x, sum.numel());
  sum_ = &sum;
}

void Gradients::take_rows(const Tensor& x, int64_t C) {
  params_.sums.x = x.data<void>();
  params_.sums.C = C;
}

void Gradients::run() {
  const GradientsShape& shape = dtype_ == aoti_torch_dtype_float64() ? kDouble : kFloat;
  GradientSums& of_rows = params_.sums;
  const int64_t class_tiles = std::max<int64_t>(ceil_div(of_rows.V, shape.classes()), 1);
  of_rows.tiles = static_cast<int>(class_tiles * ceil_div(of_rows.C, shape.kThreads));
  params_.tiles = of_rows.tiles;
  for (const GradientProduct& product : params_.products) params_.tiles += product.tiles;
  if (params_.tiles == 0) return;

  // As many slices as fill the device, of whole chunks of rows.
  const int64_t room = limits_of(call_.device()).multiprocessors * kBlocksPerMultiprocessor;
  const int64_t wanted = std::max<int64_t>(room / params_.tiles, 1);
  params_.N = N_;
  params_.rows = ceil_div(ceil_div(N_, wanted), shape.kRows) * shape.kRows;
  const int64_t slices = ceil_div(N_, params_.rows);
  if (table_ != nullptr) of_rows.table = sums_.parts_of(*table_, slices);
  if (sum_ != nullptr) of_rows.sums = sums_.parts_of(*sum_, slices);
  for (size_t i = 0; i < outs_.size(); ++i) {
    params_.products[i].parts = sums_.parts_of(outs_[i], slices);
  }
  launch("gradients", "gradients", real_option(dtype_),
         {static_cast<unsigned>(slices * params_.tiles), 1, shape.kThreads,
          static_cast<unsigned>(shape.shared_bytes())},
         &params_, call_.device(), call_.stream());
}

}  // namespace rnnfast::cuda
