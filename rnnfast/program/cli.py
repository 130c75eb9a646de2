"""The program `rnnfast`: its options, its exit codes, and which module runs each subcommand.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C. A failure is one line on stderr.
A subcommand is a function here that adds its options, a row in `_COMMANDS`, and a module of its
name beside this one, imported only when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import torch

import rnnfast
from rnnfast import dispatch
from rnnfast.book import texts
from rnnfast.program import checkpoint
from rnnfast.program.checkpoint import CheckpointError
from rnnfast.program.settings import Settings

RUN_DIRECTORY = Path("rnnfast-run")


def main(argv: list[str] | None = None) -> int:
    """Run the program on these arguments (default: those of the process); returns the exit code.

    Wrong usage, --help and --version leave by SystemExit, as argparse does.
    """
    options = _parser().parse_args(argv)
    command = importlib.import_module(f"rnnfast.program.{options.command}")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code: int = command.run(options)
    except KeyboardInterrupt:
        print("rnnfast: stopped", file=sys.stderr)
        return 130
    except (CheckpointError, OSError, RuntimeError, ValueError) as error:
        print(f"rnnfast: error: {' '.join(str(error).split())}", file=sys.stderr)
        _drop_unwritten_output()
        return 1
    return code


def _drop_unwritten_output() -> None:
    """Forget what the standard output refused: Python would try it again at its end, and fail."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line, as for an error; through tqdm, which keeps it apart from a progress bar."""
    from tqdm import tqdm

    tqdm.write(f"rnnfast: warning: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnfast", description="Train and run a character-level recurrent network, fast."
    )
    parser.add_argument("--version", action="version", version=f"rnnfast {rnnfast.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, add_options) in _COMMANDS.items():
        add_options(subparsers.add_parser(name, help=summary, description=summary))
    return parser


class _Refused(argparse.Action):
    """An option that is asked for and cannot be had; its help says why."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.error(f"{self.option_strings[0]} is {self.help}")


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    def setting(flag: str, name: str, type: Callable[[str], Any], value: str, summary: str) -> None:
        # None means "not given": --resume then takes the value from the checkpoint.
        help = f"{summary} (default {getattr(Settings, name)})"
        parser.add_argument(flag, dest=name, type=type, metavar=value, help=help)

    positive, count = _whole_number(1), _whole_number(0)
    parser.add_argument(
        "--data",
        type=_corpus,
        metavar="|".join((*texts.NAMED, "FILE")),
        help="text to train on (default: the book time_machine, or docs where it cannot be had)",
    )
    setting("--batch-size", "batch_size", positive, "N", "sequences per batch")
    setting("--num-steps", "num_steps", positive, "N", "characters per sequence")
    setting("--hiddens", "num_hiddens", positive, "N", "hidden units")
    setting("--layers", "layers", positive, "N", "recurrent layers")
    parser.add_argument(
        "--bidirectional",
        action=_Refused,
        nargs=0,
        help="refused: a network that reads the text backwards as well cannot generate",
    )
    setting("--lr", "lr", _positive_float, "X", "learning rate")
    setting("--clip", "clip", _clip, "X", "largest gradient norm; 0 or none: no limit")
    setting("--epochs", "epochs", positive, "N", "epochs in total")
    setting("--max-tokens", "max_tokens", count, "N", "characters of the text to use; 0: all")
    parser.add_argument(
        "--random-iter",
        action="store_const",
        const=True,
        help="sample sequences at random instead of in order",
    )
    setting("--seed", "seed", count, "N", "seed of all randomness")
    parser.add_argument(
        "--device",
        type=_device,
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1, ... (default auto)",
    )
    parser.add_argument(
        "--backend",
        type=_backend,
        default="auto",
        metavar="NAME",
        help="see `rnnfast info` (default auto)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RUN_DIRECTORY,
        metavar="DIR",
        help="directory for checkpoint, curve and figures (default %(default)s)",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue the run in DIR")
    existing.add_argument("--force", action="store_true", help="overwrite the run in DIR")


def _add_generate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=RUN_DIRECTORY / checkpoint.FILE_NAME,
        metavar="FILE",
        help="what `rnnfast train` wrote (default %(default)s)",
    )
    parser.add_argument(
        "--prefix", type=_text, default="time traveller", help="start of the text (%(default)r)"
    )
    parser.add_argument(
        "-n", type=_whole_number(1), default=50, help="characters to add (default %(default)s)"
    )
    parser.add_argument(
        "--temperature",
        type=_non_negative_float,
        default=0.0,
        metavar="X",
        help="0 takes the likeliest character; above 0 samples (default %(default)s)",
    )
    parser.add_argument(
        "--seed", type=_whole_number(0), metavar="N", help="seed of the sampling (default: any)"
    )


def _add_bench_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds",
        type=_positive_float,
        default=60.0,
        metavar="X",
        help="how long to measure (default %(default)s)",
    )


def _add_build_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch",
        action="append",
        type=_architecture,
        metavar="NAME",
        help="80, 90a, 100, ...; may be given several times (default: the devices here)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print registers, spills and shared memory as JSON"
    )


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "train": ("Train on a text; leaves a checkpoint and a curve.", _add_train_options),
    "generate": ("Continue a text with a trained network.", _add_generate_options),
    "bench": ("Compare training speed with the textbook's own loop.", _add_bench_options),
    "build": ("Compile the CUDA kernels ahead of their first use.", _add_build_options),
    "info": ("Show versions, the native build, and which backend runs.", lambda _: None),
}


def _whole_number(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # torch takes no larger seeds or sizes than 63 bits
        if not text.isdecimal() or not minimum <= int(text) < 2**63:
            raise argparse.ArgumentTypeError(f"must be a whole number from {minimum}, not {text!r}")
        return int(text)

    return parse


def _non_negative_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"must be a number, 0 or more, not {text!r}")
    return value


def _positive_float(text: str) -> float:
    value = _non_negative_float(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text!r}")
    return value


def _clip(text: str) -> float:
    return 0.0 if text == "none" else _non_negative_float(text)


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _corpus(text: str) -> str:
    if text not in texts.NAMED and not Path(text).is_file():
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither an existing file nor one of {', '.join(texts.NAMED)}"
        )
    return text


def _device(text: str) -> str:
    try:
        if text != "auto":
            torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"must be cpu, cuda, cuda:1, ..., not {text!r}") from None
    return text


def _architecture(text: str) -> str:
    if not re.fullmatch(r"[89]\d|90a|1\d\d", text):
        raise argparse.ArgumentTypeError(f"must be 80, 86, 89, 90a, 100, 120, ..., not {text!r}")
    return "90a" if text == "90" else text


def _backend(text: str) -> str:
    try:
        with dispatch.use_backend(text):
            return text
    except dispatch.BackendError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
