"""Matplotlib's pyplot and IPython's display, imported where something is drawn and not before."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rnnfast.book.arguments import LIST, PAIR, named, optional

FMTS = ("-", "m--", "g-.", "r:")
FIGSIZE = (3.5, 2.5)


def pyplot() -> Any:
    """`matplotlib.pyplot`, imported on first use: that takes about as long as all of rnnfast.

    Errors: ImportError with the command that installs it.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(f"plots need matplotlib ({error}): pip install matplotlib") from error
    return pyplot


def in_notebook() -> bool:
    """Whether this program runs in a kernel such as Jupyter's, which shows figures by itself."""
    ipython = sys.modules.get("IPython")  # loaded by the kernel long before us, if there is one
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def redraw(figure: Any) -> None:
    """Show a figure below a notebook's cell in place of the one shown before; elsewhere nothing."""
    if in_notebook():
        from IPython import display

        display.display(figure)
        display.clear_output(wait=True)


def use_svg_display() -> None:
    """Show figures as SVG in a notebook; elsewhere nothing."""
    if in_notebook():
        from matplotlib_inline import backend_inline

        backend_inline.set_matplotlib_formats("svg")


@named(figsize=PAIR)
def set_figsize(figsize: tuple[float, float] = FIGSIZE) -> None:
    """The size of new figures, in inches."""
    use_svg_display()
    pyplot().rcParams["figure.figsize"] = figsize


def set_axes(
    axes: Any,
    xlabel: str | None,
    ylabel: str | None,
    xlim: Sequence[float] | None,
    ylim: Sequence[float] | None,
    xscale: str,
    yscale: str,
    legend: Sequence[str] | None,
) -> None:
    """Labels, scales, legend, grid, and limits (None or empty: what the data need) of an axes."""
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale=xscale, yscale=yscale)
    for set_limits, limits in ((axes.set_xlim, xlim), (axes.set_ylim, ylim)):
        if limits is not None and limits[0] != limits[1]:  # train_ch8 over 10 epochs: [10, 10]
            set_limits(limits)
    if legend:
        axes.legend(legend)
    axes.grid(True)


@named(X=LIST, Y=optional(LIST), xlim=optional(PAIR), ylim=optional(PAIR), figsize=PAIR)
def plot(
    X: Any,
    Y: Any = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    legend: Sequence[str] | None = None,
    xlim: Sequence[float] | None = None,
    ylim: Sequence[float] | None = None,
    xscale: str = "linear",
    yscale: str = "linear",
    fmts: Sequence[str] = FMTS,
    figsize: tuple[float, float] = FIGSIZE,
    axes: Any = None,
) -> None:
    """Draw the lines Y over X, or X over its indices; each is one line or a list of lines.

    One X serves all lines of Y. Without `axes`, draws into pyplot's current one.
    Errors: ValueError where X and Y are lists of different length.
    Source: `d2l.plot` of d2l 0.17.6.
    """
    set_figsize(figsize)
    axes = axes or pyplot().gca()
    xs, ys = _lines(X), _lines(Y) if Y is not None else []
    if Y is None:
        xs, ys = [range(len(line)) for line in xs], xs
    if len(xs) == 1:
        xs = xs * len(ys)
    if len(xs) != len(ys):
        raise ValueError(f"X has {len(xs)} lines and Y has {len(ys)}: give one X, or one for each")
    axes.cla()
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        axes.plot(x, y, fmts[i % len(fmts)])
    set_axes(axes, xlabel, ylabel, xlim, ylim, xscale, yscale, legend)


def _lines(values: Any) -> list[Any]:
    """A list of lines, of one line (a vector, or a list of numbers) or of several."""
    several = values.ndim > 1 if hasattr(values, "ndim") else hasattr(values[0], "__len__")
    return list(values) if several else [values]
