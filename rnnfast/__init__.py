"""rnnfast: the fastest way to run and train a plain recurrent network in PyTorch.

A drop-in for the character RNN of Dive into Deep Learning, chapter 8: change one import.
"""

from rnnfast.book.generation import predict_ch8
from rnnfast.book.models import RNNModel, RNNModelScratch, get_params, init_rnn_state, rnn
from rnnfast.book.training import grad_clipping, train_ch8, train_epoch_ch8
from rnnfast.dispatch import BackendError, FallbackWarning, explain, use_backend
from rnnfast.nn import RNN, convert, revert
from rnnfast.optim import clip_grad_norm_

__version__ = "0.1.0"

__all__ = [
    "RNN",
    "BackendError",
    "FallbackWarning",
    "RNNModel",
    "RNNModelScratch",
    "clip_grad_norm_",
    "convert",
    "explain",
    "get_params",
    "grad_clipping",
    "init_rnn_state",
    "predict_ch8",
    "revert",
    "rnn",
    "train_ch8",
    "train_epoch_ch8",
    "use_backend",
]
