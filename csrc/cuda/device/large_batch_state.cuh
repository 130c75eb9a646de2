// h in shared memory, as the tensor cores read it: a slice from each block of the cluster.
//
// A slice has 64 k in 8 units of 8. In a unit lie, 16 bytes each, the high and the low half of row
// 0, those of row 1, ... After the units come the factors of the rows: h = (high + low) * factor.
// tanh is at most 1 and has the same factor always; relu and dz may be of any size, so each block
// gives each row the factor that the largest of its 64 values needs.
#pragma once

#include "large_batch_common.cuh"

namespace rnnfast::cuda {

class State {
 public:
  RF_DEVICE explicit State(int rows)
      : rows_(rows), unit_(kShape.unit_bytes(rows)), slice_(kShape.slice_bytes(rows)) {}

  RF_DEVICE int slice_bytes() const { return slice_; }
  // Of h_s, from that block.
  RF_DEVICE unsigned char* slice(int s, int source) const {
    const int buffer = s & (kBuffers - 1);
    return dynamic_shared() + kShape.state_at() + (buffer * kCluster + source) * slice_;
  }

  // The k of step i of a slice, for the tensor cores.
  RF_DEVICE CoreMatrices matrix(const unsigned char* slice, int i) const {
    return CoreMatrices(slice, unit_).from(2 * i * unit_);
  }
  RF_DEVICE int matrix_rows() const { return kHalves * rows_; }

  RF_DEVICE const float* factors(const unsigned char* slice) const {
    return reinterpret_cast<const float*>(slice + kColumns / 8 * unit_);
  }

  // Writes a row of a slice: each lane of a warp has the columns 2 * lane and 2 * lane + 1.
  RF_DEVICE void put(unsigned char* slice, int row, float2 v, unsigned largest) const {
    const int lane = threadIdx.x & 31;
    const Scale scale(largest);
    const Halves halves(make_float2(v.x * scale.up, v.y * scale.up));
    auto* to = reinterpret_cast<unsigned*>(slice + lane / 4 * unit_ + row * kHalves * 16);
    to[lane % 4] = halves.high;
    if (kHalves == 2) to[4 + lane % 4] = halves.low;
    if (lane == 0) const_cast<float*>(factors(slice))[row] = scale.down;
  }

  // Of a row's 64 columns, for put().
  RF_DEVICE static unsigned largest(float2 v) {
    return warp_max(max(finite_magnitude(v.x), finite_magnitude(v.y)));
  }

  // sum_k h_s[row][k] M[k][column] in float32, one after the other.
  RF_DEVICE float product(const Sequence& p, int s, int row, int column) const {
    float sum = 0.f;
#pragma unroll 1
    for (int k = 0; k < p.H; ++k) {
      const unsigned char* from = slice(s, k / kColumns);
      const auto* two =
          reinterpret_cast<const unsigned*>(from + k % kColumns / 8 * unit_ + row * kHalves * 16) +
          k % 8 / 2;
      float2 h = to_floats(two[0]);
      if (kHalves == 2) {
        const float2 low = to_floats(two[4]);
        h = make_float2(h.x + low.x, h.y + low.y);
      }
      sum = fmaf((k % 2 ? h.y : h.x) * factors(from)[row], weight(p, k, column), sum);
    }
    return sum;
  }

 private:
  int rows_, unit_, slice_;
};

}  // namespace rnnfast::cuda
