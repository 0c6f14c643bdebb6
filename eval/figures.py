"""The figures of a report that show an evaluation: its stages, its images, errors by radius."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .rows import Row, Status
from .sweep import Point
from .witnesses import Witness

_COLORS = {
    Status.MISCLASSIFIED: "0.55",
    Status.FALSIFIED: "C3",
    Status.VERIFIED: "C2",
    Status.UNKNOWN: "C1",
}
#: Images a row of a gallery.
COLUMNS = 6


#: Of figures on a dark page: its ground, and what is drawn on it.
_GROUND, _INK, _FAINT = "#15181c", "#d8dbe0", "#7d838c"
_DARK: dict[Any, str] = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), _GROUND),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "xtick.labelcolor", "ytick.labelcolor"), _INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "legend.edgecolor"), _FAINT),
}


@contextlib.contextmanager
def on_page(dark: bool) -> Iterator[None]:
    """What is drawn within has the colours of a dark page, or of a light one."""
    with matplotlib.rc_context(_DARK if dark else {}):
        yield


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def decided(names: Sequence[str], rows: Sequence[Row]) -> dict[str, collections.Counter]:
    """How many examples each stage decided, by status; the undecided count for no stage."""
    counts = {name: collections.Counter() for name in names}
    for row in rows:
        if row.status is not Status.UNKNOWN:
            counts[row.stage][row.status] += 1
    return counts


def stages(counts: Mapping[str, collections.Counter], seconds: Mapping[str, float]) -> Figure:
    """Bars: how many examples each stage decided and how long it took."""
    figure = _figure(11, 1.4 + 0.5 * len(counts))
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(counts)
    start = np.zeros(len(names))
    for status in (s for s in Status if s is not Status.UNKNOWN):
        widths = np.array([counts[name][status] for name in names])
        if widths.any():
            left.barh(names, widths, left=start, color=_COLORS[status], label=status.value)
            start += widths
    left.bar_label(left.barh(names, start, color="none"), [f"{int(n):,}" for n in start], padding=3)
    spent = [seconds.get(name, 0.0) for name in names]
    right.bar_label(right.barh(names, spent, color="C0"), [f"{s:.1f} s" for s in spent], padding=3)
    left.set(title="Examples decided", xlabel="examples")
    right.set(title="Time", xlabel="seconds")
    for axes, longest in ((left, max(start)), (right, max(spent))):
        axes.set_xlim(0, 1.18 * longest or 1)  # room for the numbers
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    left.invert_yaxis()
    if start.any():
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=9, frameon=False)
    return figure


def sweep(points: Sequence[Point]) -> Figure:
    """Errors against the radius; the true robust error lies in the shaded band."""
    figure = _figure(7, 4.2)
    axes = figure.subplots()
    radii = [p.eps for p in points]
    upper, lower = ([100 * getattr(p, name) for p in points] for name in ("lp_error", "pgd_error"))
    axes.plot(radii, upper, "o-", color="C0", label="certified (LP) error, an upper bound")
    axes.plot(radii, lower, "s--", color="C3", label="PGD error, a lower bound")
    axes.plot(radii, [100 * p.clean_error for p in points], ":", color="0.4", label="clean error")
    axes.fill_between(radii, lower, upper, color="C0", alpha=0.12, linewidth=0)
    axes.set(xlabel="epsilon in pixels of [0, 1]", ylabel="error in %")
    axes.set(xlim=(0, None), ylim=(0, 103))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return figure


def radius_curve(
    radius: np.ndarray, certified: np.ndarray, attacked: np.ndarray, norm: str
) -> Figure:
    """Accuracy against the radius; the true robust accuracy lies in the shaded band.

    Args:
      radius: in pixels, increasing, [k].
      certified, attacked: shares of the images, [k].
      norm: of the balls.
    """
    figure = _figure(7, 4.2)
    axes = figure.subplots()
    upper, lower = 100 * attacked, 100 * certified
    # An attack that succeeded at a radius counts from there on, a certificate up to its own.
    axes.step(radius, upper, "--", where="post", color="C3", label="not attacked, an upper bound")
    axes.step(radius, lower, "-", where="pre", color="C0", label="certified, a lower bound")
    ends = np.repeat(radius, 2)
    axes.fill_between(
        ends[1:-1],
        np.repeat(lower[1:], 2),
        np.repeat(upper[:-1], 2),
        color="C0",
        alpha=0.15,
        linewidth=0,
    )
    axes.set(xlabel=f"{norm} radius in pixels of [0, 1]", ylabel="accuracy in %")
    axes.set(xlim=(0, None), ylim=(0, 103))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return figure


def sorted_margins(margins: np.ndarray, certified: np.ndarray) -> Figure:
    """The lower bounds of the margins [n] in their order, those above 0 apart from the others.

    What is not a finite number is left out; what is far below 0 is drawn at the lower edge.
    """
    figure = _figure(7, 3.2)
    axes = figure.subplots()
    order = np.argsort(margins, kind="stable")
    # A few bounds far below would leave no room for those that matter.
    top = margins[np.isfinite(margins)].max(initial=0.0)
    lowest = -2 * top if top > 0 else -np.inf
    share = 100 * (np.arange(len(order)) + 0.5) / max(len(order), 1)
    for kept, color, label in ((~certified, "C1", "not certified"), (certified, "C2", "certified")):
        here = kept[order] & np.isfinite(margins[order])
        if here.any():
            shown = np.maximum(margins[order][here], lowest)
            axes.plot(share[here], shown, ".", color=color, label=label)
    axes.axhline(0, color="0.5", linewidth=1)
    axes.set(xlabel="images in %, hardest first", ylabel="lower bound of the margin")
    axes.set(xlim=(0, 100))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9)
    return figure


def decided_by(series: Mapping[str, Sequence[float]]) -> Figure:
    """How many instances are decided within so many seconds each, by who decides them.

    Args:
      series: by name, the seconds of what is decided, in their order.
    """
    figure = _figure(7, 3.2)
    axes = figure.subplots()
    for number, (name, seconds) in enumerate(series.items()):
        if len(seconds):
            shown = np.maximum(seconds, 1e-2)  # of a logarithm
            axes.step(shown, np.arange(1, len(seconds) + 1), f"C{number}", where="post", label=name)
    axes.set(xscale="log", xlabel="seconds an instance", ylabel="decided", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return figure


def images(rows: Sequence[Row], pictures: Sequence[np.ndarray]) -> Figure:
    """A row of images [h, w, c] with what the ledger says of each."""
    figure = _figure(11, 2.5)
    grid = figure.subplots(1, COLUMNS, squeeze=False)[0]
    for axes, row, picture in zip(grid, rows, pictures, strict=False):
        _show(axes, picture)
        title = f"no. {row.index}, label {row.label}"
        if row.margin_lower is not None:
            title += f"\nmargin ≥ {row.margin_lower:.3g}"
        axes.set_title(title, fontsize=9)
    _hide(grid[len(pictures) :])
    return figure


def perturbation_scale(witnesses: Sequence[Witness], eps: float, norm: str) -> float:
    """By how much perturbations are multiplied so that they fill half the range of grey.

    For `linf` that depends on the radius alone; for other norms on the largest pixel of all.
    """
    largest = (
        eps if norm == "linf" else max(np.abs(w.adversarial - w.image).max() for w in witnesses)
    )
    return 0.5 / float(largest) if largest > 0 else 1.0


def falsified(witnesses: Sequence[Witness], scale: float) -> Figure:
    """Columns of an image, its perturbation times `scale` about grey, and the adversarial image."""
    figure = _figure(11, 6.4)
    grid = figure.subplots(3, COLUMNS, squeeze=False)
    for column, w in zip(grid.T, witnesses, strict=False):
        delta = w.adversarial.astype(np.float64) - w.image
        for axes, picture in zip(
            column, (w.image, np.clip(0.5 + scale * delta, 0, 1), w.adversarial), strict=True
        ):
            _show(axes, picture)
        column[0].set_title(f"no. {w.index} ({w.stage})\nlabel {w.label}", fontsize=9)
        column[1].set_title(f"largest change {np.abs(delta).max():.3g}", fontsize=9)
        column[2].set_title(f"classified as {w.predicted}", fontsize=9, color="C3")
    names = ("original", f"perturbation × {scale:.3g}", "adversarial")
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name, fontsize=9)
    _hide(grid[:, len(witnesses) :].ravel())
    return figure


def _show(axes: Axes, picture: np.ndarray) -> None:
    grey = picture.shape[-1] == 1
    axes.imshow(np.clip(picture[..., 0] if grey else picture, 0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


def _hide(grid: Iterable[Axes]) -> None:
    for axes in grid:
        axes.set_visible(False)
