"""The only tolerance rule of the test suite."""

import torch
from torch import Tensor


def assert_close_to_f64(name: str, got: Tensor, same_dtype: Tensor, f64: Tensor) -> None:
    """`got` is at most twice as far from the float64 result as torch's own at got's dtype.

    A small absolute term, 8 units in the last place of the largest value, allows for the cases
    in which torch's error happens to be zero. NaN and infinity must stand where float64 has them.
    """
    assert got.dtype == same_dtype.dtype, f"{name}: dtype {got.dtype}, not {same_dtype.dtype}"
    assert got.shape == f64.shape, f"{name}: shape {tuple(got.shape)}, not {tuple(f64.shape)}"
    if f64.numel() == 0:
        return
    assert f64.dtype == torch.float64, f"{name}: the truth must be float64"
    got64, same64 = got.detach().double(), same_dtype.detach().double()
    finite = f64.isfinite()
    assert torch.equal(got64.isfinite(), finite), f"{name}: NaN or infinity in the wrong place"
    if not finite.any():
        return
    truth = f64.detach()[finite]
    error = (got64[finite] - truth).abs().max().item()
    allowed = 2 * (same64[finite] - truth).abs().max().item()
    allowed += 8 * torch.finfo(got.dtype).eps * truth.abs().max().item()
    assert error <= allowed, f"{name}: error {error:.3g} against float64, allowed {allowed:.3g}"
