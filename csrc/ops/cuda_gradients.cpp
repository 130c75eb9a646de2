#include "cuda_gradients.h"

#include <algorithm>

#include "cuda/device/gradients_shape.h"

namespace rnnfast::cuda {

namespace {

constexpr GradientsShape kFloat{4}, kDouble{8};
constexpr int64_t kBlocksPerMultiprocessor = 2;  // with 33 KB each

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

MatrixRows rows_of(const Tensor& matrix, int64_t columns) {
  return {nullptr, 0, matrix.data<void>(), columns};
}

MatrixRows rows_before(const Tensor& h0, const Tensor& hs) {
  return {h0.data<void>(), h0.size(0), hs.data<void>(), h0.size(1)};
}

void Gradients::add_product(const MatrixRows& a, const MatrixRows& b, const Tensor& out) {
  if (num_products_ == kMostProducts) fail("more than ", kMostProducts, " products in one launch");
  const int64_t side = GradientsShape::kSide;
  const int64_t tiles = ceil_div(a.columns, side) * ceil_div(b.columns, side);
  outs_[num_products_] = &out;
  params_.products[num_products_++] = {a, b, nullptr, static_cast<int>(tiles)};
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
  take_rows(x, sum.size(0));
  sum_ = &sum;
}

void Gradients::take_rows(const Tensor& x, int64_t C) {
  params_.sums.x = x.data<void>();
  params_.sums.C = C;
}

void Gradients::run(PartSums& sums) {
  const GradientsShape& shape = dtype_ == aoti_torch_dtype_float64() ? kDouble : kFloat;
  GradientSums& of_rows = params_.sums;
  const int64_t class_tiles = std::max<int64_t>(ceil_div(of_rows.V, shape.classes()), 1);
  of_rows.tiles = static_cast<int>(class_tiles * ceil_div(of_rows.C, shape.kThreads));
  params_.tiles = of_rows.tiles;
  for (int i = 0; i < num_products_; ++i) params_.tiles += params_.products[i].tiles;
  if (params_.tiles == 0) return;

  // As many slices as fill the device, of whole chunks of rows.
  const int64_t room = limits_of(call_.device()).multiprocessors * kBlocksPerMultiprocessor;
  const int64_t wanted = std::max<int64_t>(room / params_.tiles, 1);
  params_.N = N_;
  params_.rows = ceil_div(ceil_div(N_, wanted), shape.kRows) * shape.kRows;
  const int64_t slices = ceil_div(N_, params_.rows);
  if (table_ != nullptr) of_rows.table = sums.parts_of(*table_, slices);
  if (sum_ != nullptr) of_rows.sums = sums.parts_of(*sum_, slices);
  for (int i = 0; i < num_products_; ++i) {
    params_.products[i].parts = sums.parts_of(*outs_[i], slices);
  }
  launch("gradients", "gradients", real_option(dtype_),
         {static_cast<unsigned>(slices * params_.tiles), 1, shape.kThreads,
          static_cast<unsigned>(shape.shared_bytes())},
         &params_, call_.device(), call_.stream());
}

}  // namespace rnnfast::cuda
