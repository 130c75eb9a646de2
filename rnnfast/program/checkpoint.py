"""Checkpoints of a training run: one safetensors file, written atomically, checked on reading.

A file holds the parameters, torch's random state as a tensor and, as JSON in the safetensors
metadata, everything else that a run needs to continue bit by bit. A SHA-256 of both stands before
the JSON, because safetensors itself does not notice a flipped byte in a tensor. It is one entry
and not two, because safetensors writes its entries in any order: equal runs leave equal files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rnnfast.backends.files import replacing
from rnnfast.program import network
from rnnfast.program.settings import Settings

FILE_NAME = "checkpoint.safetensors"  # in the directory of a run
FORMAT = 1
_TORCH_STATE = "torch_random_state"


class CheckpointError(Exception):
    """A checkpoint file that cannot be used. The message is one line: file, reason, remedy."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training run between two epochs. Raises ValueError where its parts do not fit together.

    params: as `network.shapes` names them, all float32 or all float64.
    corpus, sha1: the name by which `load_corpus` finds the text, and the hash of what it found.
    vocab: the V tokens by index. perplexities: one for each finished epoch.
    python_state: `random.getstate()`. torch_state: `torch.get_rng_state()`.
    """

    settings: Settings
    corpus: str
    sha1: str
    vocab: tuple[str, ...]
    params: tuple[Tensor, ...]
    perplexities: tuple[float, ...]
    python_state: tuple[Any, ...]
    torch_state: Tensor

    def __post_init__(self) -> None:
        for name in ("corpus", "sha1"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}, must be a string")
        if not self.vocab or not all(isinstance(token, str) for token in self.vocab):
            raise ValueError("the vocabulary must be a list of strings, and not empty")
        if len(set(self.vocab)) != len(self.vocab):
            raise ValueError("the vocabulary has a token twice")
        if not all(isinstance(p, float) and math.isfinite(p) for p in self.perplexities):
            raise ValueError("the perplexities must be finite floats")
        self._check_params()
        self._check_random_states()

    def _check_params(self) -> None:
        V, H = len(self.vocab), self.settings.num_hiddens
        shapes = network.shapes(self.settings, V)
        first, dtype = next(iter(shapes)), self.params[0].dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{first} is {dtype}, must be float32 or float64")
        for (name, shape), param in zip(shapes.items(), self.params, strict=True):
            if tuple(param.shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(param.shape)}, must be {shape} for a vocabulary "
                    f"of {V} tokens and {H} hidden units"
                )
            if param.dtype != dtype:
                raise ValueError(f"{name} is {param.dtype}, must be {dtype} like {first}")
            if not bool(param.isfinite().all()):
                raise ValueError(f"{name} contains NaN or infinite values")

    def _check_random_states(self) -> None:
        try:
            random.Random().setstate(self.python_state)
            torch.Generator().set_state(self.torch_state)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(f"the state of the random generators is unusable: {error}") from None

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.perplexities)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file whole or not at all: what was there stays until the new one is complete.

    Raises OSError, which names the file, where it cannot be written.
    """
    tensors = _tensors(checkpoint)
    described = {
        "format": FORMAT,
        "settings": dataclasses.asdict(checkpoint.settings),
        "corpus": checkpoint.corpus,
        "sha1": checkpoint.sha1,
        "vocab": checkpoint.vocab,
        "perplexities": checkpoint.perplexities,
        "python_state": checkpoint.python_state,
    }
    text = json.dumps(described, allow_nan=False)
    metadata = {"rnnfast": f"{_digest(text, tensors)} {text}"}
    with replacing(path) as partial:
        partial.write_bytes(safetensors.torch.save(tensors, metadata))


def load(path: Path) -> Checkpoint:
    """Read and check a checkpoint; CheckpointError where it is not whole, or not one of ours."""
    raw = _read(path)
    try:
        tensors = safetensors.torch.load(raw)
        metadata = _metadata(raw)
    except (safetensors.SafetensorError, ValueError, RuntimeError, TypeError) as error:
        raise _unusable(
            path, f"it is damaged, cut off or not a safetensors file ({error})"
        ) from None
    if "rnnfast" not in metadata:
        raise _unusable(path, "it is a safetensors file, but rnnfast did not write it")
    digest, _, text = metadata["rnnfast"].partition(" ")
    if digest != _digest(text, tensors):
        raise _unusable(path, "it is damaged: its contents do not match its checksum")
    try:
        return _checkpoint(json.loads(text), tensors)
    except (ValueError, TypeError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise _unusable(path, f"it is not consistent: {reason}") from None


def _tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    names = network.shapes(checkpoint.settings, len(checkpoint.vocab))
    named = dict(zip(names, checkpoint.params, strict=True))
    named[_TORCH_STATE] = checkpoint.torch_state
    return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}


def _checkpoint(described: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    if described["format"] != FORMAT:
        raise ValueError(
            f"its format is {described['format']!r}, this version of rnnfast reads {FORMAT}"
        )
    version, internal, gauss_next = described["python_state"]
    settings, vocab = Settings(**described["settings"]), tuple(described["vocab"])
    return Checkpoint(
        settings=settings,
        corpus=described["corpus"],
        sha1=described["sha1"],
        vocab=vocab,
        # They are copied, since the loaded ones lie in one buffer: at other offsets a kernel may
        # sum in another order, which gives other bits.
        params=tuple(tensors[name].clone() for name in network.shapes(settings, len(vocab))),
        perplexities=tuple(described["perplexities"]),
        python_state=(version, tuple(internal), gauss_next),
        torch_state=tensors[_TORCH_STATE].clone(),
    )


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise _unusable(path, "it is a directory, not a file")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"checkpoint {path} does not exist: give the path of a file that `rnnfast train` wrote"
        ) from None
    except OSError as error:
        raise _unusable(path, f"it cannot be read ({error.strerror})") from None


def _metadata(raw: bytes) -> dict[str, str]:
    """The string pairs in the header, which `safetensors.torch.load` leaves out."""
    length = int.from_bytes(raw[:8], "little")
    metadata: dict[str, str] = json.loads(raw[8 : 8 + length]).get("__metadata__", {})
    return metadata


def _unusable(path: Path, reason: str) -> CheckpointError:
    line = " ".join(reason.split())
    return CheckpointError(
        f"checkpoint {path} cannot be used: {line}; give another file, or train again into a new "
        f"directory"
    )
