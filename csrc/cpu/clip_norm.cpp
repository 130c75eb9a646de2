// The common 2-norm of all gradients, then their scaling: one pass each.
//
// Each block's sum of squares is taken in double, in which the squares of float32 cannot overflow,
// and the sums are added in order of the blocks: the result does not depend on the number of
// threads.
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "blocks.h"
#include "isa.h"
#include "parallel.h"
#include "sum_of_squares.h"
#include "workspace.h"

namespace rnnfast::RNNFAST_ISA {

namespace {

template <class Real>
void scale(Real* values, int64_t count, int64_t stride, Real factor) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) values[i] *= factor;
  } else {
    for (int64_t i = 0; i < count; ++i) values[i * stride] *= factor;
  }
}

// Calls visit(values, count, stride, block) with typed values for the blocks of a share.
template <class Visit>
void each_block_of(const ClipGradsArgs& args, Share share, const Visit& visit) {
  each_block(
      args.spans, args.num_spans, share,
      [&](const GradientSpan& span, int64_t at, int64_t count, int64_t block) {
        if (span.is_double) {
          visit(static_cast<double*>(span.values) + at * span.stride, count, span.stride, block);
        } else {
          visit(static_cast<float*>(span.values) + at * span.stride, count, span.stride, block);
        }
      });
}

double factor_for(double norm, double max_norm, bool d2l) {
  if (d2l) return norm > max_norm ? max_norm / norm : 1.0;
  const double factor = max_norm / (norm + 1e-6);
  return factor > 1.0 ? 1.0 : factor;  // NaN stays NaN
}

}  // namespace

void clip_grads(const ClipGradsArgs& args) {
  const int64_t blocks = count_blocks(args.spans, args.num_spans);
  const int64_t workers = workers_for(blocks, args.shares_memory);

  Workspace memory;
  double* sums;
  memory.take(sums, blocks);
  memory.allocate();
  memory.take(sums, blocks);

  run_team(workers, [&](Team& team) {
    team.each([&](int64_t worker) {
      each_block_of(args, share_of(blocks, worker, workers),
                    [&](auto* values, int64_t count, int64_t stride, int64_t block) {
                      SumOfSquares sum;
                      sum.add(values, count, stride);
                      sums[block] = sum.total();
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
      each_block_of(args, share_of(blocks, worker, workers),
                    [&](auto* values, int64_t count, int64_t stride, int64_t) {
                      using Real = std::remove_reference_t<decltype(*values)>;
                      scale(values, count, stride, static_cast<Real>(factor));
                    });
    });
  });
}

}  // namespace rnnfast::RNNFAST_ISA
