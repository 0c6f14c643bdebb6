"""What a run tells its user: a bar for each pass under way and a line a pass that stays."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping

from tqdm import tqdm

from robustra_tf.training.mutual import Pass
from robustra_tf.training.watch import Begun, Watch

# Reading the metrics waits for the device: seldom enough to cost nothing. Where the bar goes to a
# file instead of a terminal it is written seldom, and stays there as it ended.
_TERMINAL_SECONDS = 0.3
_FILE_SECONDS = 30.0


class Progress(Watch):
    """Bars on the error stream and summary lines on the output stream."""

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
        self._done, self._start = 0, time.perf_counter() - spent
        self._write = write
        self._bars: dict[str, _Bar] = {}
        self._terminal = sys.stderr.isatty()
        self._refresh = _TERMINAL_SECONDS if self._terminal else _FILE_SECONDS

    def summary(self, done: Pass, tests: Mapping[str, float]) -> None:
        """Prints the line of a pass, its epoch and network first."""
        self._done, self._left = self._done + 1, self._left - 1
        rest = (time.perf_counter() - self._start) / self._done * self._left
        words = [
            f"epoch {done.epoch + 1:>{len(str(self._epochs))}}/{self._epochs} {done.learner.name}",
            f"eps {done.eps:.4g}",
            f"lr {done.lr:.3g}",
            *(_words(name, value) for name, value in _shown(done.metrics).items()),
            *(_words(name, value) for name, value in tests.items()),
            f"{done.examples / done.seconds:.0f} examples/s",
            f"{done.seconds:.1f} s",
            f"left {tqdm.format_interval(rest)}",
        ]
        self._write("  ".join(words))

    def begin(self, begun: Begun) -> None:
        """Shows a bar."""
        bar = tqdm(
            total=begun.steps * self._batch_size,
            initial=begun.taken * self._batch_size,
            desc=f"epoch {begun.epoch + 1}/{self._epochs} {begun.name}",
            unit=" examples",
            leave=not self._terminal,
            mininterval=self._refresh,
            dynamic_ncols=True,
        )
        self._bars[begun.name] = _Bar(bar, {"eps": f"{begun.eps:.4g}", "lr": f"{begun.lr:.3g}"})

    def advance(self, name: str, read: Callable[[], dict[str, float]]) -> None:
        """Moves the bar of a network on."""
        bar, now = self._bars[name], time.perf_counter()
        if now >= bar.next:
            bar.next = now + self._refresh
            bar.show(read())
        bar.tqdm.update(self._batch_size)

    def end(self, name: str, metrics: Mapping[str, float]) -> None:
        """Ends the bar of a network."""
        bar = self._bars.pop(name)
        bar.show(metrics)
        bar.tqdm.close()

    def close(self) -> None:
        """Ends the bars of passes that broke off."""
        for bar in self._bars.values():
            bar.tqdm.close()


@dataclasses.dataclass
class _Bar:
    """The bar of a pass: what it ends with, and when its metrics are read next."""

    tqdm: tqdm
    fixed: Mapping[str, str]
    next: float = 0.0

    def show(self, metrics: Mapping[str, float]) -> None:
        shown = {name: f"{value:.4g}" for name, value in _shown(metrics).items()}
        self.tqdm.set_postfix(shown | dict(self.fixed), refresh=False)


def _shown(metrics: Mapping[str, float]) -> dict[str, float]:
    wanted = ("loss", "robust_error", "robust_error_estimate", "clean_error")
    return {k: metrics[k] for k in wanted if k in metrics}


def _words(name: str, value: float) -> str:
    text = f"{value:.2%}" if "error" in name else f"{value:.4f}"
    return f"{name.replace('_', ' ')} {text}"
