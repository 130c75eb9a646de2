// The common 2-norm of all gradients, then their scaling: one pass each.
//
// The gradients are cut into blocks of at most kBlock elements. Each block's sum of squares is
// taken in double, in which the squares of float32 cannot overflow, and the sums are added in order
// of the blocks: the result does not depend on the number of threads.
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "isa.h"
#include "parallel.h"
#include "sum_of_squares.h"
#include "workspace.h"

namespace rnnfast::RNNFAST_ISA {

namespace {

constexpr int64_t kBlock = 4096;
// A worker with less would take less time than its start, about a microsecond.
constexpr int64_t kFewestBlocksPerWorker = 8;

template <class Real>
void scale(Real* values, int64_t count, int64_t stride, Real factor) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) values[i] *= factor;
  } else {
    for (int64_t i = 0; i < count; ++i) values[i * stride] *= factor;
  }
}

int64_t blocks_of(const GradientSpan& span) { return (span.count + kBlock - 1) / kBlock; }

// Calls visit(values, count, stride, block) with typed values for the blocks [share.begin,
// share.end).
template <class Visit>
void for_each_block(const ClipGradsArgs& args, Share share, const Visit& visit) {
  int64_t first = 0;  // block of the span
  for (int64_t s = 0; s < args.num_spans && first < share.end; ++s) {
    const GradientSpan& span = args.spans[s];
    const int64_t blocks = blocks_of(span);
    const int64_t begin = share.begin > first ? share.begin : first;
    const int64_t end = share.end < first + blocks ? share.end : first + blocks;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t at = (block - first) * kBlock;
      const int64_t count = span.count - at < kBlock ? span.count - at : kBlock;
      if (span.is_double) {
        visit(static_cast<double*>(span.values) + at * span.stride, count, span.stride, block);
      } else {
        visit(static_cast<float*>(span.values) + at * span.stride, count, span.stride, block);
      }
    }
    first += blocks;
  }
}

double factor_for(double norm, double max_norm, bool d2l) {
  if (d2l) return norm > max_norm ? max_norm / norm : 1.0;
  const double factor = max_norm / (norm + 1e-6);
  return factor > 1.0 ? 1.0 : factor;  // NaN stays NaN
}

}  // namespace

void clip_grads(const ClipGradsArgs& args) {
  int64_t blocks = 0;
  for (int64_t s = 0; s < args.num_spans; ++s) blocks += blocks_of(args.spans[s]);
  int64_t workers = blocks / kFewestBlocksPerWorker;
  if (workers > num_threads()) workers = num_threads();
  if (workers < 1 || args.shares_memory) workers = 1;

  Workspace memory;
  double* sums;
  memory.take(sums, blocks);
  memory.allocate();
  memory.take(sums, blocks);

  run_team(workers, [&](Team& team) {
    team.each([&](int64_t worker) {
      for_each_block(args, share_of(blocks, worker, workers),
                     [&](auto* values, int64_t count, int64_t stride, int64_t block) {
                       sums[block] = sum_of_squares(values, count, stride);
                     });
    });
    team.sync();
    team.each([&](int64_t worker) {
      double total = 0;
      for (int64_t block = 0; block < blocks; ++block) total += sums[block];
      const double norm = std::sqrt(total);
      if (worker == 0) *args.norm = norm;
      const double factor = factor_for(norm, args.max_norm, args.d2l);
      if (factor == 1.0) return;
      // The same share as before: its values are still in the worker's cache.
      for_each_block(args, share_of(blocks, worker, workers),
                     [&](auto* values, int64_t count, int64_t stride, int64_t) {
                       using Real = std::remove_reference_t<decltype(*values)>;
                       scale(values, count, stride, static_cast<Real>(factor));
                     });
    });
  });
}

}  // namespace rnnfast::RNNFAST_ISA
