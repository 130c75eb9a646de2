// The one form of packing that is too much code to stand in every kernel that uses it.
#include "panels.h"

namespace rnnfast::RNNFAST_ISA {

template <class Real>
void pack_transposed(const Real* matrix, int64_t stride, int64_t K, const Panel& panel,
                     Real* packed) {
  constexpr int N = kLanes<Real>;
  const int64_t width = panel.vectors * N, rows = panel.column + panel.columns_left;
  Real* out = packed + K * panel.column;
  for (int64_t c = 0; c < width; c += N) {
    for (int64_t k = 0; k < K; k += N) {
      Vec<Real> square[N];
      RNNFAST_UNROLL for (int i = 0; i < N; ++i) {
        const int64_t row = panel.column + c + i;
        square[i] = row < rows ? load_in_row(matrix, stride, rows, row, k, K - k) : Vec<Real>{};
      }
      transpose<Real>(square);
      for (int i = 0; i < N && k + i < K; ++i) store(out + (k + i) * width + c, square[i]);
    }
  }
}

template void pack_transposed(const float*, int64_t, int64_t, const Panel&, float*);
template void pack_transposed(const double*, int64_t, int64_t, const Panel&, double*);

}  // namespace rnnfast::RNNFAST_ISA
