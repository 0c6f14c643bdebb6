"""Changes the library in one place at a time and says which changes no test notices.

`python -m mutation.main --count=300 --seed=0` draws so many mutants at random (`mutation.mutants`),
tries each in copies of the project, and prints a line for each and the survivors once more. First
the cheapest tests are run that cover the changed line, from distinct files; then, if it survives
them, all others that do, as far as `--patience` goes. A mutant is caught when a test fails, when a
file cannot be imported or when the tests hang. At last every test that caught one is run without
any change: it must pass.

What became of each is written to `.coverage/mutation/trials.jsonl` at once. `--keep=all` goes on
from there, and `--keep=caught` tries only the survivors again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutation.covering import Map
from mutation.journal import Journal, Trial
from mutation.mutants import Mutant, mutants

#: What certifies, or says whether something is certified.
TARGETS = (
    "robustra_tf/attacks",
    "robustra_tf/bounds",
    "robustra_tf/exact",
    "robustra_tf/objective",
    "robustra_tf/certificates/arguments.py",
    "robustra_tf/certificates/certify.py",
    "robustra_tf/certificates/compiled.py",
    "robustra_tf/certificates/proofs.py",
    "robustra_tf/certificates/saving.py",
    "robustra_tf/evidence",
    "eval/checker",
)
#: Files of these that decide only how fast something is.
LEFT_OUT = ("robustra_tf/bounds/cost.py",)
#: Files of tests that judge programs as processes of their own, where no change is seen.
PROGRAMS = (
    "benchmarks",
    "cli_train",
    "command",
    "eval_stop",
    "faults",
    "files",
    "mutation",
    "package",
    "parallel",
    "reliability",
    "resume",
    "study",
    "survival",
    "tutorial",
)
#: What a process imports once for all its mutants: it takes long and is not the project's.
MODULES = (
    "tensorflow",
    "keras",
    "hypothesis",
    "scipy.optimize",
    "sklearn.datasets",
    "sklearn.model_selection",
)
#: Tests of the first round.
FIRST = 12


@dataclasses.dataclass(frozen=True)
class Project:
    """What is changed and what judges, in the folder `root`."""

    root: Path
    targets: Sequence[str] = TARGETS
    tests: Sequence[str] = ("tests",)
    modules: Sequence[str] = MODULES
    left_out: Sequence[str] = (*LEFT_OUT, *(f"tests/test_{name}.py" for name in PROGRAMS))

    def sources(self) -> list[str]:
        """The files that mutants are drawn from."""
        return self._files(self.targets, "*.py")

    def test_files(self) -> list[str]:
        """The files of tests."""
        return self._files(self.tests, "test_*.py")

    def _files(self, places: Sequence[str], pattern: str) -> list[str]:
        found = []
        for place in places:
            path = self.root / place
            if not path.exists():
                raise FileNotFoundError(f"{path}: no such file or folder")
            found += sorted(path.rglob(pattern)) if path.is_dir() else [path]
        names = [str(path.relative_to(self.root)) for path in found]
        return [name for name in names if name not in self.left_out]

    def copied(self, folder: Path) -> Path:
        """A copy of all that a test may read, without what was built or run."""
        built = shutil.ignore_patterns(".*", "__pycache__", "runs", "dist", "_build", "*.pyc")
        return Path(shutil.copytree(self.root, folder, ignore=built, symlinks=True))


class Worker:
    """A process that tries mutants in a copy of the project."""

    def __init__(self, project: Project, folder: Path):
        project.copied(folder)
        shared = project.root.resolve().parent / "shared"
        here = str(Path(__file__).resolve().parents[1])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(folder), here]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        if shared.is_dir():
            environment.setdefault("ROBUSTRA_SHARED", str(shared))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mutation.trials", str(folder), *project.modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            text=True,
        )

    def tried(self, path: str, source: str, tests: list[str], limit: float) -> dict:
        """What the tests say with `source` in the place of the file `path`."""
        order = {"path": path, "source": source, "tests": tests, "limit": limit}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("a process that tries mutants has died")
        return json.loads(answer)

    def close(self) -> None:
        """Ends it."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Run:
    """All mutants of a project, some of which are tried."""

    def __init__(
        self,
        project: Project,
        *,
        processes: int = 2,
        patience: float = 120.0,
        keep: str = "none",
    ):
        """Prepares; `patience` are the seconds of tests that a mutant may survive.

        `keep` says what counts of the trials written down before: `none`, `caught` or `all`.
        """
        self._journal = Journal(project.root / ".coverage/mutation/trials.jsonl", keep=keep)
        self._project, self._processes, self._patience = project, processes, patience
        #: Seconds after which tests that should take none are said to hang.
        self.least_limit = 60.0
        sources = project.sources()
        self._sources = {p: (project.root / p).read_text(encoding="utf-8") for p in sources}
        self.mutants = [m for path, text in self._sources.items() for m in mutants(path, text)]
        self._map = Map(project.root, sources, project.test_files())
        self._map.measure(processes=processes)
        self._seconds = self._map.seconds()

    def rounds(self, mutant: Mutant) -> tuple[list[str], list[str], int]:
        """The tests of both rounds, cheapest first, and how many more there would be."""
        covering = self._map.covering
        names = covering(mutant.path, *mutant.lines) or covering(mutant.path, *mutant.scope)
        if not names and mutant.scope[0] == 1:  # nothing but constants, for the files beside it
            names = self._map.beside(mutant.path)
        names.sort(key=lambda name: (self._seconds[name], name))
        first: dict[str, str] = {}
        for name in names:
            if len(first) < FIRST:
                first.setdefault(name.partition("::")[0], name)
        chosen, rest, left = list(first.values()), [], self._patience
        for name in names:
            left -= self._seconds[name]
            if left < 0:
                break
            if name not in first.values():
                rest.append(name)
        return chosen, rest, len(set(names) - {*chosen, *rest})

    def tried(self, drawn: Sequence[Mutant], tell: Callable[[Trial], None]) -> list[Trial]:
        """What became of each mutant, and `tell` of each as soon as it is known."""
        waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
        for mutant in drawn:
            waiting.put(mutant)
        found: dict[Mutant, Trial] = {}

        def work(worker: Worker) -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    mutant = waiting.get_nowait()
                    found[mutant] = self._try(worker, mutant)
                    tell(found[mutant])

        with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
            places = [Path(folder) / str(k) for k in range(self._processes)]
            workers = [Worker(self._project, place) for place in places]
            try:
                with ThreadPoolExecutor(self._processes) as pool:
                    list(pool.map(work, workers))
                self._check(workers[0], found)
            finally:
                for worker in workers:
                    worker.close()
        return [found[mutant] for mutant in drawn]

    def _try(self, worker: Worker, mutant: Mutant) -> Trial:
        source = self._sources[mutant.path]
        if trial := self._journal.known(mutant, source):
            return trial
        trial = self._judged(worker, mutant)
        self._journal.add(trial, source)
        return trial

    def _judged(self, worker: Worker, mutant: Mutant) -> Trial:
        source = mutant.applied(self._sources[mutant.path])
        first, rest, untried = self.rounds(mutant)
        start, count = time.monotonic(), 0
        for tests in filter(None, (first, rest)):
            # Alone a test takes longer than where others have traced what it needs.
            limit = self.least_limit + 5 * sum(self._seconds[name] for name in tests)
            said = worker.tried(mutant.path, source, tests, limit)
            count += len(tests)
            if said["failed"]:
                return Trial(mutant, said["failed"], time.monotonic() - start, count)
        return Trial(mutant, "", time.monotonic() - start, count, untried)

    def _check(self, worker: Worker, found: dict[Mutant, Trial]) -> None:
        """Every test that caught a mutant passes without one."""
        tests = sorted({t.caught for t in found.values()} & set(self._seconds))
        if tests:
            path, source = next(iter(self._sources.items()))
            limit = 120 + 5 * sum(self._seconds[name] for name in tests)
            if failed := worker.tried(path, source, tests, limit)["failed"]:
                raise RuntimeError(f"{failed} fails without any change: it has caught nothing")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=300, help="mutants drawn; default: 300")
    parser.add_argument("--seed", type=int, default=0, help="of the draw; default: 0")
    parser.add_argument("--only", default="", help="of these alone: text in FILE:LINE: A → B")
    parser.add_argument("--tests", nargs="*", default=["tests"], help="files of tests or folders")
    parser.add_argument("--targets", nargs="*", default=list(TARGETS), help="what is changed")
    parser.add_argument("--processes", type=int, default=2, help="at a time; default: 2")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds of tests a mutant")
    counts = ("none", "caught", "all")
    parser.add_argument("--keep", default="none", choices=counts, help="of the trials before")
    return parser.parse_args()


def main() -> None:
    """Reads the command line."""
    given = _arguments()
    root = Path(__file__).resolve().parents[1]
    project = Project(root, given.targets, given.tests)
    start = time.monotonic()
    run = Run(project, processes=given.processes, patience=given.patience, keep=given.keep)
    print(f"{len(run.mutants)} mutants, tests mapped after {time.monotonic() - start:.0f} s")
    wanted = [mutant for mutant in run.mutants if given.only in str(mutant)]
    drawn = random.Random(given.seed).sample(wanted, min(given.count, len(wanted)))
    found = run.tried(drawn, tell=lambda trial: print(trial, flush=True))
    survivors = [trial for trial in found if not trial.caught]
    hung = sum(trial.caught == "time limit" for trial in found)
    caught = len(found) - len(survivors)
    print(f"\n{caught} of {len(found)} caught ({caught / max(len(found), 1):.1%}), {hung} of them")
    print(f"by the time limit; {time.monotonic() - start:.0f} s. Survivors:")
    for trial in sorted(survivors, key=lambda t: (t.mutant.path, t.mutant.line)):
        print(trial)


if __name__ == "__main__":
    main()
