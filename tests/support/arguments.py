"""Useless arguments by kind, and the property that an error names the one among good ones."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

import rnnfast
from rnnfast import d2l

T, B, V, H = 5, 3, 7, 11  # odd: no size that is drawn below fits by chance

Wrong = st.SearchStrategy[Any]
NO_TENSOR: Wrong = st.sampled_from(
    [3, 2.5, "text", [1.0, 2.0], (), np.zeros((T, B)), pack_sequence([torch.zeros(2, V)]), object()]
)
NO_NUMBER: Wrong = st.sampled_from(["x", None, [1], object(), torch.zeros(2)])
NO_INTEGER: Wrong = st.sampled_from([2.5, "x", None, [1], object(), torch.zeros(2)])
NOT_CALLABLE: Wrong = st.sampled_from([3, "x", None, [], torch.zeros(2)])
NOT_ITERABLE: Wrong = st.sampled_from([3, 2.5, None, object()])
NO_TEXT: Wrong = st.sampled_from([3, None, ["a"], object(), torch.zeros(2)])
NO_DEVICE: Wrong = st.sampled_from([2.5, "toaster", "cuda:99", [], object()])
NO_LIST: Wrong = st.sampled_from([3, None, object()])

few_examples = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def no_tensor_like(
    good: Tensor, *dtypes: torch.dtype, none: bool = False, bools: bool = False
) -> Wrong:
    """No tensor at all, or one with another shape, dtype, layout or device than the good one.

    none: None is good as well. bools: bool is the good dtype.
    """
    sizes = st.lists(st.sampled_from([0, 2, 4, 6]), min_size=1, max_size=4)
    ways: list[Wrong] = [
        NO_TENSOR if none else NO_TENSOR | st.none(),
        st.sampled_from([torch.complex64, *dtypes] + [torch.bool] * (not bools)).map(good.to),
        st.sampled_from([good.to_sparse(), good.to("meta")]),
        sizes.map(lambda shape: torch.zeros(shape, dtype=good.dtype)),
    ]
    return st.one_of(ways)


@dataclass
class Public:
    """A function, good arguments for it, and what each of them must not be."""

    function: Callable[..., Any]
    good: Callable[[], dict[str, Any]]
    wrong: dict[str, Wrong]
    called: dict[str, tuple[str, ...]] = field(default_factory=dict)  # other words for an argument


def refuses(public: Public, data: st.DataObject) -> None:
    """One argument of a call is useless: the error names it."""
    argument = data.draw(st.sampled_from(sorted(public.wrong)), label="argument")
    wrong = data.draw(public.wrong[argument], label="what it is")
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        public.function(**public.good() | {argument: wrong})
    d2l.plt.close("all")
    message = str(caught.value)
    assert any(word in message for word in public.called.get(argument, (argument,))), message


def ids() -> Tensor:
    return torch.randint(V, (T, B), generator=torch.Generator().manual_seed(0))


def net() -> rnnfast.RNNModelScratch:
    return rnnfast.RNNModelScratch(
        V, H, "cpu", rnnfast.get_params, rnnfast.init_rnn_state, rnnfast.rnn
    )


def trained() -> rnnfast.RNNModelScratch:
    """A net with gradients."""
    made = net()
    for param in made.params:
        param.grad = torch.ones_like(param)
    return made
