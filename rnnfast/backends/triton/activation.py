"""What several kernels share: the activation and h @ W for a matrix that stays in registers."""

import triton
import triton.language as tl


@triton.jit
def tanh(z):
    """tanh to 2 ulp. The series (least maximum relative error, 4e-8) keeps small z exact."""
    a = tl.abs(z)
    far = 1 - 2 / (tl.exp(2 * a) + 1)  # exp overflows to infinity and this to 1
    s = z * z
    series = 0.0164375808 * s - 0.0526718125
    series = series * s + 0.1332072467
    series = series * s - 0.3333294690
    near = z + z * s * series
    return tl.where(a < 0.55, near, tl.where(z < 0, -far, far))  # NaN stays NaN


@triton.jit
def activate(z, RELU: tl.constexpr):
    if RELU:
        return tl.where(z < 0, 0.0, z)  # NaN stays NaN
    else:
        return tanh(z)


@triton.jit
def times(h, W, PRECISION: tl.constexpr):
    """h [ROWS, HP] @ W [HP, HP] in float32, W kept in registers over a loop.

    One row: every thread multiplies its part of W by its part of h, which the block then adds up:
    exact products, no padding to a tensor core's tile. More rows: tl.dot, h rounded to W's dtype.
    """
    if h.shape[0] == 1:
        column = tl.reshape(h, (h.shape[1], 1))
        return tl.sum(column * W, axis=0, keep_dims=True)
    else:
        return tl.dot(h.to(W.dtype), W, input_precision=PRECISION)
