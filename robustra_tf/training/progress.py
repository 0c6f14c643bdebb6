"""What a run tells its user: a bar for each pass under way and a line a pass that stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from tqdm import tqdm

from robustra_tf.cli.progress import RATE, Bar, seconds_between
from robustra_tf.training.mutual import Pass
from robustra_tf.training.watch import Begun, Watch

# Columns of the lines, by their metrics.
_ERRORS = {
    "robust_error": "robust",
    "robust_error_estimate": "robust est.",
    "clean_error": "clean",
    "test_lp_error": "test LP",
    "test_interval_error": "test IBP",
    "test_clean_error": "test clean",
    "validation_lp_error": "held LP",
    "validation_interval_error": "held IBP",
    "validation_clean_error": "held clean",
}


class Progress(Watch):
    """Bars on the error stream and summary lines of at most 80 columns."""

    def __init__(
        self,
        epochs: int,
        passes: int,
        batch_size: int,
        spent: float = 0.0,
        write: Callable[[str], None] = tqdm.write,
    ):
        """Prepares for `passes` passes to come of a run of `epochs` epochs.

        `spent` are the seconds that an earlier process gave to the first of them; `write` takes the
        lines.
        """
        self._epochs, self._left, self._batch_size = epochs, passes, batch_size
        self._times, self._write = _Times(spent), write
        self._bars: dict[str, Bar] = {}
        self._fixed: dict[str, list[str]] = {}
        self._next: dict[str, float] = {}
        self._header: str | None = None

    def summary(self, done: Pass, tests: Mapping[str, float]) -> None:
        """Prints the line of a pass, its epoch and network first; `history.csv` has the rest."""
        self._left -= 1
        errors = done.metrics | dict(tests)
        cells = {"eps": f"{done.eps:.4g}"}
        cells |= {title: f"{errors[k]:.2%}" for k, title in _ERRORS.items() if k in errors}
        cells["left"] = tqdm.format_interval(self._times.finished() * self._left)
        epoch = f"{done.epoch + 1:>{len(str(self._epochs))}}/{self._epochs}"
        first = f"epoch {epoch} {done.learner.name}"
        header = _line("error rates", len(first), dict(zip(cells, cells, strict=True)))
        if header != self._header:
            self._header = header
            self._write(header)
        self._write(_line(first, len(first), cells))

    def evaluating(self, name: str) -> None:
        """Is told of every part of the test images, before it is evaluated."""
        self._times.step(f"evaluation of {name}", first=2)

    def begin(self, begun: Begun) -> None:
        """Shows a bar."""
        name = begun.name
        self._bars[name] = Bar(
            f"epoch {begun.epoch + 1}/{self._epochs} {name}",
            begun.steps * self._batch_size,
            begun.taken * self._batch_size,
            compiling=self._times.begin(name),
            leave=False,
        )
        self._fixed[name] = [f"eps={begun.eps:.4g}", f"lr={begun.lr:.3g}"]
        self._next[name] = 0.0

    def advance(self, name: str, read: Callable[[], dict[str, float]]) -> None:
        """Moves the bar of a network on."""
        self._times.step(name, first=1)
        self._bars[name].advance(self._batch_size)
        # Reading the metrics waits for the device: seldom enough to cost nothing.
        if (now := time.perf_counter()) >= self._next[name]:
            self._next[name] = now + seconds_between()
            self._show(name, read())

    def end(self, name: str, metrics: Mapping[str, float]) -> None:
        """Ends the bar of a network."""
        self._show(name, metrics)
        self._bars.pop(name).close()

    def _show(self, name: str, metrics: Mapping[str, float]) -> None:
        wanted = ("robust_error", "robust_error_estimate", "loss", "clean_error")
        shown = [f"{key}={metrics[key]:.4g}" for key in wanted if key in metrics]
        self._bars[name].show([*shown, RATE, *self._fixed[name]], refresh=True)

    def close(self) -> None:
        """Ends the bars of passes that broke off."""
        for bar in self._bars.values():
            bar.close()


class _Times:
    """What a pass takes, without compiling, which the first ones of a process wait for."""

    def __init__(self, spent: float):
        now = time.perf_counter()
        self._last, self._compiling, self._marks = now, 0.0, [now - spent]
        self._steps: dict[str, int] = {}
        self._networks: set[str] = set()

    def begin(self, name: str) -> bool:
        """A pass begins; says whether its first step will be compiled."""
        self._last = time.perf_counter()
        self._networks.add(name)
        return name not in self._steps

    def step(self, work: str, first: int) -> None:
        """A step has been done; the `first` one of its kind was compiled."""
        now = time.perf_counter()
        self._steps[work] = self._steps.get(work, 0) + 1
        if self._steps[work] == first:
            self._compiling += now - self._last
        self._last = now

    def finished(self) -> float:
        """A pass is done: the seconds that one takes, by the last one of each network."""
        self._marks.append(time.perf_counter() - self._compiling)
        count = min(max(len(self._networks), 1), len(self._marks) - 1)
        return (self._marks[-1] - self._marks[-1 - count]) / count


def _line(first: str, width: int, cells: Mapping[str, str]) -> str:
    least = {"eps": 8, "left": 8}
    texts = [f"{text:>{max(len(title), least.get(title, 7))}}" for title, text in cells.items()]
    return "  ".join([f"{first:<{width}}", *texts])
