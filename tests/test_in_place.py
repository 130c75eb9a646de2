"""Results that are changed in place: refused where the backward pass would read them, else allowed.

torch's loop keeps a copy of every state for its backward pass and allows it. To keep one here would
cost memory and time in every call, so the change fails loudly instead (docs/differences.md).
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rnnfast.nn
from rnnfast import functional

T, B, V, H = 5, 3, 7, 4


def zero_a_row(hs: Tensor) -> None:
    hs[:, 0] = 0


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "a row": zero_a_row,
    "relu_": torch.relu_,
    "dropout": nn.Dropout(0.5, inplace=True),
    "a view": lambda hs: hs[-1].mul_(2),
}


def states_of_function() -> Tensor:
    W_xh, W_hh, b_h = (torch.randn(s, requires_grad=True) for s in ((V, H), (H, H), (H,)))
    hs, _ = functional.rnn(torch.randint(V, (T, B)), torch.zeros(B, H), W_xh, W_hh, b_h)
    return hs


def states_of_module() -> Tensor:
    hs, _ = rnnfast.nn.RNN(V, H)(torch.randn(T, B, V))
    return hs


@pytest.fixture(params=[states_of_function, states_of_module])
def states(request: pytest.FixtureRequest) -> Callable[[], Tensor]:
    made: Callable[[], Tensor] = request.param
    return made


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_that_would_spoil_the_gradients_is_refused(change):
    hs = states_of_function()
    change(hs)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        hs.sum().backward()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_copy_may_be_changed(states, change):
    hs = states()
    copy = hs.clone()
    change(copy)
    copy.sum().backward()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_without_gradients_anything_may_be_changed(states, change):
    with torch.no_grad():
        change(states())
