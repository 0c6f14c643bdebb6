"""A scheduler of Dask's and its workers, as processes of this machine that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks import processes

#: Messages that Dask keeps on each way, for whoever looks for faults in it.
_REMEMBERED = {"DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "4"}


class Cluster:
    """A scheduler and its workers, if any, as processes."""

    def __init__(self, home: Path, workers: int):
        self.file, self._log = home / "scheduler.json", home / "cluster.log"
        self._workers, self.scheduler, self.nanny = workers, None, None
        self.start()

    def start(self) -> None:
        """Begins what is not there."""
        self.close()
        self.file.unlink(missing_ok=True)
        quiet = ("--scheduler-file", str(self.file), "--no-dashboard")
        own = ("--host", "127.0.0.1", "--port", "0")
        threads = ("--nthreads", "1", "--memory-limit", "0", "--host", "127.0.0.1")
        several = ("--nworkers", str(self._workers), *threads)
        self.scheduler = self._begun("distributed.cli.dask_scheduler", *quiet, *own)
        processes.wait(self._named, "a scheduler")
        if self._workers:
            self.nanny = self._begun("distributed.cli.dask_worker", *quiet, *several)

    def _begun(self, module: str, *flags: str) -> subprocess.Popen:
        command, own = [sys.executable, "-m", module, *flags], os.environ | _REMEMBERED
        with self._log.open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=own)

    @property
    def address(self) -> str:
        """The scheduler's."""
        return json.loads(self.file.read_text())["address"]

    def _named(self) -> bool:
        try:
            return bool(self.address)
        except (OSError, ValueError):  # not there, or not written to its end
            return False

    def pids(self) -> list[int]:
        """The processes of its workers."""
        assert self.nanny is not None
        begun = processes.children(self.nanny.pid)
        return [pid for pid in begun if b"spawn_main" in processes.cmdline(pid)]

    def close(self) -> None:
        """Ends it."""
        for process in (self.nanny, self.scheduler):
            if process is not None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
