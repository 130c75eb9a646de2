"""Every public function, given one argument that is of no use among good ones.

Hypothesis chooses the function, the argument and what is wrong with it: its type, shape, dtype,
layout, device or length. The call must end in TypeError, ValueError or RuntimeError, with a message
that names the argument.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import rnnfast.nn
from rnnfast import d2l, functional

T, B, V, H = 5, 3, 7, 11  # odd: no size that is drawn below fits by chance
TEXT = "the quick brown fox"
VOCAB = d2l.Vocab(list(TEXT))

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


def params() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((V, H), (H, H), (H,), (H, V), (V,))
    return tuple(torch.randn(shape, generator=generator) * 0.1 for shape in shapes)


def ids() -> Tensor:
    return torch.randint(V, (T, B), generator=torch.Generator().manual_seed(0))


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


@dataclass
class Public:
    """A function, good arguments for it, and what each of them must not be."""

    function: Callable[..., Any]
    good: Callable[[], dict[str, Any]]
    wrong: dict[str, Wrong]
    called: dict[str, tuple[str, ...]] = field(default_factory=dict)  # other words for an argument


def batch() -> tuple[Tensor, Tensor]:
    return ids().T.contiguous(), ids().T.contiguous()


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


def prophet() -> rnnfast.RNNModelScratch:
    """A net for the characters of the vocabulary."""
    return rnnfast.RNNModelScratch(
        len(VOCAB), H, "cpu", rnnfast.get_params, rnnfast.init_rnn_state, rnnfast.rnn
    )


def concise() -> rnnfast.RNNModel:
    return rnnfast.RNNModel(nn.RNN(V, H), V)


def recurrence() -> dict[str, Any]:
    W_xh, W_hh, b_h, _, _ = params()
    return {"inputs": ids(), "h0": torch.zeros(B, H), "W_xh": W_xh, "W_hh": W_hh, "b_h": b_h}


def model() -> dict[str, Any]:
    return {"inputs": ids(), "h0": torch.zeros(B, H), "params": params()}


def loss() -> dict[str, Any]:
    return {"ids": ids(), "targets": ids(), "h0": torch.zeros(B, H), "params": params()}


def decoding() -> dict[str, Any]:
    return {"first": ids()[0], "h0": torch.zeros(B, H), "params": params(), "steps": 2}


def training() -> dict[str, Any]:
    return {
        "net": net(),
        "train_iter": [batch()],
        "loss": nn.CrossEntropyLoss(),
        "updater": lambda batch_size: None,
        "device": "cpu",
        "use_random_iter": False,
    }


W_XH, W_HH, B_H, W_HQ, B_Q = (no_tensor_like(p, *FLOATS) for p in params())
STATES = {"h0": ("h0", "state")}
NO_NET: Wrong = st.sampled_from([None, 3, "x", object(), nn.Linear(2, 2)])
NO_BATCHES: Wrong = NOT_ITERABLE | st.sampled_from(
    [[], [3], [(1, 2)], [(ids(),)], [(ids(), ids(), ids())], [(ids(), "x")]]
)
SIZES: dict[str, Wrong] = {
    "batch_size": NO_INTEGER | st.integers(-1, 0),
    "num_steps": NO_INTEGER | st.integers(-1, 0),
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
        {
            "first": no_tensor_like(ids()[0], torch.int32, torch.float32),
            "h0": STATE,
            "params": PARAMS,
            "steps": NO_INTEGER | st.just(-1),
            "nonlinearity": NONLINEARITY,
        },
        STATES | {"params": PARAM_NAMES},
    ),
    "functional.sample_decode": Public(
        functional.sample_decode,
        decoding,
        {
            "first": no_tensor_like(ids()[0], torch.int32, torch.float32),
            "h0": STATE,
            "params": PARAMS,
            "steps": NO_INTEGER | st.just(-1),
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
    "RNNModelScratch": Public(
        rnnfast.RNNModelScratch,
        lambda: {
            "vocab_size": V,
            "num_hiddens": H,
            "device": "cpu",
            "get_params": rnnfast.get_params,
            "init_state": rnnfast.init_rnn_state,
            "forward_fn": rnnfast.rnn,
        },
        {
            "vocab_size": NO_INTEGER | st.just(-1),
            "num_hiddens": NO_INTEGER | st.just(-1),
            "device": NO_DEVICE,
            "get_params": NOT_CALLABLE,
        },
    ),
    "RNNModel": Public(
        rnnfast.RNNModel,
        lambda: {"rnn_layer": nn.RNN(V, H), "vocab_size": V},
        {"rnn_layer": NO_NET, "vocab_size": NO_INTEGER | st.just(-1)},
    ),
    "RNNModel()": Public(
        concise(),
        lambda: {"inputs": ids().T, "state": torch.zeros(1, B, H)},
        {"inputs": NO_TENSOR | st.none()},
    ),
    "RNNModel.begin_state": Public(
        concise().begin_state,
        lambda: {"device": "cpu", "batch_size": B},
        {"device": NO_DEVICE, "batch_size": NO_INTEGER | st.just(-1)},
    ),
    "RNNModelScratch.begin_state": Public(
        net().begin_state,
        lambda: {"device": "cpu", "batch_size": B},
        {"device": NO_DEVICE, "batch_size": NO_INTEGER | st.just(-1)},
    ),
    "get_params": Public(
        rnnfast.get_params,
        lambda: {"vocab_size": V, "num_hiddens": H, "device": "cpu"},
        {
            "vocab_size": NO_INTEGER | st.just(-1),
            "num_hiddens": NO_INTEGER | st.just(-1),
            "device": NO_DEVICE,
        },
    ),
    "init_rnn_state": Public(
        rnnfast.init_rnn_state,
        lambda: {"batch_size": B, "num_hiddens": H, "device": "cpu"},
        {
            "batch_size": NO_INTEGER | st.just(-1),
            "num_hiddens": NO_INTEGER | st.just(-1),
            "device": NO_DEVICE,
        },
    ),
    "predict_ch8": Public(
        rnnfast.predict_ch8,
        lambda: {
            "prefix": "the",
            "num_preds": 3,
            "net": prophet(),
            "vocab": VOCAB,
            "device": "cpu",
        },
        {
            "prefix": NO_LIST,
            "num_preds": NO_INTEGER,
            "net": NO_NET,
            "vocab": st.sampled_from([2.5, object()]),
            "device": NO_DEVICE,
        },
    ),
    "train_epoch_ch8": Public(
        rnnfast.train_epoch_ch8,
        training,
        {
            "net": NO_NET,
            "train_iter": NO_BATCHES,
            "loss": NOT_CALLABLE,
            "updater": NOT_CALLABLE,
            "device": NO_DEVICE,
            "clip": NO_NUMBER.filter(lambda wrong: wrong is not None),
        },
    ),
    "train_ch8": Public(
        rnnfast.train_ch8,
        lambda: {
            "net": prophet(),
            "train_iter": [batch()],
            "vocab": VOCAB,
            "lr": 0.1,
            "num_epochs": 1,
            "device": "cpu",
        },
        {
            "net": NO_NET,
            "train_iter": NO_BATCHES,
            "vocab": st.sampled_from([2.5, object()]),
            "lr": NO_NUMBER,
            "num_epochs": NO_INTEGER | st.integers(-2, 0),
            "device": NO_DEVICE,
        },
    ),
    "grad_clipping": Public(
        rnnfast.grad_clipping,
        lambda: {"net": trained(), "theta": 1.0},
        {"net": st.sampled_from([None, 3, "x", [torch.zeros(2)]]), "theta": NO_NUMBER},
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
    "d2l.sgd": Public(
        d2l.sgd,
        lambda: {"params": trained().params, "lr": 0.1, "batch_size": 1},
        {
            "params": st.sampled_from([None, 3, "x", [3], [None], [torch.zeros(2)]]),
            "lr": NO_NUMBER,
            "batch_size": NO_NUMBER,
        },
    ),
    "d2l.tokenize": Public(
        d2l.tokenize,
        lambda: {"lines": [TEXT], "token": "word"},
        {"lines": NO_LIST | st.just([3]), "token": NO_TEXT | st.just("letter")},
    ),
    "d2l.count_corpus": Public(d2l.count_corpus, lambda: {"tokens": [1]}, {"tokens": NO_LIST}),
    "d2l.Vocab": Public(
        d2l.Vocab,
        lambda: {"tokens": list(TEXT), "min_freq": 0, "reserved_tokens": None},
        {
            "tokens": NO_LIST.filter(lambda wrong: wrong is not None),
            "min_freq": st.sampled_from(["x", None, object()]),
            "reserved_tokens": st.sampled_from([3, object()]),
        },
    ),
    "d2l.seq_data_iter_random": Public(
        lambda **arguments: list(d2l.seq_data_iter_random(**arguments)),
        lambda: {"corpus": VOCAB[list(TEXT)], "batch_size": 2, "num_steps": 3},
        SIZES | {"corpus": NO_LIST},
    ),
    "d2l.seq_data_iter_sequential": Public(
        lambda **arguments: list(d2l.seq_data_iter_sequential(**arguments)),
        lambda: {"corpus": VOCAB[list(TEXT)], "batch_size": 2, "num_steps": 3},
        SIZES | {"corpus": NO_LIST},
    ),
    "d2l.load_array": Public(
        d2l.load_array,
        lambda: {"data_arrays": (torch.zeros(3), torch.zeros(3)), "batch_size": 2},
        {
            "data_arrays": st.sampled_from([None, 3, (), (3,), (torch.zeros(3), torch.zeros(2))]),
            "batch_size": NO_INTEGER.filter(lambda wrong: wrong is not None) | st.just(0),
        },
    ),
    "d2l.evaluate_loss": Public(
        d2l.evaluate_loss,
        lambda: {
            "net": nn.Identity(),
            "data_iter": [(torch.zeros(3), torch.zeros(3))],
            "loss": nn.MSELoss(reduction="none"),
        },
        {"net": NOT_CALLABLE, "data_iter": NOT_ITERABLE | st.just([]), "loss": NOT_CALLABLE},
    ),
    "d2l.Accumulator": Public(d2l.Accumulator, lambda: {"n": 2}, {"n": NO_INTEGER}),
    "d2l.try_gpu": Public(d2l.try_gpu, lambda: {"i": 0}, {"i": NO_INTEGER | st.just(-1)}),
    "d2l.download": Public(
        d2l.download, lambda: {"name": "time_machine"}, {"name": NO_TEXT | st.just("best")}
    ),
    "d2l.numpy": Public(d2l.numpy, lambda: {"x": torch.zeros(2)}, {"x": NO_TENSOR | st.none()}),
    "d2l.preprocess_nmt": Public(d2l.preprocess_nmt, lambda: {"text": TEXT}, {"text": NO_TEXT}),
    "d2l.tokenize_nmt": Public(
        d2l.tokenize_nmt,
        lambda: {"text": TEXT, "num_examples": 1},
        {"text": NO_TEXT, "num_examples": st.sampled_from(["x", 2.5, object()])},
    ),
    "d2l.truncate_pad": Public(
        d2l.truncate_pad,
        lambda: {"line": [1, 2], "num_steps": 3, "padding_token": 0},
        {"line": st.sampled_from([3, None, object()]), "num_steps": NO_INTEGER},
    ),
    "d2l.build_array_nmt": Public(
        d2l.build_array_nmt,
        lambda: {"lines": [["a"]], "vocab": VOCAB, "num_steps": 3},
        {"lines": st.sampled_from([3, None, object()]), "vocab": NO_LIST, "num_steps": NO_INTEGER},
    ),
    "d2l.Seq2SeqEncoder": Public(
        d2l.Seq2SeqEncoder,
        lambda: {"vocab_size": V, "embed_size": 4, "num_hiddens": H, "num_layers": 1},
        {
            "vocab_size": NO_INTEGER,
            "embed_size": NO_INTEGER,
            "num_hiddens": NO_INTEGER | st.just(0),
            "num_layers": NO_INTEGER | st.just(0),
        },
    ),
    "d2l.EncoderDecoder": Public(
        d2l.EncoderDecoder,
        lambda: {"encoder": d2l.Encoder(), "decoder": d2l.Decoder()},
        {"encoder": st.sampled_from([3, "x", object()]), "decoder": st.sampled_from([3, object()])},
    ),
    "d2l.sequence_mask": Public(
        d2l.sequence_mask,
        lambda: {"X": torch.zeros(2, 3), "valid_len": torch.tensor([1, 2])},
        {"X": NO_TENSOR | st.none(), "valid_len": st.sampled_from([None, 3, "x", [1, 2]])},
    ),
    "d2l.bleu": Public(
        d2l.bleu,
        lambda: {"pred_seq": TEXT, "label_seq": TEXT, "k": 2},
        {"pred_seq": NO_TEXT, "label_seq": NO_TEXT, "k": NO_INTEGER},
    ),
}


def test_the_good_arguments_are_good():
    for each in FUNCTIONS.values():
        each.function(**each.good())


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("backend", ["native", "reference"])
@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_wrong_argument_is_named(name, backend, data):
    public = FUNCTIONS[name]
    argument = data.draw(st.sampled_from(sorted(public.wrong)), label="argument")
    wrong = data.draw(public.wrong[argument], label="what it is")
    errors = (TypeError, ValueError, RuntimeError)
    with rnnfast.use_backend(backend), pytest.raises(errors) as caught:
        public.function(**public.good() | {argument: wrong})
    d2l.plt.close("all")
    message = str(caught.value)
    assert any(word in message for word in public.called.get(argument, (argument,))), message


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
