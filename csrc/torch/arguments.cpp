#include "torch/arguments.h"

namespace rnnfast {

Classes::Classes(const Tensor& ids, const char* name, int64_t T, int64_t B, int64_t V, Axes axes) {
  const bool steps_first = axes == Axes::kStepsFirst;
  require(ids, name, aoti_torch_dtype_int64(), steps_first ? "[T, B]" : "[B, T]",
          {steps_first ? T : B, steps_first ? B : T});
  require_classes(ids, name, V);
  values = ids.data<const int64_t>();
  stride_t = ids.stride(steps_first ? 0 : 1);
  stride_b = ids.stride(steps_first ? 1 : 0);
}

Classes::Classes(const Tensor& ids, const char* name, int64_t V)
    : values(ids.data<const int64_t>()), stride_t(ids.stride(0)), stride_b(ids.stride(0)) {
  require_classes(ids, name, V);
}

}  // namespace rnnfast
