"""Programs and what they hold: begun, waited for, looked at through Linux's /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Seconds after which what is waited for does not come.
PATIENCE = 3600.0


def children(pid: int) -> list[int]:
    """The processes that another one has begun, in whichever of its threads."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def cmdline(pid: int) -> bytes:
    """The command of a process; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait(condition: Any, what: str) -> None:
    """Waits for a condition to hold."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come")
        time.sleep(0.05)


def usage(process: subprocess.Popen | int | None) -> dict[str, float]:
    """MiB that a process holds, and files that it has open; nothing of one that is gone."""
    assert process is not None
    home = Path(f"/proc/{process if isinstance(process, int) else process.pid}")
    try:
        pages = int((home / "statm").read_text().split()[1])
        files = len(list((home / "fd").iterdir()))
    except OSError:
        return {"mib": 0.0, "files": 0}
    mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return {"mib": round(mib, 1), "files": files}


def most(held: Sequence[dict[str, float]]) -> dict[str, float]:
    """The most of each; nothing of none."""
    return {name: max((one[name] for one in held), default=0) for name in ("mib", "files")}


def seconds(pid: int) -> float:
    """Seconds of a processor that a process has used, in all of its threads."""
    cells = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")


def run(module: str, *flags: str, log: Path) -> subprocess.Popen:
    """Begins a program."""
    with log.open("a") as file:
        return subprocess.Popen([sys.executable, "-m", module, *flags], stdout=file, stderr=file)


def finished(process: subprocess.Popen, log: Path) -> None:
    """Waits for a program that has to end well."""
    if code := process.wait(PATIENCE):
        raise RuntimeError(f"exit code {code}: {log.read_text()[-2000:]}")
