"""One process, two, and a cluster of two, in turn: `python -m benchmarks.pools`.

The same evaluation of MNIST by each, whose complete stage is what several share. Its speed is
taken from the first verdict of that stage to the last, which leaves out what programs and workers
import, and the program's whole time stands beside it; seconds of the processor are those of the
program and of all that it has begun, in all and between these two verdicts, which other work of
the machine changes least. The ledgers have to be the same but for times.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness, processes, soak
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range

#: What is compared, by the flags.
_CASES = {"one": (), "workers": ("--workers={}",), "cluster": ("--cluster=local:{}",)}


@dataclasses.dataclass(frozen=True)
class Config:
    """How much of what."""

    weights: Path = command.setting(
        "of mnist_small", Path("../shared/weights/robustra_mnist_small_eps0.1.mat")
    )
    data_dir: str = command.setting("TensorFlow Datasets' folder", "../shared/tfds")
    images: int = command.setting("of MNIST's test split", 600, range=Range(1))
    eps: float = command.setting("radius in pixels", 0.1)
    workers: int = command.setting("of each several", 2, range=Range(2))
    rounds: int = command.setting("each with all cases", 2, range=Range(1))

    def __post_init__(self):
        command.check(self)


def family(pid: int) -> list[int]:
    """A process and all that it has begun, and that these have."""
    found = [pid]
    for each in found:
        try:
            found += processes.children(each)
        except OSError:  # one that has just ended
            continue
    return found


def verdicts(out: Path) -> int:
    """Lines of the complete stage in a ledger, counted without reading them."""
    try:
        return (out / "ledger.csv").read_bytes().count(b",milp,")
    except OSError:
        return 0


def watched(program: subprocess.Popen, out: Path) -> dict[str, Any]:
    """Follows an evaluation to its end: its times, and what all of its processes have used."""
    begun, first, last, used = time.monotonic(), 0.0, 0.0, dict[int, float]()
    early = decided = 0
    computed = [0.0, 0.0]
    while (code := program.poll()) is None:
        for pid in family(program.pid):
            try:
                used[pid] = processes.seconds(pid)
            except (OSError, IndexError):
                continue
        if (found := verdicts(out)) > decided:
            decided, last, computed[1] = found, time.monotonic(), sum(used.values())
            if not early:
                early, first, computed[0] = found, last, computed[1]
        time.sleep(0.05)
    ended = time.monotonic()
    if code or verdicts(out) != decided:
        raise RuntimeError(f"exit code {code}, {decided} verdicts seen")
    return {
        "seconds": ended - begun,
        "to_the_first_verdict": first - begun,
        "verdicts": decided,
        "verdicts_a_second": (decided - early) / (last - first),
        "processor_seconds": sum(used.values()),
        "processor_seconds_between": computed[1] - computed[0],
    }


def measure(config: Config, home: Path) -> dict[str, Any]:
    """All cases, round by round."""
    log = home / "log"
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _CASES}
    ledgers = []
    for number in range(config.rounds):
        for name, flags in _CASES.items():
            out = home / f"{name}{number}"
            given = [f"--weights={config.weights}", "--model=mnist_small", "--dataset=mnist"]
            given += [f"--data_dir={config.data_dir}", f"--limit={config.images}"]
            given += [f"--eps={config.eps}", f"--out={out}"]
            given += ["--stages=clean,milp", "--solver=branch"]
            given += [flag.format(config.workers) for flag in flags]
            found[name].append(watched(processes.run("eval.main", *given, log=log), out))
            ledgers.append(soak.rows(out))
    return {"same": all(ledger == ledgers[0] for ledger in ledgers), **summary(found)}


def summary(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The best round of each case, and how they compare."""
    best = {
        name: {
            key: (max if key == "verdicts_a_second" else min)(one[key] for one in rounds)
            for key in rounds[0]
        }
        for name, rounds in found.items()
    }
    rate = {name: one["verdicts_a_second"] for name, one in best.items()}
    whole = {name: one["seconds"] for name, one in best.items()}
    busy = {name: one["processor_seconds_between"] for name, one in best.items()}
    return {
        **best,
        "speedup_of_workers": rate["workers"] / rate["one"],
        "speedup_of_a_cluster": rate["cluster"] / rate["one"],
        "overhead_of_a_cluster": rate["workers"] / rate["cluster"] - 1.0,
        "overhead_of_a_cluster_in_processor_time": busy["cluster"] / busy["workers"] - 1.0,
        "overhead_of_a_cluster_from_the_start": whole["cluster"] / whole["workers"] - 1.0,
    }


def main(config: Config) -> int:
    """Measures and prints; 1 where the ledgers differ."""
    with tempfile.TemporaryDirectory() as home:
        found = measure(config, Path(home))
    harness.show(found)
    return int(not found["same"])


if __name__ == "__main__":
    sys.exit(main(command.read(Config, "benchmarks.pools", __doc__)))
