"""Evaluation and training in turn, killed at random: `python -m benchmarks.soak --minutes=120`.

A cluster of Dask's stands beside it for as long as it lives. In every round one of its workers, the
program itself or, seldom, its scheduler is killed (SIGKILL) at a random moment of an evaluation,
which is gone on with by `--resume` until it is done; every fourth round a training run is. What is
left is compared with what an undisturbed process leaves: the ledger but for times, the weights bit
by bit. Moments of an evaluation are counted in lines of its ledger, so that they fall into it
however busy the machine is; one of four is before the first line.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import clusters, harness, processes
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range

#: What is killed, and how often: all that stands ends with a scheduler, and is to grow old.
VICTIMS = {"worker": 4, "scheduler": 1, "program": 4}
#: What is looked at for what it holds.
_HOLDERS = ("scheduler", "nanny", "program", "workers")
_TRAINING_EVERY = 4
#: The share of kills that come before the first line of a ledger; seconds between two looks, and
#: those after a line that a kill comes in.
_EARLY, _LOOK, _PAUSE = 0.25, 0.05, 1.0
#: Columns of a ledger that follow from times.
_TIMED = ("seconds", "search")
# A network whose images are decided by all stages: some wrong, some attacked, some hard to prove.
_TRAIN = (
    "--epochs=2",
    "--eps=0.05",
    "--eps_warmup_epochs=1",
    "--batch_size=10",
    "--limit_train=600",
    "--limit_test=0",
    "--deterministic",
    "--seed=3",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """How long, and over how much."""

    minutes: float = command.setting("to go on for", 120.0, range=Range(0, open_low=True))
    rounds: int = command.setting("at most", 10_000, range=Range(1))
    images: int = command.setting("of the digits, of each evaluation", 200, range=Range(1))
    eps: float = command.setting("radius in pixels", 0.06)
    stages: str = command.setting("of the evaluation", "clean,pgd,lp,milp")
    workers: int = command.setting("of the cluster", 2, range=Range(1))
    seed: int = command.setting("of what is killed when", 0)
    figure: Path | None = command.setting("file for what each held, round by round", None)

    def __post_init__(self):
        command.check(self)


def rows(out: Path) -> list[dict[str, str]]:
    """The lines of a ledger but for times; none where there is no ledger."""
    path = out / "ledger.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [{name: cell for name, cell in line.items() if name not in _TIMED} for line in lines]


def lines(out: Path) -> int:
    """Lines of a ledger: one an example and stage until it is finished; 0 where there is none."""
    try:
        return max((out / "ledger.csv").read_bytes().count(b"\n") - 1, 0)
    except OSError:
        return 0


class Soak:
    """Rounds of evaluation and of training."""

    def __init__(self, config: Config, home: Path):
        self._config, self._home, self._draw = config, home, random.Random(config.seed)
        self._log = home / "programs.log"
        self._begun = self._trained = 0.0
        self._lines = 0
        self._weights = ""

    def prepare(self) -> None:
        """What undisturbed processes leave."""
        start = time.monotonic()
        processes.finished(self._train("whole"), self._log)
        self._trained = time.monotonic() - start
        self._weights = self._sha256("whole")
        self._whole = self._evaluate("one")
        processes.finished(self._whole, self._log)
        self.expected = rows(self._home / "one")
        self.cluster = clusters.Cluster(self._home, self._config.workers)
        for name in ("cold", "warm"):  # the second time workers have imported TensorFlow
            start, self._lines, self._begun = time.monotonic(), 0, 0.0
            program = self._evaluate(name, cluster=True)
            while program.poll() is None:
                self._lines = max(self._lines, lines(self._home / name))
                self._begun += 0.0 if self._lines else time.monotonic() - start - self._begun
                time.sleep(_LOOK)
            processes.finished(program, self._log)

    def _train(self, name: str, *flags: str) -> subprocess.Popen:
        workdir = f"--workdir={self._home / name}"
        return processes.run("train.main", workdir, *_TRAIN, *flags, log=self._log)

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        for network in ("f", "g"):
            folder = self._home / name / network / "variables"
            for file in sorted(folder.glob("*.data-*")):
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def _evaluate(self, name: str, *flags: str, cluster: bool = False) -> subprocess.Popen:
        config = self._config
        given = [f"--saved_model={self._home / 'whole' / 'f'}", f"--out={self._home / name}"]
        given += [f"--limit={config.images}", f"--eps={config.eps}", f"--stages={config.stages}"]
        given += ["--solver=branch", "--attack_steps=10", "--batch_size=10", *flags]
        given += [f"--cluster={self.cluster.file}"] if cluster else []
        return processes.run("eval.main", *given, log=self._log)

    def evaluation(self, number: int) -> dict[str, Any]:
        """One round: killed once, gone on with until it is done, compared."""
        name = f"round{number}"
        (victim,) = self._draw.choices(list(VICTIMS), list(VICTIMS.values()))
        program = self._evaluate(name, cluster=True)
        early = self._draw.random() < _EARLY
        until = 1 if early else self._draw.randint(1, self._lines)
        pause = self._draw.uniform(0.0, self._begun if early else _PAUSE)
        held = self._watched(program, name, until, pause if early else math.inf)
        if not early:
            held += self._watched(program, name, sys.maxsize, pause)
        recorded, before = lines(self._home / name), self._standing()
        killed = self._kill(victim, program)
        code, times = program.wait(processes.PATIENCE), 0
        while code:
            times += 1
            if times > 5:
                raise RuntimeError(f"{victim}: exit code {code}: {self._log.read_text()[-2000:]}")
            if self.cluster.scheduler is None or self.cluster.scheduler.poll() is not None:
                self.cluster.start()
            code = self._evaluate(name, "--resume", cluster=True).wait(processes.PATIENCE)
        if self.cluster.scheduler is None or self.cluster.scheduler.poll() is not None:
            self.cluster.start()  # it was killed when nothing was left to ask it
        found, now = rows(self._home / name), self._standing()
        return {
            "victim": victim,
            "recorded": recorded,
            "killed": killed,
            "resumed": times,
            "same": found == self.expected,
            "lost": len(self.expected) - len({row["index"] for row in found}),
            "double": len(found) - len({row["index"] for row in found}),
            "program": processes.most(held),
            **{who: processes.most([had, now[who]]) for who, had in before.items()},
        }

    def _standing(self) -> dict[str, dict[str, float]]:
        """What the cluster holds."""
        return {
            "scheduler": processes.usage(self.cluster.scheduler),
            "nanny": processes.usage(self.cluster.nanny),
            "workers": processes.most([processes.usage(pid) for pid in self.cluster.pids()]),
        }

    def _watched(
        self, program: subprocess.Popen, name: str, until: int, seconds: float
    ) -> list[dict[str, float]]:
        """What a program holds until its ledger has so many lines, or until it is time."""
        end, held = time.monotonic() + seconds, []
        while time.monotonic() < end and lines(self._home / name) < until:
            if program.poll() is not None:
                break
            held.append(processes.usage(program))
            time.sleep(_LOOK)
        return held

    def _kill(self, victim: str, program: subprocess.Popen) -> bool:
        """Kills one of them; whether there was one to kill."""
        if victim == "program":
            there = program.poll() is None
            program.kill()
            return there
        if victim == "scheduler":
            assert self.cluster.scheduler is not None
            self.cluster.scheduler.kill()
            self.cluster.scheduler.wait()
            return True
        processes.wait(self.cluster.pids, "a worker")
        os.kill(self._draw.choice(self.cluster.pids()), signal.SIGKILL)
        return True

    def training(self, number: int) -> dict[str, Any]:
        """One round of training, killed once."""
        name = f"train{number}"
        program = self._train(name)
        moment = self._draw.uniform(0.3, 1.0) * self._trained
        held = self._watched(program, name, sys.maxsize, moment)
        killed = self._kill("program", program)
        program.wait()
        processes.finished(self._train(name, "--resume"), self._log)
        same = self._sha256(name) == self._weights
        most = processes.most(held)
        return {"victim": "training", "killed": killed, "same": same, "program": most}


def measure(config: Config, home: Path) -> dict[str, Any]:
    """Rounds until the time is over."""
    soak, found = Soak(config, home), []
    end = time.monotonic() + 60.0 * config.minutes
    soak.prepare()
    failed = ""
    try:
        while time.monotonic() < end and len(found) < config.rounds:
            number = len(found)
            one = soak.training if number % _TRAINING_EVERY == 3 else soak.evaluation
            found.append(one(number))
            print(f"{number}: {found[-1]}", file=sys.stderr, flush=True)
    except (RuntimeError, TimeoutError, subprocess.TimeoutExpired) as error:
        failed = str(error)[:500]  # what the rounds before came to is told
    finally:
        soak.cluster.close()
    if config.figure is not None:
        draw(found, config.figure)
    return {"examples": len(soak.expected), "failed": failed, **summary(found)}


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What rounds came to, and the most that was held in their first and in their second half."""
    evaluations = [one for one in found if one["victim"] != "training"]
    half = len(evaluations) // 2
    held = {
        f"{name}_{what}": [max(one[name][what] for one in part) for part in parts]
        for parts in [(evaluations[:half], evaluations[half:])]
        for name in _HOLDERS
        for what in ("mib", "files")
        if half
    }
    return {
        "rounds": len(found),
        "of_training": len(found) - len(evaluations),
        "killed": {
            victim: sum(one["victim"] == victim and one["killed"] for one in found)
            for victim in (*VICTIMS, "training")
        },
        "same": sum(one["same"] for one in found),
        "lost": sum(one["lost"] for one in evaluations),
        "double": sum(one["double"] for one in evaluations),
        **held,
    }


def draw(found: Sequence[dict[str, Any]], path: Path) -> None:
    """The most memory and open files that were seen in each round, of training the program's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, what in ((left, "mib"), (right, "files")):
        for name in _HOLDERS:
            # Nothing where there was none to look at.
            there = [(k, one[name]) for k, one in enumerate(found) if one.get(name, {}).get("mib")]
            axes.plot([k for k, _ in there], [one[what] for _, one in there], ".", label=name)
        axes.set(xlabel="round", ylim=(0, None))
        axes.grid(alpha=0.3)
    left.set_ylabel("MiB held")
    right.set_ylabel("open files")
    left.legend(fontsize=8)
    figure.savefig(path)


def main(config: Config) -> int:
    """Measures and prints; 1 where a round left something else."""
    with tempfile.TemporaryDirectory() as home:
        found = measure(config, Path(home))
    harness.show(found)
    wrong = found["failed"] or found["same"] != found["rounds"] or found["lost"] + found["double"]
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(command.read(Config, "benchmarks.soak", __doc__)))
