"""Measuring on a machine whose speed drifts: work and the machine's peak, turn by turn.

The same program may run at half its speed a minute later. So the peak of the machine, a large
matrix product, is timed before and after every piece of work in the same process, and what is
quoted is the ratio of the two: the time that the work took over the time that its counted
operations would take at the peak.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PEAK_SIZE = 2048
ROUNDS = 10
_IMPORTED = time.perf_counter()


@dataclasses.dataclass(frozen=True)
class Timing:
    """Work timed in rounds, with the machine's peak about each round.

    Attributes:
      seconds: of each round.
      peak: floating-point operations per second of the matrix product about each round.
    """

    seconds: tuple[float, ...]
    peak: tuple[float, ...]

    def ratios(self, flops: float) -> list[float]:
        """Each round's time over the time that `flops` operations take at its peak."""
        return [s * p / flops for s, p in zip(self.seconds, self.peak, strict=True)]

    def summary(self, examples: int, flops: float) -> dict[str, float]:
        """Medians over the rounds.

        Args:
          examples: how many a round works on.
          flops: counted operations of one example.
        """
        ratios = sorted(self.ratios(flops * examples))
        seconds = statistics.median(self.seconds)
        return {
            "rounds": len(self.seconds),
            "ms_per_example": 1e3 * seconds / examples,
            "examples_per_second": examples / seconds,
            "gflop_per_example": flops / 1e9,
            "peak_gflops": statistics.median(self.peak) / 1e9,
            "ratio": statistics.median(ratios),
            "ratio_lowest": ratios[0],
            "ratio_highest": ratios[-1],
        }


def peak_timer(size: int = PEAK_SIZE) -> Callable[[], float]:
    """A function that times one float32 product of `size` x `size` matrices.

    It returns floating-point operations per second.
    """
    import tensorflow as tf

    matrix = tf.random.stateless_uniform((size, size), (1, 2), -1.0, 1.0)
    product = tf.function(lambda a: tf.reduce_sum(tf.matmul(a, a)[0]), autograph=False)
    product(matrix).numpy()

    def timed() -> float:
        start = time.perf_counter()
        product(matrix).numpy()
        return 2.0 * size**3 / (time.perf_counter() - start)

    return timed


def interleave(
    works: Sequence[Callable[[], None]],
    rounds: int = ROUNDS,
    peak: Callable[[], float] | None = None,
) -> list[Timing]:
    """Times every work once a round, with the machine's peak before and after each.

    The peak about a piece of work is the mean of the times before and after it.

    Args:
      works: each returns when its results are there; already compiled.
      rounds: how often.
      peak: as `peak_timer` gives it, the default.

    Raises:
      ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    peak = peak or peak_timer()
    seconds: list[list[float]] = [[] for _ in works]
    speeds: list[list[float]] = [[] for _ in works]
    before = peak()
    for _ in range(rounds):
        for k, work in enumerate(works):
            start = time.perf_counter()
            work()
            seconds[k].append(time.perf_counter() - start)
            after = peak()
            speeds[k].append(2.0 / (1.0 / before + 1.0 / after))
            before = after
    return [Timing(tuple(s), tuple(p)) for s, p in zip(seconds, speeds, strict=True)]


def peak_memory_mb() -> float:
    """The most memory that this process has held, in MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def seconds_since_start() -> float:
    """Seconds since this process was started; where Linux's /proc is absent, since the import."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.perf_counter() - _IMPORTED


def machine() -> dict[str, Any]:
    """The processor, its cores and the versions that a figure belongs to."""
    import tensorflow as tf

    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "devices": [d.name for d in tf.config.list_physical_devices() if d.device_type != "CPU"],
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _cores() -> int | None:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def fresh(module: str, flags: Mapping[str, Any]) -> Any:
    """The JSON that `python -m module --name=value ...` prints, in a process of its own.

    Raises:
      RuntimeError: the process failed; the text ends with what it complained of.
    """
    command = [sys.executable, "-m", module]
    command += [f"--{name}={value}" for name, value in flags.items() if value is not None]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def show(results: Any) -> None:
    """Prints results as JSON, floats to five digits."""
    print(json.dumps(_rounded(results), indent=1))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
