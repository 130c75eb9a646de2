"""Every function of the kernels' interface, given one argument that is of no use among good ones.

Hypothesis chooses the function, the argument and what is wrong with it: its type, shape, dtype,
layout, device or length. The call must end in TypeError, ValueError or RuntimeError, with a message
that names the argument.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rnnfast.nn
from rnnfast import functional
from support.arguments import (
    NO_INTEGER,
    NO_NUMBER,
    B,
    H,
    Public,
    T,
    V,
    Wrong,
    few_examples,
    ids,
    net,
    no_tensor_like,
    refuses,
    trained,
)


def params() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((V, H), (H, H), (H,), (H, V), (V,))
    return tuple(torch.randn(shape, generator=generator) * 0.1 for shape in shapes)


FLOATS = (torch.float64, torch.float16, torch.bfloat16, torch.int64)
IDS = no_tensor_like(ids(), torch.int32, torch.uint8, torch.float32, torch.float64)
STATE = no_tensor_like(torch.zeros(B, H), *FLOATS)
NONLINEARITY: Wrong = st.sampled_from(["gelu", "leaky_tanh", None, 3, ["tanh"]])


@st.composite
def wrong_params(draw: Callable[[Wrong], Any], no_bias: bool = False) -> Any:
    """Too few or too many of them, none at all, or one of another shape or kind.

    no_bias: where the bias may be missing.
    """
    good = list(params())
    way = draw(st.sampled_from(["fewer", "more", "none", "one"]))
    if way == "fewer":
        return good[: draw(st.integers(0, 4))]
    if way == "more":
        return [*good, good[0]]
    if way == "none":
        return draw(st.sampled_from([None, 3, good[0], object()]))
    i = draw(st.integers(0, 4))
    good[i] = draw(no_tensor_like(good[i], *FLOATS, none=no_bias and i == 2))
    return good


def not_on_meta(wrong: Any) -> bool:
    """torch's own matrix product takes a matrix on "meta" with a tensor that is not there."""
    return not getattr(wrong, "is_meta", False)


PARAMS = wrong_params()
LAYER_PARAMS = wrong_params(no_bias=True).filter(
    lambda wrong: not isinstance(wrong, list) or all(map(not_on_meta, wrong))
)
PARAM_NAMES = ("params", "W_xh", "W_hh", "b_h", "W_hq", "b_q")


def recurrence() -> dict[str, Any]:
    W_xh, W_hh, b_h, _, _ = params()
    return {"inputs": ids(), "h0": torch.zeros(B, H), "W_xh": W_xh, "W_hh": W_hh, "b_h": b_h}


def model() -> dict[str, Any]:
    return {"inputs": ids(), "h0": torch.zeros(B, H), "params": params()}


def loss() -> dict[str, Any]:
    return {"ids": ids(), "targets": ids(), "h0": torch.zeros(B, H), "params": params()}


def decoding() -> dict[str, Any]:
    return {"first": ids()[0], "h0": torch.zeros(B, H), "params": params(), "steps": 2}


W_XH, W_HH, B_H, W_HQ, B_Q = (no_tensor_like(p, *FLOATS) for p in params())
STATES = {"h0": ("h0", "state")}
DECODING = {
    "first": no_tensor_like(ids()[0], torch.int32, torch.float32),
    "h0": STATE,
    "params": PARAMS,
    "steps": NO_INTEGER | st.just(-1),
}

FUNCTIONS = {
    "functional.rnn": Public(
        functional.rnn,
        recurrence,
        {
            "inputs": IDS,
            "h0": STATE,
            "W_xh": W_XH,
            "W_hh": W_HH,
            "b_h": no_tensor_like(params()[2], *FLOATS, none=True),
            "nonlinearity": NONLINEARITY,
            "resets": no_tensor_like(ids() == 0, torch.uint8, none=True, bools=True),
            "leak": st.sampled_from(["x", [], object(), torch.zeros(2), torch.zeros(1, H)]),
            "noise": NO_NUMBER.filter(lambda wrong: not isinstance(wrong, Tensor)),
        },
        STATES,
    ),
    "functional.rnn_logits": Public(
        functional.rnn_logits,
        model,
        {
            "inputs": IDS,
            "h0": STATE,
            "params": LAYER_PARAMS,
            "nonlinearity": NONLINEARITY,
        },
        STATES | {"params": PARAM_NAMES},
    ),
    "functional.readout": Public(
        functional.readout,
        lambda: {"hs": torch.zeros(T, B, H), "W_hq": params()[3], "b_q": params()[4]},
        {
            "hs": no_tensor_like(torch.zeros(T, B, H), *FLOATS),
            "W_hq": W_HQ.filter(not_on_meta),
            "b_q": B_Q,
        },
    ),
    "functional.rnn_cross_entropy": Public(
        functional.rnn_cross_entropy,
        loss,
        {
            "ids": IDS,
            "targets": IDS,
            "h0": STATE,
            "params": PARAMS,
            "nonlinearity": NONLINEARITY,
        },
        STATES | {"params": PARAM_NAMES},
    ),
    "functional.rnn_cross_entropy_grads": Public(
        torch.no_grad()(functional.rnn_cross_entropy_grads),
        loss,
        {
            "ids": IDS,
            "targets": IDS,
            "h0": STATE,
            "params": PARAMS,
            "grads": PARAMS.filter(lambda wrong: wrong is not None),
        },
        STATES | {"params": PARAM_NAMES, "grads": ("grad",)},
    ),
    "functional.train_step_": Public(
        functional.train_step_,
        lambda: {
            "ids": ids(),
            "targets": ids(),
            "params": params(),
            "grads": params(),
            "h": torch.zeros(B, H),
            "lr": 0.1,
            "max_norm": 1.0,
        },
        {
            "ids": IDS,
            "targets": IDS,
            "params": PARAMS,
            "grads": PARAMS,
            "h": STATE,
            "lr": NO_NUMBER,
            "max_norm": NO_NUMBER,
            "nonlinearity": NONLINEARITY,
        },
        {"h": ("h ", "h0", "state"), "params": PARAM_NAMES, "grads": ("grad",)},
    ),
    "functional.greedy_decode": Public(
        functional.greedy_decode,
        decoding,
        DECODING | {"nonlinearity": NONLINEARITY},
        STATES | {"params": PARAM_NAMES},
    ),
    "functional.sample_decode": Public(
        functional.sample_decode,
        decoding,
        DECODING
        | {
            "temperature": NO_NUMBER | st.sampled_from([0.0, -1.0, float("nan"), float("inf")]),
            "generator": st.sampled_from([3, "x", torch]),
        },
        STATES | {"params": PARAM_NAMES},
    ),
    "rnn": Public(
        rnnfast.rnn,
        lambda: {"inputs": ids(), "state": (torch.zeros(B, H),), "params": params()},
        {
            "inputs": IDS,
            "state": st.sampled_from([None, 3, torch.zeros(B, H), (), (1, 2)])
            | STATE.map(lambda wrong: (wrong,)),
            "params": LAYER_PARAMS,
        },
        {"params": PARAM_NAMES},
    ),
    "RNNModelScratch()": Public(
        lambda X, state: net()(X, state),
        lambda: {"X": ids().T, "state": (torch.zeros(B, H),)},
        {
            "X": IDS,
            "state": st.sampled_from([None, 3, torch.zeros(B, H), (), (1, 2)])
            | STATE.map(lambda wrong: (wrong,)),
        },
        {"X": ("X", "inputs", "ids")},
    ),
    "nn.RNN()": Public(
        rnnfast.nn.RNN(V, H),
        lambda: {"input": torch.zeros(T, B, V), "hx": torch.zeros(1, B, H)},
        {
            "input": st.sampled_from([None, 3, [1.0], np.zeros((T, B, V)), object()])
            | st.sampled_from([torch.float64, torch.complex64, torch.bool]).map(
                torch.zeros(T, B, V).to
            )
            | st.sampled_from([torch.zeros(V), torch.zeros(T, B, V + 1)]),
            "hx": st.sampled_from([3, [1.0], np.zeros(2), object()])
            | st.sampled_from([torch.zeros(1, B, 2), torch.zeros(2, B, H), torch.zeros(1, 2, H)]),
            "resets": st.sampled_from([3, [True], object()]),
        },
        {"hx": ("hx", "hidden")},  # in torch's words
    ),
    "clip_grad_norm_": Public(
        rnnfast.clip_grad_norm_,
        lambda: {"parameters": trained().params, "max_norm": 1.0},
        {
            "parameters": st.sampled_from([None, 3, "x", [3], [None]]),
            "max_norm": NO_NUMBER,
            "norm_type": NO_NUMBER,
        },
    ),
    "nn.RNN": Public(
        rnnfast.nn.RNN,
        lambda: {"input_size": V, "hidden_size": H},
        {
            "input_size": NO_INTEGER,
            "hidden_size": NO_INTEGER | st.just(0),
            "nonlinearity": st.sampled_from(["gelu", 3]),
            "leak": st.sampled_from(["x", [], object(), 0.0, 2.0, torch.zeros(2)]),
            "noise": NO_NUMBER | st.just(-1.0),
        },
    ),
    "nn.convert": Public(
        rnnfast.nn.convert,
        lambda: {"module": nn.RNN(V, H)},
        {"module": st.sampled_from([None, 3, "x", [nn.RNN(V, H)]])},
    ),
    "nn.revert": Public(
        rnnfast.nn.revert,
        lambda: {"module": rnnfast.nn.RNN(V, H)},
        {"module": st.sampled_from([None, 3, "x", [nn.RNN(V, H)]])},
    ),
}


def test_the_good_arguments_are_good():
    for each in FUNCTIONS.values():
        each.function(**each.good())


@pytest.mark.parametrize("name", FUNCTIONS)
@few_examples
@given(data=st.data())
def test_a_wrong_argument_is_named(backend, name, data):
    refuses(FUNCTIONS[name], data)


def test_inputs_that_are_batch_first_and_a_state_that_fits_them_are_both_named(backend):
    """Which of the two is wrong only the caller knows."""
    h0, model = torch.zeros(B, H), params()
    words = (
        rf"inputs have shape \({B}, {T}, {V}\), read as \[T, B, V\]: a batch of {T}; the state h0 "
        rf"has shape \({B}, {H}\), read as \[B, H\]: a batch of {B}; are inputs batch first\?"
    )
    with pytest.raises(RuntimeError, match=words):
        functional.rnn_logits(torch.zeros(B, T, V), h0, model)
    with pytest.raises(RuntimeError, match=r"ids have shape .* as \[T, B\]: a batch of 5"):
        functional.rnn_cross_entropy(ids().T, ids().T, h0, model)


@pytest.mark.parametrize("recorded", ["params", "h0"])
def test_gradients_as_results_are_refused_where_autograd_records(backend, recorded):
    """They would come back as if they depended on nothing."""
    model, grads, h0 = params(), params(), torch.zeros(B, H)
    (model[1] if recorded == "params" else h0).requires_grad_()
    before = [grad.clone() for grad in grads]
    with pytest.raises(RuntimeError, match=r"params or h0 require gradients.*torch\.no_grad\(\)"):
        functional.rnn_cross_entropy_grads(ids(), ids(), h0, model, grads=grads)
    assert all(map(torch.equal, before, grads))


@pytest.mark.parametrize("recorded", ["params", "h"])
def test_train_step_refuses_what_autograd_would_not_see(backend, recorded):
    """It changes tensors in place and leaves .grad alone, which a loop would take for training."""
    model, grads, h = params(), params(), torch.zeros(B, H)
    (model[1] if recorded == "params" else h).requires_grad_()
    before = [each.detach().clone() for each in (*model, *grads, h)]
    with pytest.raises(RuntimeError, match=r"params or h require gradients.*torch\.no_grad\(\)"):
        functional.train_step_(ids(), ids(), model, grads, h, 0.1, 1.0)
    assert all(map(torch.equal, before, (*model, *grads, h)))
    with torch.no_grad():
        functional.train_step_(ids(), ids(), model, grads, h, 0.1, 1.0)
    assert not torch.equal(model[1], before[1])


def test_gradients_that_cannot_be_overwritten_are_refused(backend):
    grads = list(params())
    grads[1] = grads[1].T
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"grads\[1\] is .* be contiguous"):
        functional.rnn_cross_entropy_grads(ids(), ids(), torch.zeros(B, H), params(), grads=grads)


@pytest.mark.parametrize(
    "h", [torch.zeros(1, H), torch.zeros(1, H).expand(B, H)], ids=["one row", "expanded"]
)
def test_train_step_refuses_a_state_that_it_cannot_overwrite(backend, h):
    model, grads = params(), params()
    before = [each.clone() for each in (*model, *grads)]
    with pytest.raises(RuntimeError, match=rf"h has shape .* contiguous and have {B} rows"):
        functional.train_step_(ids(), ids(), model, grads, h, 0.1, 1.0)
    assert all(map(torch.equal, before, (*model, *grads)))


def test_functions_refuse_the_state_of_a_layer_of_torch(backend):
    """The operators beneath take [1, B, H]."""
    with pytest.raises(RuntimeError, match=r"h0 has shape \(1, .* must be \[B, H\]"):
        functional.rnn(ids(), torch.zeros(1, B, H), *params()[:3])
