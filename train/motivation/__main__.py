"""Section 4 of the paper: a network trained away from another one.

`python -m train.motivation`, or `robustra motivation`. f is trained on `l_f + lambda |cos(grad_x
l_f, grad_x l_g)|`, g on `l_g` alone; after every epoch both are attacked, and each is shown what
was found for the other.
"""

from __future__ import annotations

import functools
from pathlib import Path

from absl import app, flags

from robustra_tf.backend import BackendError, require_tensorflow_backend
from robustra_tf.cli import command, settings
from robustra_tf.cli.program import Program
from robustra_tf.cli.stopping import Exit, Stop, Stopped
from robustra_tf.data import DataNotFoundError, find

from .. import environment
from ..workdir import Workdir
from .settings import FIELDS, Settings, resolve

FLAGS = flags.FLAGS
PROGRAM = Program("train.motivation")


def main(argv) -> int:
    """Trains as the flags say; returns the process's exit code."""
    del argv
    with Stop(PROGRAM.say) as stop:
        stop.nothing_to_lose("no step was taken yet")
        try:
            given = resolve({name: FLAGS[name].value for name in FIELDS})
            _check(given)
            PROGRAM.say(f"a pair on {given.dataset}, run in {given.workdir}; starting TensorFlow")
            environment.prepare(given.deterministic, bool(FLAGS["verbosity"].present))
            require_tensorflow_backend()
        except (settings.SettingError, DataNotFoundError, BackendError) as error:
            return PROGRAM.refuse(error)
        return _train(given, stop)


def _train(given: Settings, stop: Stop) -> Exit:
    from robustra_tf.training.means import NotFiniteError

    from .run import run

    try:
        run(given, stop)
    except Stopped:
        PROGRAM.say(f"stopped; the epochs so far are in {given.workdir}")
        return Exit.STOPPED
    except NotFiniteError as error:
        PROGRAM.say(str(error))
        return Exit.NOT_FINITE
    except OSError as error:  # Such as a full disk.
        PROGRAM.say(str(error))
        return Exit.FAILED
    return Exit.DONE


def _check(given: Settings) -> None:
    """What lies outside: the data, and a folder that holds no run yet."""
    if FLAGS["workdir"].value is not None:
        settings.output_directory("workdir", given.workdir)
    if Workdir(Path(given.workdir)).config.exists():
        raise settings.SettingError("workdir", "a folder without a run", given.workdir)
    find(given.dataset, given.data_dir)


def start() -> None:
    """Reads the command line; ends the process with the code of `main`."""
    command.define(FLAGS, Settings)
    app.run(main, flags_parser=functools.partial(PROGRAM.parse, FLAGS, (Settings,), __doc__))


if __name__ == "__main__":
    start()
