#include "cuda_sums.h"

#include <algorithm>

namespace rnnfast::cuda {

namespace {

constexpr int64_t kWarps = 16, kLanes = 32;
constexpr int64_t kRowsPerSlice = 16384;  // 1024 for each warp: a second launch costs less
constexpr int64_t kSharedBytes = 48 * 1024;
constexpr int64_t kBlocksPerMultiprocessor = 4;

// Classes per block: as few as give every multiprocessor its blocks, as many as have room.
int64_t tile_of(const RowSums& sums, int32_t dtype, int device) {
  const int64_t most = kSharedBytes / (kWarps * kLanes * real_bytes(dtype));
  const int64_t wanted = limits_of(device).multiprocessors * kBlocksPerMultiprocessor;
  return std::clamp<int64_t>(sums.V * ceil_div(sums.C, kLanes) / wanted, 1, most);
}

}  // namespace

void RowSumJobs::add(const Tensor& x, int64_t N, int64_t C, const Tensor& out) {
  RowSums sums{};
  sums.x = x.data<void>();
  sums.N = N;
  sums.C = C;
  sums.V = 1;
  add(sums, out);
}

void RowSumJobs::add(const Tensor& x, int64_t C, const Tensor& ids, int64_t V, const Tensor& out) {
  RowSums sums{};
  sums.x = x.data<void>();
  sums.N = ids.size(0) * ids.size(1);
  sums.C = C;
  sums.V = V;
  sums.ids = ids.data<const long long>();
  sums.B = ids.size(1);
  sums.ids_stride_t = ids.stride(0);
  sums.ids_stride_b = ids.stride(1);
  add(sums, out);
}

void RowSumJobs::add(RowSums sums, const Tensor& out) {
  if (jobs_.size() == kMostRowSums) fail("more than ", kMostRowSums, " sums in one launch");
  sums.slices = std::clamp<int64_t>(sums.N / kRowsPerSlice, 1, 64);
  const int64_t tile = sums.ids != nullptr ? tile_of(sums, dtype_, call_.device()) : 1;
  sums.tile = static_cast<int>(tile);
  sums.blocks = static_cast<int>(sums.slices * ceil_div(sums.V, tile) * ceil_div(sums.C, kLanes));
  sums.sums = parts_.parts_of(out, sums.slices);
  jobs_.push_back(sums);
}

void RowSumJobs::run() {
  RowSumsParams params{};
  unsigned blocks = 0;
  int64_t tile = 1;
  for (const RowSums& job : jobs_) {
    params.jobs[params.num_jobs++] = job;
    blocks += static_cast<unsigned>(job.blocks);
    tile = std::max<int64_t>(tile, job.tile);
  }
  if (blocks == 0) return;
  const int64_t shared_bytes = kWarps * tile * kLanes * real_bytes(dtype_);
  launch("row_sums", "row_sums", real_option(dtype_),
         {blocks, 1, kWarps * kLanes, static_cast<unsigned>(shared_bytes)}, &params, call_.device(),
         call_.stream());
  parts_.run(false);
}

}  // namespace rnnfast::cuda
