// Parameter -= step * gradient and gradient = 0, in one pass over all of them.
#include "blocks.h"
#include "isa.h"

namespace rnnfast::RNNFAST_ISA {

namespace {

template <class Real>
void move(const SgdSpan& span, int64_t at, int64_t count, Real step) {
  Real* param = static_cast<Real*>(span.param) + at;
  Real* grad = static_cast<Real*>(span.grad) + at;
  for (int64_t i = 0; i < count; ++i) {
    param[i] -= step * grad[i];
    grad[i] = 0;
  }
}

}  // namespace

void sgd(const SgdArgs& args) {
  const int64_t blocks = count_blocks(args.spans, args.num_spans);
  const int64_t workers = workers_for(blocks, args.shares_memory);
  run_team(workers, [&](Team& team) {
    team.each([&](int64_t worker) {
      each_block(args.spans, args.num_spans, share_of(blocks, worker, workers),
                 [&](const SgdSpan& span, int64_t at, int64_t count, int64_t) {
                   if (span.is_double) {
                     move<double>(span, at, count, args.step);
                   } else {
                     move<float>(span, at, count, static_cast<float>(args.step));
                   }
                 });
    });
  });
}

}  // namespace rnnfast::RNNFAST_ISA
