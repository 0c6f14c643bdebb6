"""Training programs as processes of their own, without the seconds of TensorFlow's import for each.

`python -m tests.nursery` imports everything, starts nothing of TensorFlow's runtime, and forks a
child that runs `train.main` for every line of JSON on its input. `Nursery` is its other end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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

    def said(self) -> str:
        """Both of its streams."""
        return self.log.read_text()


class Nursery:
    """Starts lives."""

    def __init__(self):
        root = str(Path(__file__).resolve().parents[1])
        environment = os.environ | {"PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": "-1"}
        environment |= {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def start(self, workdir: Path, prepare: str = "tiny", **flags) -> Life:
        """Runs `train.main`, after a function of this module has prepared the process."""
        log = workdir.parent / f"{workdir.name}.log"
        words = [f"--{name}={value}" for name, value in (FLAGS | flags).items()]
        order = {"flags": [f"--workdir={workdir}", *words], "log": str(log), "prepare": prepare}
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


def tiny() -> None:
    """One small layer instead of three convolutions, and no signature that takes long to trace."""
    import functools

    import keras

    from robustra_tf import export, models

    def build(name, seed, init):
        draw = [keras.initializers.GlorotNormal(seed=seed + k) for k in range(2)]
        layers = [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(12, activation="relu", kernel_initializer=draw[0]),
            keras.layers.Dense(10, kernel_initializer=draw[1]),
        ]
        return keras.Sequential(layers)

    models.build = build
    export.save = functools.partial(export.save, certifies=False)


def poisoned() -> None:
    """Example 41 has a pixel that is no number."""
    import numpy as np

    from robustra_tf import data

    tiny()
    load = data.load

    def damaged(*args):
        images, labels = load(*args)
        images = images.copy()
        images[41, 3, 3] = np.nan
        return data.Dataset(images, labels)

    data.load = damaged


def slow() -> None:
    """Every step takes a second longer."""
    import time

    from train.step import TrainStep

    tiny()
    step = TrainStep.__call__

    def delayed(self, *args):
        time.sleep(1)
        return step(self, *args)

    TrainStep.__call__ = delayed


def _live(order: dict) -> None:
    from train import main

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    code = 1
    try:
        globals()[order["prepare"]]()
        main.FLAGS(["train.main", *order["flags"]])
        code = main.main([])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    import sklearn.datasets
    import sklearn.model_selection  # noqa: F401

    from train import main, run  # noqa: F401 - imports TensorFlow

    main._define()
    for line in sys.stdin:
        order = json.loads(line)
        if "flags" in order:
            answer = os.fork()
            if answer == 0:
                _live(order)
        else:
            pid, status = os.waitpid(
                *((order["wait"], 0) if "wait" in order else (order["poll"], os.WNOHANG))
            )
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
