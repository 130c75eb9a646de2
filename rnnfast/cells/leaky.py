"""The leaky cell: h_t = (1 - a) h_{t-1} + a act(z_t), with a in (0, 1] for each unit.

a = 1 is the plain cell. Source: the firing-rate network of computational neuroscience,
tau dh/dt = -h + act(z), by Euler's method with a = dt / tau.
"""

from __future__ import annotations

from torch import Tensor


def mix(
    before: Tensor,  # [B, H]
    activity: Tensor,  # [B, H]: act(z)
    leak: Tensor,  # [H]: a
) -> Tensor:
    """The state after a step."""
    return before + leak * (activity - before)


def mix_backward(
    grad: Tensor,  # [B, H], of the state after the step
    before: Tensor,  # [B, H]
    activity: Tensor,  # [B, H]
    leak: Tensor,  # [H]
) -> tuple[Tensor, Tensor, Tensor]:
    """The adjoint of `mix`: the gradients of before and activity [B, H], and of leak [H]."""
    through = leak * grad
    return grad - through, through, (grad * (activity - before)).sum(0)


def leak_of_units(leak: Tensor | float, W_hh: Tensor) -> Tensor:
    """The leak of each unit [H] from that, one of all, or a number.

    What is already [H] stays as it is, since a view takes 3 us and `to` the same dtype 0.7;
    `torch.as_tensor` makes 10 us of a number.
    """
    if not isinstance(leak, Tensor):
        return W_hh.new_full(W_hh.shape[:1], leak)
    if leak.dtype != W_hh.dtype:
        if leak.is_complex():  # torch would drop the imaginary part
            raise RuntimeError("leak is complex, must be real")
        leak = leak.to(W_hh.dtype)
    return leak if leak.dim() == 1 else leak.expand(W_hh.shape[0])
