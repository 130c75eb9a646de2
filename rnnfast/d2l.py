"""`from rnnfast import d2l` in place of `from d2l import torch as d2l`, for chapters 8 and 9.

Every name of d2l 0.17.6 that chapter 8 defines, and those of earlier chapters that its programs
use.
"""

from __future__ import annotations

from typing import Any

import torch

from rnnfast.book.data import (
    SeqDataLoader,
    Vocab,
    count_corpus,
    load_corpus_time_machine,
    load_data_time_machine,
    read_time_machine,
    seq_data_iter_random,
    seq_data_iter_sequential,
    tokenize,
)
from rnnfast.book.generation import predict_ch8
from rnnfast.book.meters import Accumulator, Animator, Timer
from rnnfast.book.models import RNNModel, RNNModelScratch
from rnnfast.book.plotting import plot, pyplot, set_axes, set_figsize, use_svg_display
from rnnfast.book.texts import DATA_HUB, DATA_URL, download
from rnnfast.book.training import grad_clipping, train_ch8, train_epoch_ch8
from rnnfast.training.levels import sgd

__all__ = [
    "DATA_HUB",
    "DATA_URL",
    "Accumulator",
    "Animator",
    "RNNModel",
    "RNNModelScratch",
    "SeqDataLoader",
    "Timer",
    "Vocab",
    "count_corpus",
    "download",
    "grad_clipping",
    "load_corpus_time_machine",
    "load_data_time_machine",
    "plot",
    "plt",
    "predict_ch8",
    "read_time_machine",
    "reshape",
    "seq_data_iter_random",
    "seq_data_iter_sequential",
    "set_axes",
    "set_figsize",
    "sgd",
    "size",
    "tensor",
    "tokenize",
    "train_ch8",
    "train_epoch_ch8",
    "try_all_gpus",
    "try_gpu",
    "use_svg_display",
    "zeros",
]

plt: Any  #: matplotlib.pyplot, imported when it is first asked for: see __getattr__

# The book's text writes its own predict_ch8 and train_epoch_ch8 with these names for torch's.
reshape = torch.reshape
size = torch.numel
tensor = torch.tensor
zeros = torch.zeros


def try_gpu(i: int = 0) -> torch.device:
    """The i-th CUDA device if there is one, else the CPU."""
    return torch.device(f"cuda:{i}" if i < torch.cuda.device_count() else "cpu")


def try_all_gpus() -> list[torch.device]:
    """All CUDA devices, or the CPU alone if there is none."""
    return [try_gpu(i) for i in range(max(1, torch.cuda.device_count()))]


def __getattr__(name: str) -> Any:
    if name == "plt":
        return pyplot()
    raise AttributeError(
        f"rnnfast.d2l has no {name!r}: it has what programs of chapter 8 take from d2l; other "
        "chapters' names are in the package d2l itself, `from d2l import torch as d2l`"
    )
