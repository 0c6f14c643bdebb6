"""Curves by epoch, drawn alike for training and for evaluation, as figures without a screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Rows = Sequence[Mapping[str, str]]
#: Columns of a motivation run's CSV: `epoch` from 1; PGD errors of f and g as fractions; and the
#: errors of g on examples that attack f, and of f on examples that attack g.
MOTIVATION: tuple[str, ...] = (
    "epoch",
    "pgd_error_f",
    "pgd_error_g",
    "transfer_error_f_to_g",
    "transfer_error_g_to_f",
)


def curve(axes: Axes, rows: Rows, column: str, scale: float, **style) -> None:
    """Draws `scale` times a column against `epoch`, without the rows that have no value there."""
    points = [(int(r["epoch"]), scale * float(r[column])) for r in rows if r.get(column)]
    if points:
        # Of one epoch there is no line to see.
        marker = "o" if len(points) == 1 else None
        axes.plot(*zip(*points, strict=True), marker=marker, **style)


def finish(panels: Iterable[Axes]) -> None:
    """Gives panels of curves their axis of epochs, grid and legend."""
    for axes in panels:
        axes.set_xlabel("epoch")
        locator = axes.xaxis.get_major_locator()
        if isinstance(locator, MaxNLocator):
            locator.set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=9)


def motivation(rows: Rows) -> Figure:
    """Figure 1: PGD error of f and g, and of each on the other's adversarial examples.

    Args:
      rows: with the columns `MOTIVATION`, as text.
    """
    figure = Figure(figsize=(6.5, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    labels = ("PGD error of f", "PGD error of g", "g on attacks of f", "f on attacks of g")
    styles = (("C0", "-"), ("C1", "-"), ("C0", ":"), ("C1", ":"))
    for column, label, (color, dash) in zip(MOTIVATION[1:], labels, styles, strict=True):
        curve(axes, rows, column, 100, label=label, color=color, linestyle=dash)
    axes.set(title="Attacks and how they transfer", ylabel="error in %", ylim=(0, None))
    finish((axes,))
    return figure
