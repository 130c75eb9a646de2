"""`from rnnfast import d2l` in place of `from d2l import torch as d2l`, for chapters 8 and 9.

It has every name that d2l 0.17.6 takes from these chapters, and those of earlier chapters that
their programs use.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rnnfast.book.arguments import TENSOR, integer, named
from rnnfast.book.data import (
    SeqDataLoader,
    Vocab,
    count_corpus,
    load_array,
    load_corpus_time_machine,
    load_data_time_machine,
    read_time_machine,
    seq_data_iter_random,
    seq_data_iter_sequential,
    tokenize,
)
from rnnfast.book.generation import predict_ch8
from rnnfast.book.meters import Accumulator, Animator, Timer, evaluate_loss
from rnnfast.book.models import RNNModel, RNNModelScratch
from rnnfast.book.plotting import plot, pyplot, set_axes, set_figsize, use_svg_display
from rnnfast.book.seq2seq import (
    Decoder,
    Encoder,
    EncoderDecoder,
    MaskedSoftmaxCELoss,
    Seq2SeqEncoder,
    bleu,
    predict_seq2seq,
    sequence_mask,
    train_seq2seq,
)
from rnnfast.book.texts import DATA_HUB, DATA_URL, download, download_extract
from rnnfast.book.training import grad_clipping, train_ch8, train_epoch_ch8
from rnnfast.book.translation import (
    build_array_nmt,
    load_data_nmt,
    preprocess_nmt,
    read_data_nmt,
    show_list_len_pair_hist,
    tokenize_nmt,
    truncate_pad,
)
from rnnfast.optim import sgd

__all__ = [
    "DATA_HUB",
    "DATA_URL",
    "Accumulator",
    "Animator",
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "MaskedSoftmaxCELoss",
    "RNNModel",
    "RNNModelScratch",
    "Seq2SeqEncoder",
    "SeqDataLoader",
    "Timer",
    "Vocab",
    "abs",
    "arange",
    "argmax",
    "astype",
    "bleu",
    "build_array_nmt",
    "concat",
    "cos",
    "cosh",
    "count_corpus",
    "download",
    "download_extract",
    "evaluate_loss",
    "exp",
    "eye",
    "float32",
    "grad_clipping",
    "int32",
    "linspace",
    "load_array",
    "load_corpus_time_machine",
    "load_data_nmt",
    "load_data_time_machine",
    "log",
    "matmul",
    "meshgrid",
    "normal",
    "numpy",
    "ones",
    "plot",
    "plt",
    "predict_ch8",
    "predict_seq2seq",
    "preprocess_nmt",
    "rand",
    "read_data_nmt",
    "read_time_machine",
    "reduce_sum",
    "reshape",
    "seq_data_iter_random",
    "seq_data_iter_sequential",
    "sequence_mask",
    "set_axes",
    "set_figsize",
    "sgd",
    "show_list_len_pair_hist",
    "sin",
    "sinh",
    "size",
    "stack",
    "tanh",
    "tensor",
    "to",
    "tokenize",
    "tokenize_nmt",
    "train_ch8",
    "train_epoch_ch8",
    "train_seq2seq",
    "transpose",
    "truncate_pad",
    "try_all_gpus",
    "try_gpu",
    "use_svg_display",
    "zeros",
]

plt: Any  #: matplotlib.pyplot, imported when it is first asked for: see __getattr__

# The book writes these names for torch's functions,
abs, cos, cosh = torch.abs, torch.cos, torch.cosh
sin, sinh, tanh = torch.sin, torch.sinh, torch.tanh
exp, log, matmul, stack, concat = torch.exp, torch.log, torch.matmul, torch.stack, torch.cat
arange, eye, linspace, meshgrid = torch.arange, torch.eye, torch.linspace, torch.meshgrid
normal, ones, rand, tensor, zeros = torch.normal, torch.ones, torch.rand, torch.tensor, torch.zeros
float32, int32 = torch.float32, torch.int32


def _method(name: str) -> Callable[..., Any]:
    @named(x=TENSOR)
    def call(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return getattr(x, name)(*args, **kwargs)

    return call


# ... and these for methods of a tensor, which is the first argument.
argmax, reduce_sum, reshape, to = (_method(n) for n in ("argmax", "sum", "reshape", "to"))
astype, size, transpose = (_method(n) for n in ("type", "numel", "t"))


@named(x=TENSOR)
def numpy(x: Tensor) -> Any:
    """The tensor as a numpy array, cut off the graph."""
    return x.detach().numpy()


@named(i=integer(0))
def try_gpu(i: int = 0) -> torch.device:
    """The i-th CUDA device if there is one, else the CPU."""
    i = operator.index(i)
    return torch.device(f"cuda:{i}" if i < torch.cuda.device_count() else "cpu")


def try_all_gpus() -> list[torch.device]:
    """All CUDA devices, or the CPU alone if there is none."""
    return [try_gpu(i) for i in range(max(1, torch.cuda.device_count()))]


def __getattr__(name: str) -> Any:
    if name == "plt":
        return pyplot()
    raise AttributeError(
        f"rnnfast.d2l has no {name!r}: it has what programs of chapters 8 and 9 take from d2l; "
        "other chapters' names are in the package d2l itself, `from d2l import torch as d2l`"
    )
