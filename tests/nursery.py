"""Training programs as processes of their own, without the seconds of TensorFlow's import for each.

`python -m tests.nursery` imports everything, starts nothing of TensorFlow's runtime, and forks a
child that runs `train.main` or `eval.main` for every line of JSON on its input. `Nursery` is its
other end; `outcome` is all that a run of training leaves.
"""

from __future__ import annotations

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

from train.workdir import Workdir

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
        """Runs `train.main`, after a function of this module has prepared the process."""
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


def scalars(folder: Workdir) -> list[tuple[str, str, int, float]]:
    """(network, tag, step, value) as they stand in TensorBoard's files, of speeds without value."""
    import tensorflow as tf

    found = []
    for name in "fg":
        for path in sorted(folder.events(name).glob("events*")):
            for event in tf.compat.v1.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    number = float(tf.make_ndarray(value.tensor))
                    speed = value.tag.startswith("speed/")
                    found.append((name, value.tag, event.step, 0.0 if speed else number))
    return found


def variables(folder: Workdir) -> dict[str, bytes]:
    """The bits of every variable in the newest checkpoint."""
    from robustra_tf.training import checkpoint

    reader = checkpoint.variables(checkpoint.found(folder.checkpoints)[0])
    keys = [key for key in reader.get_variable_to_shape_map() if not key.startswith("_")]
    return {key: reader.get_tensor(key).tobytes() for key in keys}


def about(folder: Workdir) -> dict:
    """What the newest checkpoint says, but for times and the sizes of files."""
    from robustra_tf.training import checkpoint

    path = checkpoint.found(folder.checkpoints)[0]
    found = json.loads((path / "about.json").read_text())
    del found["position"]["seconds"], found["notes"]["events"]
    return found | {"name": path.name}


def outcome(folder: Workdir) -> dict:
    """All that must not depend on how often a run was interrupted."""
    return {
        "variables": variables(folder),
        "history": folder.history.read_text(),
        "about": about(folder),
        "scalars": scalars(folder),
    }


def uncertified() -> None:
    """No signature of an exported network that takes long to trace."""
    import functools

    from robustra_tf import export

    export.save = functools.partial(export.save, certifies=False)


def tiny() -> None:
    """One small layer instead of three convolutions, and exports that are not certified."""
    import keras
    import tensorflow as tf

    from robustra_tf import models

    # A third of such a life goes to it, and one life is compared with another alone.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

    def build(name, seed, init, batch_norm):
        draw = [keras.initializers.GlorotNormal(seed=seed + k) for k in range(2)]
        layers = [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(12, kernel_initializer=draw[0]),
            *([keras.layers.BatchNormalization(momentum=0.9)] if batch_norm else []),
            keras.layers.ReLU(),
            keras.layers.Dense(10, kernel_initializer=draw[1]),
        ]
        return keras.Sequential(layers)

    models.build = build
    uncertified()


def poisoned() -> None:
    """Example 41 has a pixel that is no number."""
    import numpy as np

    from robustra_tf import data

    tiny()
    load = data.Origin.load

    def damaged(*args):
        images, labels = load(*args)
        images = images.copy()
        images[41, 3, 3] = np.nan
        return data.Dataset(images, labels)

    data.Origin.load = damaged


def fatal() -> None:
    """Dies when the fourth pass has been recorded but its checkpoint not yet written."""
    import signal

    from robustra_tf.training.checkpoint import Checkpoints

    save = Checkpoints.save

    def dying(self, position, notes):
        if position.passes == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return save(self, position, notes)

    Checkpoints.save = dying


def slow() -> None:
    """Every step takes a second longer, and says that it is done."""
    import time

    from robustra_tf.training.step import TrainStep

    tiny()
    step = TrainStep.__call__

    def delayed(self, *args):
        time.sleep(1)
        metrics = step(self, *args)
        print("stepped", flush=True)
        return metrics

    TrainStep.__call__ = delayed


def slow_evaluation() -> None:
    """Test images are looked at forty together, for a second each time."""
    import time

    from robustra_tf.training import run

    tiny()
    run._TESTED_TOGETHER = 40
    certify = run.certify

    def delayed(*args, **kwargs):
        print("evaluating", flush=True)
        time.sleep(1)
        return certify(*args, **kwargs)

    run.certify = delayed


def stuck() -> None:
    """The second step computes for ever, without ever coming back to Python."""
    _endless_after(1)


def stuck_at_once() -> None:
    """The first step does, as if it took long to compile."""
    _endless_after(0)


def _endless_after(steps: int) -> None:
    import tensorflow as tf

    from robustra_tf.training.step import TrainStep

    tiny()

    @tf.function(autograph=False)
    def endless():
        return tf.while_loop(lambda x: x < 1.0, lambda x: (x * 0.5,), (tf.constant(0.5),))

    step, taken = TrainStep.__call__, []

    def endless_at_last(self, *args):
        if len(taken) == steps:
            print("endless", flush=True)
            endless()
        taken.append(self)
        return step(self, *args)

    TrainStep.__call__ = endless_at_last


def slow_bounds() -> None:
    """Every batch of a bound takes a second longer."""
    import time

    from eval.stages import Bound

    decide = Bound._decide

    def delayed(self, batch):
        time.sleep(1)
        return decide(self, batch)

    Bound._decide = delayed


def endless_bound() -> None:
    """A batch of a bound computes for ever, without ever coming back to Python."""
    import tensorflow as tf

    from eval.stages import Bound

    @tf.function(autograph=False)
    def endless():
        return tf.while_loop(lambda x: x < 1.0, lambda x: (x * 0.5,), (tf.constant(0.5),))

    def decide(self, batch):
        print("endless", flush=True)
        endless()

    Bound._decide = decide


def plain() -> None:
    """Nothing is changed."""


def _live(order: dict) -> None:
    for stream, path in ((1, Path(order["log"])), (2, _errors(Path(order["log"])))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_TRUNC), stream)
    code = 1
    try:
        main = importlib.import_module(f"{order['program']}.main")
        globals()[order["prepare"]]()
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
