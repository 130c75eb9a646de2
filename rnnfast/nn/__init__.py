"""Recurrent layers with torch.nn's interface."""

from rnnfast.nn.convert import convert, revert
from rnnfast.nn.rnn import RNN

__all__ = ["RNN", "convert", "revert"]
