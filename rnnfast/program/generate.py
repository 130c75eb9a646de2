"""`rnnfast generate`: continue a text with a trained network."""

from __future__ import annotations

import argparse

import torch

from rnnfast.book.console import show
from rnnfast.book.data import Vocab
from rnnfast.book.generation import generate
from rnnfast.program import checkpoint, network


def run(options: argparse.Namespace) -> int:
    """Print the prefix and its continuation; ValueError for a character not trained on."""
    trained = checkpoint.load(options.checkpoint)
    unknown = sorted(set(options.prefix) - set(trained.vocab))
    if unknown:
        known = "".join(token for token in trained.vocab if len(token) == 1)
        raise ValueError(
            f"--prefix has characters that the training text ({trained.corpus}) had not: "
            f"{''.join(unknown)!r}; it knows {known!r}"
        )
    device = torch.device("cpu")
    net = network.build(trained.settings, len(trained.vocab), device, trained.params)
    vocab = Vocab(reserved_tokens=list(trained.vocab[1:]))
    generator = torch.Generator()
    if options.seed is None:
        generator.seed()
    else:
        generator.manual_seed(options.seed)
    call = (options.prefix, options.n, net, vocab, device)
    show(generate(*call, temperature=options.temperature, generator=generator))
    return 0
