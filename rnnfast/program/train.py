"""`rnnfast train`: train on a text; leaves a checkpoint, the perplexity curve and the figures."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import platform
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import rnnfast
from rnnfast import dispatch
from rnnfast.backends.files import replacing
from rnnfast.book import texts
from rnnfast.book.console import escaped, show
from rnnfast.book.data import Corpus, default_corpus, load_corpus
from rnnfast.book.generation import generate
from rnnfast.program import checkpoint
from rnnfast.program.checkpoint import Checkpoint
from rnnfast.program.settings import Settings
from rnnfast.program.training_run import Run

CURVE, FIGURES = "perplexity.png", "metrics.json"
COUNTING_STEPS = 20  # as in notebook 2: with 35, its 1,000 digits do not fill one minibatch


def run(options: argparse.Namespace) -> int:
    """Train as the options say; 130 where Ctrl-C or SIGTERM ended it, with all files written."""
    previous = _previous(options)
    settings = _settings(options, previous)
    corpus = _corpus(options.data, settings, previous)
    device = _device(options.device)
    with dispatch.use_backend(options.backend):
        training = Run(settings, corpus, device, previous)
        _make_writable(options.out)
        _announce(training)
        with _saying_what_is_stored(training):
            try:
                training.train(options.out / checkpoint.FILE_NAME)
            except KeyboardInterrupt:
                _write_reports(training, options.out)
                print(
                    f"rnnfast: stopped after epoch {training.epoch} of {settings.epochs}; continue "
                    f"with: {_resume_command(options)}",
                    file=sys.stderr,
                )
                return 130
            _write_reports(training, options.out)
            _print_results(training)
            show(f"wrote {checkpoint.FILE_NAME}, {CURVE} and {FIGURES} to {options.out}")
    return 0


@contextlib.contextmanager
def _saying_what_is_stored(training: Run) -> Iterator[None]:
    """Add to an error of the system which checkpoint is safe."""
    try:
        yield
    except OSError as error:
        epoch = training.stored_epoch
        stored = "no checkpoint is stored yet" if epoch is None else f"epoch {epoch} is stored"
        raise OSError(error.errno, f"{error.strerror or error}; {stored}") from error


def _previous(options: argparse.Namespace) -> Checkpoint | None:
    """The checkpoint to resume from. FileExistsError where a new run would destroy a file."""
    for path in (options.out / name for name in (checkpoint.FILE_NAME, CURVE, FIGURES)):
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a directory, must be a file; give another --out")
        if path.exists() and not (options.force or options.resume):
            raise FileExistsError(
                f"{path} is there already: --resume continues that run, --force overwrites it, "
                "--out takes another directory"
            )
    return checkpoint.load(options.out / checkpoint.FILE_NAME) if options.resume else None


def _settings(options: argparse.Namespace, previous: Checkpoint | None) -> Settings:
    names = [field.name for field in dataclasses.fields(Settings)]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if previous is None:
        defaults = {"num_steps": COUNTING_STEPS} if options.data == "counting" else {}
        return Settings(**{**defaults, **given})
    epochs = given.pop("epochs", previous.settings.epochs)
    for name, value in given.items():
        kept = getattr(previous.settings, name)
        if value != kept:
            raise ValueError(
                f"{name} of the run to resume is {kept}, not {value}: leave the option out, or "
                "start another run with another --out"
            )
    if epochs <= previous.epoch:
        raise ValueError(
            f"the run in {options.out} has finished {previous.epoch} epochs: to train on, give "
            f"--resume --epochs with a number above {previous.epoch}"
        )
    return dataclasses.replace(previous.settings, epochs=epochs)


def _corpus(data: str | None, settings: Settings, previous: Checkpoint | None) -> Corpus:
    """The text that the options name, or the run to resume, or the default one."""
    name = data or (previous.corpus if previous else None)
    if name is None:
        corpus = default_corpus(settings.max_tokens)
    elif name in texts.NAMED:
        corpus = load_corpus(name, settings.max_tokens)
    else:  # absolute, so that the run can be resumed from any directory
        corpus = load_corpus(str(Path(name).resolve()), settings.max_tokens)
    vocab = tuple(corpus.vocab.idx_to_token)
    if previous and (corpus.sha1, vocab) != (previous.sha1, previous.vocab):
        raise ValueError(
            f"the text {corpus.name} with SHA-1 {corpus.sha1} and {len(vocab)} tokens is not that "
            f"of the run to resume, {previous.corpus} with {previous.sha1} and "
            f"{len(previous.vocab)} tokens in its own order: give that text with --data"
        )
    return corpus


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name} cannot be used here: {error}") from error
    return device


def _make_writable(directory: Path) -> None:
    """Create the directory and a file in it now, so that the run does not fail after training."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        reason = "it is a file" if directory.is_file() else error.strerror
        raise OSError(f"--out {directory} cannot be written to: {reason}") from error


def _announce(training: Run) -> None:
    corpus, settings = training.corpus, training.settings
    if corpus.note:
        show(f"note: {corpus.note}")
    show(f"corpus: {corpus.name}, {len(corpus.ids)} characters, SHA-1 {corpus.sha1}")
    explanation = str(dispatch.explain(training.net)).splitlines()[0]
    show(f"{settings.num_hiddens} hidden units, {explanation}")


def _print_results(training: Run) -> None:
    show(
        f"perplexity {training.perplexities[-1]:.1f}, {training.speeds[-1]:.1f} tokens/s "
        f"on {training.device}"
    )
    for prefix in _prefixes(training.corpus):
        show(generate(prefix, 50, training.net, training.corpus.vocab, training.device))


def _prefixes(corpus: Corpus) -> list[str]:
    """The notebook's prefixes, or the text's own start where its vocabulary cannot spell them."""
    if set("time traveller") <= set(corpus.vocab.idx_to_token):
        return ["time traveller", "traveller"]
    return ["".join(corpus.vocab.to_tokens(corpus.ids[:5]))]


def _write_reports(training: Run, directory: Path) -> None:
    with replacing(directory / FIGURES) as partial:
        partial.write_text(json.dumps(_figures(training), indent=1) + "\n")
    from matplotlib.figure import Figure  # 0.5 s, not needed before
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    title = escaped(Path(training.corpus.name).name, "utf-8")  # a name may hold any bytes
    axes.plot(range(1, training.epoch + 1), training.perplexities)
    axes.set(xlabel="epoch", ylabel="perplexity", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    with replacing(directory / CURVE) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _figures(training: Run) -> dict[str, object]:
    corpus, explanation = training.corpus, dispatch.explain(training.net)
    return {
        "corpus": {
            "name": corpus.name,
            "sha1": corpus.sha1,
            "note": corpus.note,
            "characters": len(corpus.ids),
            "vocabulary": len(corpus.vocab),
        },
        "settings": dataclasses.asdict(training.settings),
        "versions": {
            "rnnfast": rnnfast.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "device": str(training.device),
        "threads": torch.get_num_threads(),
        "backend": explanation.backend,
        "level": explanation.training,
        "perplexity": training.perplexities,
        "tokens_per_second": training.speeds,  # of the epochs since the last start or resume
    }


def _resume_command(options: argparse.Namespace) -> str:
    words = ["rnnfast", "train", "--resume", "--out", str(options.out)]
    for name in ("device", "backend"):
        if getattr(options, name) != "auto":
            words += [f"--{name}", getattr(options, name)]
    return shlex.join(words)
