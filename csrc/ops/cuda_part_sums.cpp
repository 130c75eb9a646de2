#include "cuda_part_sums.h"

#include <algorithm>

namespace rnnfast::cuda {

namespace {

// More blocks than run at once only make more sums of squares, which every block adds up.
constexpr int kBlocksPerMultiprocessor = 4;

}  // namespace

void* PartSums::parts_of(const Tensor& out, int64_t num_parts, bool is_gradient) {
  if (num_parts == 1) {
    append(out.data<void>(), 1, out, is_gradient);
    return out.data<void>();
  }
  parts_.push_back(call_.empty({num_parts, out.numel()}, dtype_));
  append(parts_.back().data<void>(), num_parts, out, is_gradient);
  return parts_.back().data<void>();
}

void PartSums::copy(const Tensor& from, const Tensor& to) {
  append(from.data<void>(), 1, to, false);
}

void PartSums::append(const void* parts, int64_t num_parts, const Tensor& out, bool is_gradient) {
  if (jobs_.size() == kMostPartSums) fail("more than ", kMostPartSums, " sums in one launch");
  jobs_.push_back({parts, out.data<void>(), num_parts, out.numel(), is_gradient, 0});
}

std::optional<Tensor> PartSums::run(bool wants_squares) {
  SumPartsParams params{};
  for (PartSum job : jobs_) {
    const bool has_work = job.parts != job.out || (job.is_gradient && wants_squares);
    if (!has_work || job.count == 0) continue;
    const int64_t of_tile = job.num_parts == 1 ? kSumThreads : 32;
    job.first_tile = params.num_tiles;
    params.num_tiles += static_cast<int>(ceil_div(job.count, of_tile));
    params.jobs[params.num_jobs++] = job;
  }
  if (params.num_jobs == 0) return std::nullopt;
  const int most = limits_of(call_.device()).multiprocessors * kBlocksPerMultiprocessor;
  const int blocks = std::min(params.num_tiles, most);
  std::optional<Tensor> squares;
  if (wants_squares) {
    squares = call_.empty({blocks}, aoti_torch_dtype_float64());
    params.squares = squares->data<double>();
  }
  launch("sum_parts", "sum_parts", real_option(dtype_),
         {static_cast<unsigned>(blocks), 1, kSumThreads,
          kSumThreads * static_cast<unsigned>(real_bytes(dtype_))},
         &params, call_.device(), call_.stream());
  return squares;
}

}  // namespace rnnfast::cuda
