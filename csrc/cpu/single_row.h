// One batch row: vector times matrix, straight from W_hh as it lies. Each worker owns the same rows
// of W_hh in every phase, forward and backward, so that they stay in its L2 cache; packing, for
// which one row gives no return, would be 10 % of a training step and most of a single step.
#pragma once

#include "panels.h"
#include "parallel.h"

namespace rnnfast::RNNFAST_ISA {

// Columns side by side in one pass over W: as many sums as there are registers for, as W is then
// read in long runs.
constexpr int kVectorsOfSums = kRegisters / 2;

// out [padded H] = sum over the given rows k of x[k] W[k], for all panels of W's columns, of at
// most kVectorsOfSums vectors.
template <class Real>
void add_rows_times(const Real* x, const Real* W, const Panels& panels, Share rows, bool backwards,
                    Real* out);

// out[i] = <W[i], x>, or += where kAdds, for the given rows i of W, of which `columns` count
template <class Real, bool kAdds = false>
void dot_rows(const Real* x, const Real* W, int64_t stride, int64_t columns, Share rows, Real* out);

}  // namespace rnnfast::RNNFAST_ISA
