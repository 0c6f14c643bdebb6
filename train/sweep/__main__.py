"""Searches for recipes: clean error against certified error on held-out training images.

`python -m train.sweep`, or `robustra sweep`; needs the extra `sweep`. Flags of `robustra train` say
what all trials have in common, `--search` what is varied. No test image is read. `--resume` goes on
where a sweep has been stopped or killed.
"""

from __future__ import annotations

import functools
import json

from absl import app, flags

from robustra_tf.backend import BackendError, require_tensorflow_backend
from robustra_tf.cli import command, settings
from robustra_tf.cli.program import Program
from robustra_tf.cli.stopping import Exit, Stop, Stopped
from robustra_tf.data import DataNotFoundError
from robustra_tf.storage.files import InUseError, hold, write_atomically
from robustra_tf.storage.reading import read_json

from .. import config as configs
from .. import environment
from .settings import Sweep, Task, task

FLAGS = flags.FLAGS
PROGRAM = Program("train.sweep")
COMMAND = (Sweep, configs.Config)


def main(argv) -> int:
    """Searches as the flags say; returns the process's exit code."""
    del argv
    with Stop(PROGRAM.say) as stop:
        stop.nothing_to_lose("no trial was begun yet")
        try:
            found = task(*({name: FLAGS[name].value for name in command.names(k)} for k in COMMAND))
            _open(found)
            PROGRAM.say(f"{found.sweep.trials} trials in {found.sweep.root}; starting TensorFlow")
            environment.prepare(False, bool(FLAGS["verbosity"].present))
            require_tensorflow_backend()
        except (settings.FlagError, DataNotFoundError, BackendError) as error:
            return PROGRAM.refuse(error)
        return _search(found, stop)


def _open(found: Task) -> None:
    """The folder is this process's; it has no sweep yet, or this one, to be gone on with."""
    root = settings.output_directory("out", found.sweep.root)
    root.mkdir(exist_ok=True)
    try:
        hold(root)
    except InUseError as error:
        wanted = f"a folder that no other process works in ({error})"
        raise settings.SettingError("out", wanted, str(root)) from error
    stored = root / "sweep.json"
    if stored.exists():
        if not found.sweep.resume:
            wanted = "a folder without a sweep (--resume goes on with it)"
            raise settings.SettingError("out", wanted, str(root))
        with settings.naming("out"):
            there = read_json(stored)
        if there != json.loads(json.dumps(found.stored)):
            raise settings.SettingError("resume", f"the settings of {stored}", found.stored)
        return
    write_atomically(stored, json.dumps(found.stored, indent=2) + "\n")


def _search(found: Task, stop: Stop) -> Exit:
    from . import page, processes, study

    opened = study.opened(found)
    if left := study.take_up(opened):
        PROGRAM.say(f"{left} trials that broke off are made again")
    count = found.sweep.trials - study.made(opened)
    stop.nothing_to_lose(None)
    stop.keeps(f"--resume goes on with {found.sweep.root}")
    code = Exit.DONE
    try:
        if count > 0:
            code = processes.make(found, count, stop)
    except Stopped:
        code = Exit.STOPPED
    rows = study.rows(found, opened)
    page.write(found.sweep.root, rows)
    for row in rows:
        if row["best"]:
            errors = ", ".join(f"{name} {row[name]:.4g}" for name in study.objectives(found))
            print(f"trial {row['trial']}: {errors}", flush=True)
    if code == Exit.STOPPED:
        PROGRAM.say(f"stopped; --resume goes on with {found.sweep.root}")
    return code


def start() -> None:
    """Reads the command line; ends the process with the code of `main`."""
    command.define(FLAGS, *COMMAND)
    app.run(main, flags_parser=functools.partial(PROGRAM.parse, FLAGS, COMMAND, __doc__))


if __name__ == "__main__":
    start()
