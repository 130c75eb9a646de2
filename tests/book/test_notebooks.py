"""Both notebooks of the chapter, run whole: with our d2l, and with our functions for their own."""

import ast
import random
import re
from pathlib import Path

import matplotlib
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

import rnnfast
from rnnfast import d2l
from support.compare import assert_close_to_f64
from support.texts import skip_without_book

_NOTEBOOKS = Path(__file__).parents[3] / "shared" / "reference"
_OURS = {
    "scratch": "get_params init_rnn_state rnn RNNModelScratch predict_ch8 grad_clipping "
    "train_epoch_ch8 train_ch8",
    "concise": "RNNModel predict_ch8",
}
_NOT_CODE = re.compile(r"^(%.*|[\u4e00-\u9fff].*)$", re.MULTILINE)  # magics, and text in Chinese
_OUTPUT = re.compile(r"torch\.Size|\(torch\.Size|\(?tensor\(|\(\d|\((True|False)|False$|\[1, |True")


class Notebook:
    """The cells of a notebook's text export, and what running them shows."""

    def __init__(self, name: str) -> None:
        path = _NOTEBOOKS / f"rnn_{name}_notebook.txt"
        if not path.exists():
            pytest.skip("the notebooks are not beside this checkout (../shared/reference)")
        cells = re.split(r"In \[\w+\]:\n", path.read_text("utf-8"))[1:]
        parts = [_split(_NOT_CODE.sub("", cell)) for cell in cells]
        self.cells = [code for code, _ in parts]
        self.recorded = [output for _, output in parts]
        self.change(
            r"(from d2l import torch as|import d2l\.torch as) d2l", "from rnnfast import d2l"
        )

    def change(self, pattern: str, replacement: str) -> None:
        cells = [re.sub(pattern, replacement, cell) for cell in self.cells]
        assert cells != self.cells, f"no cell has {pattern}"
        self.cells = cells

    def use_ours(self, names: str) -> None:
        """Take the definitions out of the cells, and import ours in the first."""
        for name in names.split():
            found = [i for i, cell in enumerate(self.cells) if name in _definitions(cell)]
            assert len(found) == 1, f"{name} is defined in {len(found)} cells"
            self.cells[found[0]] = _without(self.cells[found[0]], name)
            self.cells[0] += f"\nfrom rnnfast import {name}\n"

    def run(self) -> tuple[dict, list[str]]:
        """The namespace that is left, and per cell its last value as the notebook shows it."""
        random.seed(0)
        torch.manual_seed(0)
        namespace: dict = {"__name__": "__main__"}
        shown = []
        for cell in self.cells:
            body = ast.parse(cell).body
            last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body, []), "cell", "exec"), namespace)
            value = (
                eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)
                if last
                else None
            )
            shown.append("" if value is None else repr(value))
        return namespace, shown


def _split(cell: str) -> tuple[str, str]:
    """A cell's code, and the output that the export put after its last blank line."""
    code, _, tail = cell.strip().rpartition("\n\n")
    return (code, tail) if _OUTPUT.match(tail) else (cell, "")


def _definitions(cell: str) -> list[str]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in ast.parse(cell).body if isinstance(node, kinds)]


def _without(cell: str, name: str) -> str:
    tree = ast.parse(cell)
    tree.body = [node for node in tree.body if getattr(node, "name", None) != name]
    return ast.unparse(tree)


@pytest.fixture(autouse=True)
def _no_windows():
    matplotlib.use("agg")
    yield
    d2l.plt.close("all")


@pytest.fixture
def scratch() -> Notebook:
    skip_without_book()
    notebook = Notebook("scratch")
    notebook.change("num_epochs, lr = 500, 1", "num_epochs, lr = 10, 1")
    return notebook


@pytest.fixture
def concise() -> Notebook:
    return Notebook("concise")


# ---- notebook 1, the model from scratch


@pytest.mark.parametrize("ours", ["", "rnn grad_clipping", _OURS["scratch"]])
def test_the_scratch_notebook_runs_to_its_end(scratch, backend, ours, capsys):
    scratch.use_ours(ours)
    scratch.change("num_hiddens = 512", "num_hiddens = 64")
    _, shown = scratch.run()
    assert [text for text in shown if text.startswith(("torch.Size", "(torch.Size"))] == [
        "torch.Size([5, 2, 28])",
        "(torch.Size([10, 28]), 1, torch.Size([2, 64]))",
    ]
    (prediction,) = [text for text in shown if text.startswith("'time traveller ")]
    assert len(prediction) == len("'time traveller '") + 10
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    last = (
        "perplexity {}, {} tokens/sec on {}" if "train_ch8" in ours else "困惑度 {}, {} 词元/秒 {}"
    )
    pattern = last.format(r"(\d+\.\d)", r"\d+\.\d", d2l.try_gpu())
    for sampled in (lines[:4], lines[4:]):
        assert [len(line) for line in sampled[:1] + sampled[2:]] == [64, 64, 59]
        perplexity = re.fullmatch(pattern, sampled[1])
        assert perplexity, f"{sampled[1]!r} is not {pattern}"
        assert 10 < float(perplexity[1]) < 20  # 28 before the first epoch, about 16 after 10


@pytest.mark.parametrize(("num_hiddens", "use_random_iter"), [(512, False), (64, True)])
def test_every_loss_of_five_epochs_is_the_notebooks(scratch, backend, num_hiddens, use_random_iter):
    scratch.cells = [cell for cell in scratch.cells if "\ntrain_ch8(" not in cell]
    theirs, _ = scratch.run()
    _, vocab = d2l.load_data_time_machine(32, 35)
    device = d2l.try_gpu()

    def losses(functions: dict) -> list[float]:
        torch.manual_seed(0)
        random.seed(0)
        net = functions["RNNModelScratch"](
            len(vocab), num_hiddens, device,
            *(functions[name] for name in ("get_params", "init_rnn_state", "rnn")),
        )  # fmt: skip
        train_iter, _ = d2l.load_data_time_machine(32, 35, use_random_iter)
        kept = []

        def loss(y_hat: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            kept.append(cross_entropy(y_hat, y))
            return kept[-1]

        for _ in range(5):
            functions["train_epoch_ch8"](
                net, train_iter, loss, lambda batch_size: d2l.sgd(net.params, 1, batch_size),
                device, use_random_iter,
            )  # fmt: skip
        return [float(each.detach()) for each in kept]

    want = losses(theirs)
    got = losses(vars(rnnfast))
    assert len(want) == 5 * 8
    assert want[0] > 3.3 > 3.0 > want[-1]
    assert got == pytest.approx(want, rel=0, abs=1e-5)


def test_every_gradient_is_the_notebooks(scratch, backend):
    """On a trained net, whose gradients are not near zero, with a state that requires none."""
    scratch.cells = [cell for cell in scratch.cells if "\ntrain_ch8(" not in cell]
    theirs, _ = scratch.run()
    train_iter, vocab = d2l.load_data_time_machine(32, 35)
    trained = theirs["net"]
    updater = torch.optim.SGD(trained.params, 1)
    for _ in range(3):
        theirs["train_epoch_ch8"](trained, train_iter, cross_entropy, updater, d2l.try_gpu(), False)
    X, Y = next(iter(train_iter))
    inputs = one_hot(X.T, len(vocab))

    def gradients(rnn, dtype: torch.dtype) -> list[torch.Tensor]:
        params = [p.detach().to(dtype, copy=True).requires_grad_() for p in trained.params]
        H0 = torch.zeros(32, trained.num_hiddens, dtype=dtype)
        y_hat, _ = rnn(inputs.to(dtype), (H0,), params)
        cross_entropy(y_hat, Y.T.reshape(-1)).backward()
        return [p.grad for p in params]

    all_gradients = zip(
        ("W_xh", "W_hh", "b_h", "W_hq", "b_q"),
        gradients(rnnfast.rnn, torch.float32),
        gradients(theirs["rnn"], torch.float32),
        gradients(theirs["rnn"], torch.float64),
        strict=True,
    )
    for name, ours, same_dtype, f64 in all_gradients:
        assert f64.abs().max() > 1e-4
        assert_close_to_f64(name, ours, same_dtype, f64)


def test_the_parameters_are_the_notebooks_bit_by_bit(scratch):
    scratch.cells = [cell for cell in scratch.cells if "\ntrain_ch8(" not in cell]
    theirs, _ = scratch.run()
    torch.manual_seed(3)
    want = theirs["get_params"](28, 512, d2l.try_gpu())
    torch.manual_seed(3)
    got = rnnfast.get_params(28, 512, d2l.try_gpu())
    assert all(torch.equal(a, b) and b.requires_grad for a, b in zip(want, got, strict=True))


# ---- notebook 2, the concise model


@pytest.mark.parametrize("ours", ["", _OURS["concise"]])
def test_the_concise_notebook_shows_what_it_recorded(concise, ours, capsys):
    concise.use_ours(ours)
    _, shown = concise.run()
    printed = capsys.readouterr().out.strip()
    predictions = []
    for got, recorded in zip(shown, concise.recorded, strict=True):
        if recorded.startswith("False"):
            assert printed == recorded  # requires_grad of the state, batch by batch
        elif recorded.startswith("["):
            predictions.append((ast.literal_eval(got), len(ast.literal_eval(recorded))))
        elif recorded:
            assert got == recorded
    assert [len(tokens) for tokens, _ in predictions] == [length for _, length in predictions]
    assert all(
        tokens[:3] == [1, 2, 3] and set(tokens) <= set(range(20)) for tokens, _ in predictions
    )


def test_our_concise_model_trains_and_predicts_as_the_notebooks(concise, capsys):
    theirs, shown = concise.run()
    concise.use_ours(_OURS["concise"])
    ours, shown_by_ours = concise.run()
    assert shown_by_ours == shown
    for (name, a), b in zip(
        theirs["net"].named_parameters(), ours["net"].parameters(), strict=True
    ):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-5, msg=name)
