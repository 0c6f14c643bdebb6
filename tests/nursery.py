"""Training programs as processes of their own, without the seconds of TensorFlow's import for each.

`python -m tests.nursery` imports everything, starts nothing of TensorFlow's runtime, and forks a
child that runs `train.main` or `eval.main` for every line of JSON on its input. `Nursery` is its
other end; `preparations` has what a process is given to suffer, `outcomes` what it leaves.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import preparations

#: A run of a tiny pair that lasts some seconds, most of them tracing.
FLAGS = {
    "eps_warmup_epochs": 2,
    "eps_start": 0.01,
    "eps": 0.04,
    "ramp": "step",
    "batch_size": 16,
    "limit_train": 64,
    "limit_test": 0,
    "seed": 3,
    "deterministic": True,
    "checkpoint_minutes": 1e-9,  # after every step
}


#: Seconds that anything may take that a life is waited for.
PATIENCE = 120


def _errors(log: Path) -> Path:
    """Where the stream of errors goes beside a log."""
    return log.with_suffix(".errors")


class Life:
    """A process that trains."""

    def __init__(self, nursery: Nursery, pid: int, log: Path):
        self.pid, self.log, self._nursery = pid, log, nursery
        self.code: int | None = None

    def ended(self) -> bool:
        """Whether it has ended by now."""
        if self.code is None:
            self.code = self._nursery.ask({"poll": self.pid})
        return self.code is not None

    def wait(self) -> int:
        """Its exit code once it has ended, the signal's number negated where one ended it."""
        if self.code is None:
            self.code = self._nursery.ask({"wait": self.pid})
        return self.code

    def kill(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def printed(self) -> str:
        """What it has written to its standard output."""
        return self.log.read_text()

    def told(self) -> str:
        """What it has written to its stream of errors."""
        return _errors(self.log).read_text()

    def said(self) -> str:
        """Both of its streams, that of errors last."""
        return self.printed() + self.told()

    def until(self, condition: Callable[[], Any]) -> None:
        """Waits for a condition to hold while it goes on."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.said()
            assert not self.ended(), self.said()
            time.sleep(0.002)


class Nursery:
    """Starts lives."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        self._logs = Path(self._folder.name)
        root = str(Path(__file__).resolve().parents[1])
        environment = os.environ | {"PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": "-1"}
        environment |= {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
        # A life ends at once, so that what it covered is lost: to measure it only slows it.
        environment.pop("COVERAGE_PROCESS_CONFIG", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def start(self, workdir: Path, prepare: str = "tiny", **flags) -> Life:
        """Runs `train.main`, after a function of `preparations` has prepared the process."""
        return self.run("train", prepare, workdir=workdir, **(FLAGS | flags))

    def run(self, program: str, prepare: str, **flags) -> Life:
        """Runs one of the programs."""
        log = self._logs / f"{len(list(self._logs.iterdir()))}.log"
        log.touch()
        _errors(log).touch()
        words = [f"--{name}={value}" for name, value in flags.items()]
        order = {"program": program, "flags": words, "log": str(log), "prepare": prepare}
        return Life(self, self.ask(order), log)

    def ask(self, order: dict) -> int | None:
        """The answer to an order."""
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Ends it."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()


def _live(order: dict) -> None:
    for stream, path in ((1, Path(order["log"])), (2, _errors(Path(order["log"])))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_TRUNC), stream)
    code = 1
    try:
        main = importlib.import_module(f"{order['program']}.main")
        getattr(preparations, order["prepare"])()
        main._define()
        main.FLAGS(["main", *order["flags"]])
        code = main.main([])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    # Whatever takes long and starts no thread of TensorFlow's.
    for name in ("sklearn.datasets", "sklearn.model_selection", "train.run", "eval.run"):
        importlib.import_module(name)
    # What was imported is no garbage: no life has to look at it again.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        if "flags" in order:
            answer = os.fork()
            if answer == 0:
                _live(order)
        else:
            wanted = (order["wait"], 0) if "wait" in order else (order["poll"], os.WNOHANG)
            pid, status = os.waitpid(*wanted)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
