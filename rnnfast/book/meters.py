"""Tools to watch a training loop: a stopwatch, running sums, a growing plot, a loss.

Source: `Timer`, `Accumulator`, `Animator` and `evaluate_loss` of d2l 0.17.6.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from rnnfast.book import plotting
from rnnfast.book.arguments import FUNCTION, ITERABLE, LIST, NUMBERS, PAIR, integer, named, optional


class Timer:
    """A stopwatch that runs from its construction on; `times` has the seconds of every lap."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.start()

    def start(self) -> None:
        """Begin a lap."""
        self._began = time.perf_counter()

    def stop(self) -> float:
        """End the lap; the seconds it took."""
        self.times.append(time.perf_counter() - self._began)
        return self.times[-1]

    def avg(self) -> float:
        """The mean lap. Errors: ZeroDivisionError before the first `stop`."""
        return self.sum() / len(self.times)

    def sum(self) -> float:
        """All laps together."""
        return sum(self.times)

    def cumsum(self) -> list[float]:
        """The sum up to and with each lap."""
        return list(itertools.accumulate(self.times))


class Accumulator:
    """Sums over `n` quantities: `data`, also read by index."""

    @named(n=integer(0))
    def __init__(self, n: int) -> None:
        self.data = [0.0] * n

    @named(values=NUMBERS)
    def add(self, *values: Any) -> None:
        """Add one number each, or tensors of one element (which the host then waits for).

        Errors: ValueError for another number of values than `n`.
        """
        if len(values) != len(self.data):
            raise ValueError(f"add() got {len(values)} values for {len(self.data)} sums")
        self.data = [total + _number(value) for total, value in zip(self.data, values, strict=True)]

    def reset(self) -> None:
        """Back to zero."""
        self.data = [0.0] * len(self.data)

    def __getitem__(self, index: int) -> float:
        return self.data[index]


class Animator:
    """A plot that grows while training runs, redrawn in a notebook with every point.

    Elsewhere nothing is shown before `plt.show()`; `fig` can be saved at any time. `axes` is the
    list of all axes, of which the first is drawn into; `X` and `Y` are the points of each line.
    Errors: ImportError where matplotlib is missing.
    """

    @named(
        legend=optional(LIST),
        xlim=optional(PAIR),
        ylim=optional(PAIR),
        nrows=integer(1),
        ncols=integer(1),
        figsize=PAIR,
    )
    def __init__(
        self,
        xlabel: str | None = None,
        ylabel: str | None = None,
        legend: Sequence[str] | None = None,
        xlim: Sequence[float] | None = None,
        ylim: Sequence[float] | None = None,
        xscale: str = "linear",
        yscale: str = "linear",
        fmts: Sequence[str] = plotting.FMTS,
        nrows: int = 1,
        ncols: int = 1,
        figsize: tuple[float, float] = plotting.FIGSIZE,
    ) -> None:
        plotting.use_svg_display()
        self.fig, axes = plotting.pyplot().subplots(nrows, ncols, figsize=figsize, squeeze=False)
        self.axes = list(axes.flat)
        plotting.set_axes(self.axes[0], xlabel, ylabel, xlim, ylim, xscale, yscale, None)
        self.X: list[list[float]] = []
        self.Y: list[list[float]] = []
        self.fmts = fmts
        self._legend = legend
        self._lines: list[Any] = []

    @named(x=NUMBERS, y=NUMBERS)
    def add(self, x: Any, y: Any) -> None:
        """Add a point to each line: `y` is a number or one for each line, `x` likewise.

        A None for x or y leaves that line without a point.
        Errors: ValueError for another number of values than at the first call.
        """
        ys = list(y) if hasattr(y, "__len__") else [y]
        xs = list(x) if hasattr(x, "__len__") else [x] * len(ys)
        if not self._lines:
            self._begin(len(ys))
        if not len(xs) == len(ys) == len(self._lines):
            raise ValueError(f"add() got {len(xs)} x, {len(ys)} y for {len(self._lines)} lines")
        for i, (a, b) in enumerate(zip(xs, ys, strict=True)):
            if a is not None and b is not None:
                self.X[i].append(_number(a))
                self.Y[i].append(_number(b))
                self._lines[i].set_data(self.X[i], self.Y[i])
        self.axes[0].relim()
        self.axes[0].autoscale_view()
        plotting.redraw(self.fig)

    def _begin(self, count: int) -> None:
        self.X = [[] for _ in range(count)]
        self.Y = [[] for _ in range(count)]
        # Changing the data of lines takes a twentieth of the time of drawing them anew.
        for _, fmt in zip(range(count), itertools.cycle(self.fmts), strict=False):
            self._lines += self.axes[0].plot([], [], fmt)
        if self._legend:
            self.axes[0].legend(self._legend)


@named(net=FUNCTION, data_iter=ITERABLE, loss=FUNCTION)
def evaluate_loss(
    net: Callable[[Tensor], Tensor],
    data_iter: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> float:
    """The mean of loss(net(X), y) over all its elements in all minibatches (X, y).

    y takes the shape of net(X). Errors: ValueError for a data_iter without a minibatch.
    """
    metric = Accumulator(2)
    for X, y in data_iter:
        out = net(X)
        losses = loss(out, y.reshape(out.shape))
        metric.add(losses.sum(), losses.numel())
    if not metric[1]:
        raise ValueError("data_iter gives no minibatch, so there is no loss")
    return metric[0] / metric[1]


def _number(value: Any) -> float:
    # float() of a tensor that requires grad gives a warning
    return float(value.detach() if isinstance(value, Tensor) else value)
