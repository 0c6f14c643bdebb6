"""A process that tries mutants: `python -m mutation.trials FOLDER MODULE...`.

It works in a copy of the project, `FOLDER`, and imports whatever takes long and is not the
project's: each mutant is tried in a fork, which begins with all that imported, and no thread of
TensorFlow's started. For every line of JSON on its input, a trial, it answers with one.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import resource
import select
import signal
import sys
from pathlib import Path

import pytest


class Judge:
    """A plugin of pytest: tests in the order given, and the first that fails."""

    def __init__(self, order: list[str]):
        self._rank = {name: k for k, name in enumerate(order)}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        """After the project's own order, which puts slow files first."""
        items.sort(key=lambda item: self._rank.get(item.nodeid, len(self._rank)))

    def pytest_runtest_logreport(self, report):
        """Remembers a test that fails."""
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report):
        """Remembers a file that cannot be imported."""
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (import)"


def judged(tests: list[str]) -> dict:
    """What some tests say: `failed`, the first that fails, empty if none does."""
    judge = Judge(tests)
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:randomly"]
    code = pytest.main([*options, *tests], plugins=[judge])
    # No test is left: the change took away what their names are made of.
    if code not in (0, 1, 5) and not judge.failed:
        judge.failed = f"{tests[0]} (pytest: {int(code)})"
    return {"failed": judge.failed}


def _child(tests: list[str], answer: int, limit: float) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit),) * 2)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    found = {"failed": "the process itself"}
    try:
        found = judged(tests)
    finally:
        os.write(answer, json.dumps(found).encode())
        os._exit(0)


def tried(tests: list[str], limit: float) -> dict:
    """`judged` in a fork that has `limit` seconds of processor time; `failed` may say it hung."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(tests, writer, limit)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        # Tests may wait without computing, and other processes compute too.
        ready, _, _ = select.select([answer], [], [], 30 + 4 * limit)
        text = answer.read(65536) if ready else b""
    # Whatever the tests started goes too.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if text:
        return json.loads(text)
    hung = not ready or code in (-signal.SIGXCPU, -signal.SIGKILL)
    return {"failed": "time limit" if hung else f"the process died of {code}"}


def main() -> None:
    """Serves until its input ends."""
    folder, *modules = sys.argv[1:]
    os.chdir(folder)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whoever prints does not answer
    for name in modules:
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        path = Path(order["path"])
        kept = path.read_text(encoding="utf-8")
        path.write_text(order["source"], encoding="utf-8")
        try:
            found = tried(order["tests"], order["limit"])
        finally:
            path.write_text(kept, encoding="utf-8")
        out.write(json.dumps(found) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
