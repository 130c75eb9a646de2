"""Timer, Accumulator, Animator and the plots, with and without a notebook around them."""

import subprocess
import sys
import time
import types
import warnings

import matplotlib
import pytest
import torch

from rnnfast.book import meters, plotting

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plotting.pyplot().close("all")
    matplotlib.rcdefaults()


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list:
    """A kernel's IPython as far as we use it; the list records what it was asked to do."""
    calls: list = []
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel="one")
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = lambda figure: calls.append(("display", figure))
    ipython.display.clear_output = lambda wait: calls.append(("clear", wait))
    inline = types.ModuleType("matplotlib_inline")
    inline.backend_inline = types.ModuleType("matplotlib_inline.backend_inline")
    inline.backend_inline.set_matplotlib_formats = lambda name: calls.append(("format", name))
    for module in (ipython, ipython.display, inline, inline.backend_inline):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


# ---- Timer


def test_the_timer_runs_from_its_construction(monkeypatch):
    now = iter([10.0, 12.0, 20.0, 25.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    timer = meters.Timer()
    assert timer.stop() == 2
    timer.start()
    assert timer.stop() == 5
    assert timer.times == [2, 5]
    assert (timer.sum(), timer.avg(), timer.cumsum()) == (7, 3.5, [2, 7])


def test_two_stops_after_one_start(monkeypatch):
    now = iter([10.0, 12.0, 13.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    timer = meters.Timer()
    assert (timer.stop(), timer.stop()) == (2, 3)


# ---- Accumulator


def test_the_accumulator_adds_and_resets():
    metric = meters.Accumulator(2)
    metric.add(1.5, 2)
    metric.add(True, torch.tensor([3]))
    assert (metric[0], metric[1], metric.data) == (2.5, 5, [2.5, 5.0])
    metric.reset()
    assert metric.data == [0.0, 0.0]


def test_a_tensor_that_requires_grad_gives_no_warning():
    metric = meters.Accumulator(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.add(torch.ones((), requires_grad=True) * 3)
    assert metric[0] == 3


@pytest.mark.parametrize("values", [(1,), (1, 2, 3)])
def test_the_accumulator_wants_all_its_values(values):
    metric = meters.Accumulator(2)
    with pytest.raises(ValueError, match=rf"add\(\) got {len(values)} values for 2 sums"):
        metric.add(*values)
    assert metric.data == [0, 0]


# ---- Animator


def test_the_animator_draws_what_it_was_given(tmp_path):
    animator = meters.Animator("epoch", "loss", legend=["a", "b"], xlim=[1, 9], ylim=[0, 20])
    animator.add(1, [10, 20])
    animator.add(2, [torch.tensor(11.0, requires_grad=True), None])
    animator.add([3, 4], (12, 22))
    assert animator.X == [[1, 2, 3], [1, 4]]
    assert animator.Y == [[10, 11, 12], [20, 22]]
    (axes,) = animator.axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[1, 10], [2, 11], [3, 12]],
        [[1, 20], [4, 22]],
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert (axes.get_xlim(), axes.get_ylim()) == ((1, 9), (0, 20))
    animator.fig.savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_without_limits_the_axes_grow_with_the_points():
    animator = meters.Animator(yscale="log")
    for x in range(1, 4):
        animator.add(x, 10**x)
        low, high = animator.axes[0].get_ylim()
        assert low < 10 <= 10**x <= high
    assert animator.axes[0].get_xlim()[1] >= 3


def test_empty_limits_are_none():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        animator = meters.Animator(xlim=[10, 10])
        animator.add(10, 1)
    assert animator.axes[0].get_xlim()[0] < 10 < animator.axes[0].get_xlim()[1]


def test_the_plot_is_pyplots_current_one(capsys):
    """Programs call d2l.plt.show() or savefig() after train_ch8."""
    animator = meters.Animator(figsize=(5, 4))
    animator.add(1, 2)
    assert plotting.pyplot().gcf() is animator.fig
    assert tuple(animator.fig.get_size_inches()) == (5, 4)
    assert capsys.readouterr().out == ""


def test_several_axes_and_more_lines_than_formats():
    animator = meters.Animator(nrows=2, ncols=2, fmts=("r-", "b-"))
    assert len(animator.axes) == 4
    animator.add(1, [1, 2, 3])
    assert [line.get_color() for line in animator.axes[0].lines] == ["r", "b", "r"]


def test_the_animator_wants_as_many_values_as_before():
    animator = meters.Animator()
    animator.add(1, [1, 2])
    with pytest.raises(ValueError, match=r"add\(\) got 3 x, 3 y for 2 lines"):
        animator.add(2, [1, 2, 3])
    with pytest.raises(ValueError, match=r"add\(\) got 1 x, 2 y for 2 lines"):
        animator.add([2], [1, 2])
    assert animator.X == [[1], [1]]


def test_a_notebook_redraws_with_every_point(notebook):
    animator = meters.Animator()
    assert notebook == [("format", "svg")]
    for x in (1, 2):
        del notebook[:]
        animator.add(x, x)
        assert notebook == [("display", animator.fig), ("clear", True)]


def test_ipython_in_a_terminal_is_no_notebook(notebook, monkeypatch):
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: object())
    meters.Animator().add(1, 1)
    assert notebook == []


def test_without_a_display_nothing_fails_or_waits(tmp_path):
    """In its own process, whose environment names no screen and no backend."""
    program = (
        "from rnnfast import d2l; a = d2l.Animator(legend=['x']); a.add(1, 1); d2l.plt.show();"
        "d2l.plt.savefig('curve.png')"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "curve.png").exists()


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        meters.Animator()


# ---- plot


def points() -> list:
    return [line.get_xydata().tolist() for line in plotting.pyplot().gca().lines]


@pytest.mark.parametrize("y", [[5, 6, 7], torch.tensor([5, 6, 7]), [[5, 6, 7]]])
def test_plot_one_line_over_its_indices(y):
    plotting.plot(y, xlabel="token: x", xscale="log", yscale="log", legend=["n"])
    assert points() == [[[0, 5], [1, 6], [2, 7]]]
    axes = plotting.pyplot().gca()
    assert (axes.get_xlabel(), axes.get_xscale(), axes.get_yscale()) == ("token: x", "log", "log")


def test_plot_lines_of_different_length():
    plotting.plot([[5, 6, 7], [8, 9]])
    assert points() == [[[0, 5], [1, 6], [2, 7]], [[0, 8], [1, 9]]]


def test_plot_many_lines_over_one_x():
    plotting.plot(torch.arange(2), [torch.tensor([3.0, 4.0]), [5, 6]], xlim=[0, 1])
    assert points() == [[[0, 3], [1, 4]], [[0, 5], [1, 6]]]


def test_plot_each_line_over_its_own_x_into_given_axes():
    _, (left, right) = plotting.pyplot().subplots(1, 2)
    plotting.plot([[1, 2], [3]], [[4, 5], [6]], axes=left)
    assert [line.get_xydata().tolist() for line in left.lines] == [[[1, 4], [2, 5]], [[3, 6]]]
    assert not right.lines


def test_plot_refuses_unlike_lists():
    with pytest.raises(ValueError, match="X has 2 lines and Y has 3"):
        plotting.plot([[1], [2]], [[1], [2], [3]])


def test_figure_size_and_format(notebook):
    plotting.set_figsize((6, 3))
    assert tuple(plotting.pyplot().rcParams["figure.figsize"]) == (6, 3)
    assert notebook == [("format", "svg")]
