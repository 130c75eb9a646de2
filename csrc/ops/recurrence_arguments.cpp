#include "ops/recurrence_arguments.h"

namespace rnnfast {

int cell_of(int64_t code) {
  if (code == cells::kTanh || code == cells::kRelu) return static_cast<int>(code);
  fail("cell is ", code, "; it must be 0 (tanh) or 1 (relu)");
}
int any_cell_of(int64_t code) {
  if (code >= 0 && code < cells::kNumCells) return static_cast<int>(code);
  fail("cell is ", code, "; it must be 0 (tanh), 1 (relu), 2 (leaky_tanh) or 3 (leaky_relu)");
}

namespace {

// Sets T, B and N from batch_sizes.
void measure_steps(RecurrenceSizes& n, const Tensor& batch_sizes) {
  if (batch_sizes.device_type() != aoti_torch_device_type_cpu()) {
    fail("batch_sizes is not on the CPU; it must be");
  }
  require_rank(batch_sizes, "batch_sizes", 1, "[T]");
  n.T = batch_sizes.size(0);
  require_at_least(n.T, "T, the number of steps,", 1);
  require(batch_sizes, "batch_sizes", aoti_torch_dtype_int64(), "[T]", {n.T});
  const auto* sizes = batch_sizes.data<const int64_t>();
  const int64_t stride = batch_sizes.stride(0);
  n.is_ragged = true;
  n.B = sizes[0];
  n.N = 0;
  for (int64_t t = 0, before = n.B; t < n.T; before = sizes[t++ * stride]) {
    const int64_t size = sizes[t * stride];
    if (size < 1 || size > before) {
      fail("batch_sizes[", t, "] is ", size, "; it must be at least 1 and at most ", before);
    }
    n.N += size;
  }
}

// `steps` has one row for each row of each step: x, hs or ids.
RecurrenceSizes measure(const Tensor& steps, const char* name, bool has_columns, const Tensor& W_hh,
                        const Tensor& h0, bool has_ids, const RecurrenceOptions& options) {
  RecurrenceSizes n{};
  n.directions = W_hh.dim() == 3 ? 2 : 1;
  n.states_have_axis = h0.dim() == 3;
  if (has_ids && n.directions == 2) {
    fail("W_hh is ", describe(W_hh), "; it must be [H, H] where ids are given");
  }
  if (options.batch_sizes) {
    require_rank(steps, name, has_columns ? 2 : 1, has_columns ? "[N, H]" : "[N]");
    measure_steps(n, *options.batch_sizes);
  } else {
    require_rank(steps, name, has_columns ? 3 : 2, has_columns ? "[T, B, H]" : "[T, B]");
    n.T = steps.size(0);
    n.B = steps.size(1);
    n.N = n.T * n.B;
  }
  return n;
}

void require_weights(const RecurrenceSizes& n, const Tensor& W_hh, const std::optional<Tensor>& b_h,
                     const Tensor& h0) {
  require_at_least(n.T, "T, the number of steps,", 1);
  require_at_least(n.H, "H, the number of hidden units,", 1);
  require(W_hh, "W_hh", n.dtype, n.W_hh());
  require(b_h, "b_h", n.dtype, n.b_h());
  require(h0, "h0", n.dtype, n.state());
}

}  // namespace

void require_options(const RecurrenceSizes& n, int cell, const RecurrenceOptions& options) {
  require(options.resets, "resets", aoti_torch_dtype_bool(), {"[T, B]", {n.T, n.B}});
  const bool has_leak = cells::num_saved(cell) > 0;
  if (options.leak && !has_leak) fail("leak is given; it must be None for the cell ", cell);
  if (!options.leak && has_leak) fail("leak is None; it must be given for the cell ", cell);
  require(options.leak, "leak", n.dtype, n.b_h());
}

void require_saved(const RecurrenceSizes& n, const RecurrenceOptions& options) {
  if (options.leak && !options.saved) {
    fail("saved is None; it must be what the forward call has saved");
  }
  require(options.saved, "saved", n.dtype, n.array());
}

RecurrenceSizes forward_sizes(const Tensor& x, const std::optional<Tensor>& ids, const Tensor& W_hh,
                              const std::optional<Tensor>& b_h, const Tensor& h0, int32_t dtype,
                              const RecurrenceOptions& options) {
  RecurrenceSizes n = ids ? measure(*ids, "ids", false, W_hh, h0, true, options)
                          : measure(x, "x", true, W_hh, h0, false, options);
  if (ids) require_rank(x, "x", 2, "[V, H]");
  n.H = x.size(x.dim() - 1) / n.directions;
  n.V = x.size(0);
  n.dtype = dtype;
  if (ids) {
    require(*ids, "ids", aoti_torch_dtype_int64(), n.ids());
  } else {
    require(x, "x", dtype, n.array());
  }
  require_weights(n, W_hh, b_h, h0);
  return n;
}

RecurrenceSizes backward_sizes(const std::optional<Tensor>& grad_hs,
                               const std::optional<Tensor>& grad_h_last, const Tensor& hs,
                               const std::optional<Tensor>& ids, int64_t V, const Tensor& W_hh,
                               const Tensor& h0, const RecurrenceOptions& options) {
  const int32_t dtype = require_real(hs, "hs");
  require_at_least(V, "V", 0);
  RecurrenceSizes n = measure(hs, "hs", true, W_hh, h0, ids.has_value(), options);
  n.H = hs.size(hs.dim() - 1) / n.directions;
  n.V = V;
  n.dtype = dtype;
  require(hs, "hs", dtype, n.array());
  require_weights(n, W_hh, std::nullopt, h0);
  require(grad_hs, "grad_hs", dtype, n.array());
  require(grad_h_last, "grad_h_last", dtype, n.state());
  require(ids, "ids", aoti_torch_dtype_int64(), n.ids());
  return n;
}

}  // namespace rnnfast
