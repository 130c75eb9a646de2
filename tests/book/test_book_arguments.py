"""Every function of the book, given one argument that is of no use among good ones: it is named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rnnfast
from rnnfast import d2l
from support.arguments import (
    NO_DEVICE,
    NO_INTEGER,
    NO_LIST,
    NO_NUMBER,
    NO_TENSOR,
    NO_TEXT,
    NOT_CALLABLE,
    NOT_ITERABLE,
    B,
    H,
    Public,
    V,
    Wrong,
    few_examples,
    ids,
    net,
    refuses,
    trained,
)
from support.texts import skip_without_book

TEXT = "the quick brown fox"
VOCAB = d2l.Vocab(list(TEXT))
NO_NET: Wrong = st.sampled_from([None, 3, "x", object(), nn.Linear(2, 2)])
NO_BATCHES: Wrong = NOT_ITERABLE | st.sampled_from(
    [[], [3], [(1, 2)], [(ids(),)], [(ids(), ids(), ids())], [(ids(), "x")]]
)
SIZES: dict[str, Wrong] = {
    "batch_size": NO_INTEGER | st.integers(-1, 0),
    "num_steps": NO_INTEGER | st.integers(-1, 0),
}


def batch() -> tuple[Tensor, Tensor]:
    return ids().T.contiguous(), ids().T.contiguous()


def prophet() -> rnnfast.RNNModelScratch:
    """A net for the characters of the vocabulary."""
    return rnnfast.RNNModelScratch(
        len(VOCAB), H, "cpu", rnnfast.get_params, rnnfast.init_rnn_state, rnnfast.rnn
    )


def concise() -> rnnfast.RNNModel:
    return rnnfast.RNNModel(nn.RNN(V, H), V)


def training() -> dict[str, Any]:
    return {
        "net": net(),
        "train_iter": [batch()],
        "loss": nn.CrossEntropyLoss(),
        "updater": lambda batch_size: None,
        "device": "cpu",
        "use_random_iter": False,
    }


def of_sizes(call: Callable[..., Any], **sizes: int) -> Public:
    """A function of sizes and a device."""
    no_size = NO_INTEGER | st.just(-1)
    wrong = dict.fromkeys(sizes, no_size) | {"device": NO_DEVICE}
    return Public(call, lambda: {**sizes, "device": "cpu"}, wrong)


FUNCTIONS = {
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
    "RNNModel.begin_state": of_sizes(concise().begin_state, batch_size=B),
    "RNNModelScratch.begin_state": of_sizes(net().begin_state, batch_size=B),
    "get_params": of_sizes(rnnfast.get_params, vocab_size=V, num_hiddens=H),
    "init_rnn_state": of_sizes(rnnfast.init_rnn_state, batch_size=B, num_hiddens=H),
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
    "d2l.Animator": Public(
        d2l.Animator,
        lambda: {"xlabel": "x", "legend": ["a"], "xlim": [1, 2]},
        {
            "xlim": st.sampled_from([5, [1], object()]),
            "ylim": st.sampled_from([5, [1], object()]),
            "nrows": NO_INTEGER | st.just(0),
            "figsize": st.sampled_from([3, [1], object()]),
        },
    ),
    "d2l.Animator.add": Public(
        lambda **arguments: d2l.Animator().add(**arguments),
        lambda: {"x": 1, "y": [2.0]},
        {"x": st.sampled_from(["x", ["x"]]), "y": st.sampled_from(["x", object(), ["x"]])},
    ),
    "d2l.Accumulator.add": Public(
        lambda values: d2l.Accumulator(1).add(values),
        lambda: {"values": 1.0},
        {"values": NO_NUMBER.filter(lambda wrong: wrong is not None)},
    ),
    "d2l.plot": Public(
        d2l.plot,
        lambda: {"X": [1, 2], "Y": [3, 4]},
        {"X": NO_LIST, "Y": NOT_ITERABLE.filter(lambda wrong: wrong is not None)},
    ),
    "d2l.set_figsize": Public(
        d2l.set_figsize,
        lambda: {"figsize": (3, 2)},
        {"figsize": st.sampled_from([3, [1], object()])},
    ),
    "d2l.Vocab.to_tokens": Public(
        VOCAB.to_tokens, lambda: {"indices": 1}, {"indices": st.sampled_from(["x", None, 2.5])}
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


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_good_arguments_are_good(name):
    if name == "d2l.download":
        skip_without_book()
    FUNCTIONS[name].function(**FUNCTIONS[name].good())
    d2l.plt.close("all")


@pytest.mark.parametrize("name", FUNCTIONS)
@few_examples
@given(data=st.data())
def test_a_wrong_argument_is_named(name, data):
    refuses(FUNCTIONS[name], data)
