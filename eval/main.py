"""Evaluates a network on a test set: its clean, attacked and certified error.

`python -m eval.main --saved_model=DIR --stages=clean,pgd,lp --out=DIR`, or `robustra eval`. Flags
become one frozen `Config`; everything is checked before TensorFlow is imported. A network is a
SavedModel that training wrote, a Keras model (`--model_file=NET.keras`), or published weights
(`--weights=FILE.mat --model=NAME`); `--pair=RUN` is both networks of a training run as one
classifier, which abstains where they differ. Examples are a data set by name, or
`--data=FILE.npz`; or else properties in VNN-LIB are evaluated (`--properties=`).
"""

from __future__ import annotations

import functools
import os

from absl import app, flags, logging

from robustra_tf.backend import BackendError, require_tensorflow_backend
from robustra_tf.cli import command, settings
from robustra_tf.cli.program import Program
from robustra_tf.cli.stopping import Exit, Stop, Stopped

from . import config as configs
from . import questions, results

FLAGS = flags.FLAGS
PROGRAM = Program("eval.main")


def _define() -> None:
    command.define(FLAGS, configs.Config)


def main(argv) -> int:
    """Evaluates as the flags say; returns the process's exit code."""
    del argv
    try:
        given = {name: FLAGS[name].value for name in configs.FIELDS}
        config = (configs if given["properties"] is None else questions).resolve(given)
        if not (config.resume or config.overwrite):
            results.require_free(config.out)
    except (ValueError, OSError) as error:
        return PROGRAM.refuse(error)
    # The first is read by TensorFlow at its import, the second by TensorFlow Datasets.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.WARNING)
    with Stop(PROGRAM.say) as stop:
        stop.nothing_to_lose("nothing was decided yet")
        PROGRAM.say(f"{config.place} on {config.about}; starting TensorFlow")
        return _evaluate(config, stop)


def _evaluate(config: configs.Config | questions.Questions, stop: Stop) -> Exit:
    try:
        require_tensorflow_backend()
        from . import property_run, run, workers

        if isinstance(config, configs.Config) and config.pair is not None:
            from . import pair_run

            work = functools.partial(pair_run.evaluate, pair_run.prepare(config), stop, PROGRAM.say)
        elif isinstance(config, configs.Config):
            work = functools.partial(run.evaluate, run.prepare(config), stop, PROGRAM.say)
        else:
            work = functools.partial(property_run.evaluate, property_run.prepare(config), stop)
    except (ValueError, OSError, BackendError) as error:
        return PROGRAM.refuse(error)
    try:
        work()
    except settings.SettingError as error:  # of a cluster, once it has answered
        return PROGRAM.refuse(error)
    except (Stopped, workers.StageError, OSError) as error:
        # Ctrl-C reaches the workers too, which may break off before anything is looked at.
        if stop.requested:
            PROGRAM.say("stopped; --resume goes on from here")
            return Exit.STOPPED
        PROGRAM.say(str(error))  # Such as a full disk.
        return Exit.FAILED
    return Exit.DONE


def start() -> None:
    """Reads the command line; ends the process with the code of `main`."""
    _define()
    parser = functools.partial(PROGRAM.parse, FLAGS, (configs.Config,), __doc__)
    app.run(main, flags_parser=parser)


if __name__ == "__main__":
    start()
