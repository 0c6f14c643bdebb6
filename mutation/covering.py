"""Which tests run which lines, and how long each takes: measured once, kept while nothing changes.

Measured by `pytest --cov` with the running test as context. What a test finds already traced or
cached counts for the one before it; so a line's tests are those that ran it first, each of which
runs it when it is alone too.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import coverage

#: Seconds that a test is taken to last at least: it begins a process's share of imports.
LEAST = 0.05


class Map:
    """Per test file: its digest, the seconds of its tests, and the lines that each of them runs."""

    def __init__(self, root: Path, targets: list[str], tests: list[str]):
        """Prepares a map of `targets`, source files, by the files `tests`, all below `root`."""
        self._root, self._targets, self._tests = root, targets, tests
        self._folder = root / ".coverage" / "mutation"
        self._path = self._folder / "map.json"
        self._kept: dict = {"sources": "", "files": {}}

    def measure(self, *, processes: int = 2) -> None:
        """Runs the tests whose entries are missing or out of date."""
        if self._path.exists():
            self._kept = json.loads(self._path.read_text())
        sources = self._digest(self._targets)
        if self._kept["sources"] != sources:
            self._kept = {"sources": sources, "files": {}}
        files = self._kept["files"]
        stale = [t for t in self._tests if files.get(t, {}).get("digest") != self._digest([t])]
        if not stale:
            return
        self._run(stale, processes)
        found = self._read(set(stale))
        for test in stale:
            entry = found.get(test, {"seconds": {}, "lines": {}})
            files[test] = {"digest": self._digest([test]), **entry}
        self._path.write_text(json.dumps(self._kept))

    def seconds(self) -> dict[str, float]:
        """How long every test of the files asked for takes."""
        return {
            name: seconds
            for test in self._tests
            for name, seconds in self._kept["files"][test]["seconds"].items()
        }

    def covering(self, path: str, first: int, last: int) -> list[str]:
        """The tests that run any of the lines `first` to `last` of a file."""
        found = []
        for test in self._tests:
            for name, lines in self._kept["files"][test]["lines"].items():
                if any(first <= line <= last for line in lines.get(path, ())):
                    found.append(name)
        return found

    def beside(self, path: str) -> list[str]:
        """The tests that run any line of any file in the folder of a file."""
        folder, found = Path(path).parent, {}
        for other in self._targets:
            if Path(other).parent == folder:
                found |= dict.fromkeys(self.covering(other, 1, sys.maxsize))
        return list(found)

    def _digest(self, paths: list[str]) -> str:
        found = hashlib.sha256()
        for path in paths:
            found.update((self._root / path).read_bytes())
        return found.hexdigest()

    def _run(self, tests: list[str], processes: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob("data*"):
            path.unlink()
        environment = os.environ | {
            "COVERAGE_FILE": str(self._folder / "data"),
            "MUTATION_SECONDS": str(self._folder / "seconds.json"),
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
        }
        here = str(Path(__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join([str(self._root), here])
        command = [sys.executable, "-m", "pytest", "-q", "-p", "mutation.clock", *tests]
        command += ["--cov", "--cov-context=test", "--cov-report="]
        if processes > 1:
            command += ["-n", str(processes), "--dist", "loadfile", "--no-loadscope-reorder"]
        done = subprocess.run(command, cwd=self._root, env=environment, check=False)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"pytest ended with {done.returncode}: nothing can be mapped")

    def _read(self, tests: set[str]) -> dict[str, dict]:
        measured = coverage.CoverageData(str(self._folder / "data"))
        measured.read()  # at once: what is added to data that were not read replaces them
        for path in sorted(self._folder.glob("data.*")):
            part = coverage.CoverageData(str(path))
            part.read()
            measured.update(part)
        seconds = json.loads((self._folder / "seconds.json").read_text())
        found = {test: {"seconds": {}, "lines": {}} for test in tests}
        for name, value in seconds.items():
            if (test := name.partition("::")[0]) in found:
                found[test]["seconds"][name] = max(value, LEAST)
        for target in self._targets:
            contexts = measured.contexts_by_lineno(str((self._root / target).resolve()))
            for line, names in contexts.items():
                for name in {name.rpartition("|")[0] for name in names if name}:
                    if name in seconds and (test := name.partition("::")[0]) in found:
                        lines = found[test]["lines"].setdefault(name, {})
                        lines.setdefault(target, []).append(line)
        return found
