#include "cuda_clip.h"

#include <algorithm>

namespace rnnfast::cuda {

namespace {

// More blocks than run at once only make more partial sums, which every block adds up.
constexpr int kBlocksPerMultiprocessor = 4;

struct Dim {
  int64_t size, stride;
};

// The dimensions in the order of their strides, the largest first; those that lie together as one.
std::vector<Dim> merged_dims(const Tensor& tensor) {
  std::vector<Dim> dims, merged;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) > 1) dims.push_back({tensor.size(d), tensor.stride(d)});
  }
  std::sort(dims.begin(), dims.end(), [](Dim a, Dim b) { return a.stride > b.stride; });
  for (const Dim& dim : dims) {
    if (!merged.empty() && merged.back().stride == dim.size * dim.stride) {
      merged.back() = {merged.back().size * dim.size, dim.stride};
    } else {
      merged.push_back(dim);
    }
  }
  return merged;
}

}  // namespace

void ClipNorm::add(const Tensor& gradient, const Tensor* parameter) {
  if (gradient.numel() == 0) return;
  extents_.push_back(extent_of(gradient));
  std::vector<Dim> dims = merged_dims(gradient);
  while (dims.size() < 2) dims.insert(dims.begin(), {1, 0});
  const Dim outer = dims[dims.size() - 2], inner = dims.back();

  GradientRows rows{};
  rows.is_double = gradient.dtype() == aoti_torch_dtype_float64();
  rows.parameter = parameter != nullptr ? parameter->data<void>() : nullptr;
  rows.count = outer.size * inner.size;
  rows.row = inner.size;
  rows.row_stride = outer.stride;
  rows.stride = inner.stride;
  // Beyond two dimensions: an entry for each place in the others.
  for (int64_t i = 0; i < gradient.numel() / rows.count; ++i) {
    int64_t rest = i, offset = 0;
    for (size_t d = dims.size() - 2; d-- > 0;) {
      offset += rest % dims[d].size * dims[d].stride;
      rest /= dims[d].size;
    }
    rows.values = gradient.data<char>() + offset * (rows.is_double ? 8 : 4);
    append(rows);
  }
}

void ClipNorm::append(const GradientRows& rows) {
  if (tables_.empty() || tables_.back().num_rows == kMostGradients) tables_.emplace_back();
  tables_.back().append(rows);
}

void ClipNorm::Table::append(const GradientRows& added) {
  rows[num_rows] = added;
  rows[num_rows++].first_chunk = num_chunks;
  num_chunks += static_cast<int>(ceil_div(added.count, kClipChunk));
}

int ClipNorm::blocks_of(const Table& table) const {
  const int most = limits_of(call_.device()).multiprocessors * kBlocksPerMultiprocessor;
  return std::clamp(table.num_chunks, 1, most);
}

template <class Params>
void ClipNorm::launch_with(const Table& table, const char* kernel, Params params) const {
  std::copy_n(table.rows, table.num_rows, params.gradients);
  params.num_gradients = table.num_rows;
  params.num_chunks = table.num_chunks;
  const Geometry geometry{static_cast<unsigned>(blocks_of(table)), 1, kClipThreads,
                          kClipThreads / 32 * sizeof(double)};
  launch("clip_norm", kernel, "", geometry, &params, call_.device(), call_.stream());
}

void ClipNorm::run(double max_norm, bool d2l, const Tensor& norm) {
  if (tables_.empty()) tables_.emplace_back();  // the norm of nothing
  int num_sums = 0;
  for (const Table& table : tables_) num_sums += blocks_of(table);
  const Tensor sums = call_.empty({num_sums}, aoti_torch_dtype_float64());
  int first = 0;
  for (const Table& table : tables_) {
    ClipSumsParams params{};
    params.sums = sums.data<double>() + first;
    launch_with(table, "clip_sums", params);
    first += blocks_of(table);
  }

  ClipScaleParams params{};
  params.sums = sums.data<double>();
  params.num_sums = num_sums;
  params.d2l = d2l;
  params.max_norm = max_norm;
  if (norm.dtype() == aoti_torch_dtype_float64()) {
    params.norm_float64 = norm.data<double>();
  } else {
    params.norm = norm.data<float>();
  }
  scale(params);
}

void ClipNorm::step(const std::optional<Tensor>& squares, double max_norm, double lr) {
  ClipScaleParams params{};
  if (squares) {
    params.sums = squares->data<double>();
    params.num_sums = static_cast<int>(squares->size(0));
  }
  params.d2l = 1;
  params.max_norm = max_norm;
  params.lr = lr;
  scale(params);
}

void ClipNorm::scale(ClipScaleParams params) const {
  const bool one_by_one = overlap(extents_);  // scaled as often as they are listed, in order
  for (const Table& table : tables_) {
    if (!one_by_one) {
      launch_with(table, "clip_scale", params);
      continue;
    }
    for (int i = 0; i < table.num_rows; ++i) {
      Table single;
      single.append(table.rows[i]);
      launch_with(single, "clip_scale", params);
    }
  }
}

}  // namespace rnnfast::cuda
