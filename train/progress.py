"""What a run tells its user: a bar a pass while it goes on and a line a pass that stays."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from tqdm import tqdm

from train.mutual import Pass, Watch

# Reading the metrics waits for the device: seldom enough to cost nothing. Where the bar goes to a
# file instead of a terminal it is written seldom, and stays there as it ended.
_TERMINAL_SECONDS = 0.3
_FILE_SECONDS = 30.0


class Progress:
    """Bars on the error stream and summary lines on the output stream."""

    def __init__(self, epochs: int, passes: int, batch_size: int):
        """Prepares for `passes` passes to come of a run of `epochs` epochs."""
        self._epochs, self._left, self._batch_size = epochs, passes, batch_size
        self._done, self._start = 0, time.perf_counter()
        self._bar: tqdm | None = None
        self._next = self._lr = self._eps = 0.0
        self._terminal = sys.stderr.isatty()
        self._refresh = _TERMINAL_SECONDS if self._terminal else _FILE_SECONDS
        self.watch = Watch(self._begin, self._advance, self._end)

    def summary(self, done: Pass, tests: Mapping[str, float]) -> None:
        """Prints the line of a pass, its epoch and network first."""
        self._done, self._left = self._done + 1, self._left - 1
        rest = (time.perf_counter() - self._start) / self._done * self._left
        words = [
            f"epoch {done.epoch + 1:>{len(str(self._epochs))}}/{self._epochs} {done.network.name}",
            f"eps {done.eps:.4g}",
            f"lr {done.lr:.3g}",
            *(_words(name, value) for name, value in _shown(done.metrics).items()),
            *(_words(name, value) for name, value in tests.items()),
            f"{done.examples / done.seconds:.0f} examples/s",
            f"{done.seconds:.1f} s",
            f"left {tqdm.format_interval(rest)}",
        ]
        print("  ".join(words), flush=True)

    def _begin(self, name: str, epoch: int, eps: float, lr: float, steps: int) -> None:
        self._eps, self._lr, self._next = eps, lr, 0.0
        self._bar = tqdm(
            total=steps * self._batch_size,
            desc=f"epoch {epoch + 1}/{self._epochs} {name}",
            unit=" examples",
            leave=not self._terminal,
            mininterval=self._refresh,
            dynamic_ncols=True,
        )

    def _advance(self, read: Callable[[], dict[str, float]]) -> None:
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + self._refresh
            self._show(read())
        self._bar.update(self._batch_size)

    def _end(self, metrics: Mapping[str, float]) -> None:
        self._show(metrics)
        self._bar.close()

    def _show(self, metrics: Mapping[str, float]) -> None:
        shown = {name: f"{value:.4g}" for name, value in _shown(metrics).items()}
        fixed = {"eps": f"{self._eps:.4g}", "lr": f"{self._lr:.3g}"}
        self._bar.set_postfix(shown | fixed, refresh=False)


def _shown(metrics: Mapping[str, float]) -> dict[str, float]:
    wanted = ("loss", "robust_error", "robust_error_estimate", "clean_error")
    return {k: metrics[k] for k in wanted if k in metrics}


def _words(name: str, value: float) -> str:
    text = f"{value:.2%}" if "error" in name else f"{value:.4f}"
    return f"{name.replace('_', ' ')} {text}"
