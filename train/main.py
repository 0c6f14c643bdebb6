"""Trains a pair of provably robust networks.

`python -m train.main`, or `robustra train` where the package is installed. Flags become one frozen
`Config`; everything is checked before TensorFlow is imported. Defaults are presets per dataset, the
paper's; without any flag a pair is trained on scikit-learn's digits.
"""

from __future__ import annotations

import dataclasses
import functools

from absl import app, flags

from robustra_tf.backend import BackendError, require_tensorflow_backend
from robustra_tf.cli import command, settings
from robustra_tf.cli.program import Program
from robustra_tf.cli.stopping import Exit, Stop, Stopped
from robustra_tf.data import DataNotFoundError

from . import config as configs
from . import devices, environment, presets, workdir

FLAGS = flags.FLAGS
PROGRAM = Program("train.main")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for beside the settings of a run."""

    resume: bool = command.setting("go on with the run of the workdir", False, topic="Run")
    list_presets: bool = command.setting(
        "print the recipes and do nothing else", False, topic="What is trained"
    )


COMMAND = (configs.Config, Request)


def _define() -> None:
    command.define(FLAGS, *COMMAND)


def main(argv) -> int:
    """Trains as the flags say; returns the process's exit code."""
    del argv
    if FLAGS.list_presets:
        print(presets.listing())
        return 0
    given = {name: FLAGS[name].value for name in configs.FIELDS}
    with Stop(PROGRAM.say) as stop:
        stop.nothing_to_lose("no step was taken yet")
        try:
            config, folder = workdir.open_run(given, FLAGS.resume, _require)
        except _Finished as finished:
            PROGRAM.say(str(finished))
            return Exit.DONE
        except (settings.FlagError, DataNotFoundError, BackendError) as error:
            return PROGRAM.refuse(error)
        except OSError as error:
            PROGRAM.say(str(error))
            return Exit.FAILED
        return _train(config, folder, stop)


class _Finished(Exception):  # noqa: N818 - it is no error
    """A run that is to go on has come to its end; the text says where it is."""


def _require(opening: workdir.Opening) -> None:
    """What only TensorFlow can tell, whose import is spent on nothing but right flags."""
    config, folder, stored = opening
    if opening.finished:
        places = " and ".join(str(folder.model(name)) for name in config.networks)
        more = "" if config.laid_out else "; --epochs=MORE prolongs it"
        raise _Finished(f"already finished, {config.epochs} epochs: {places}{more}")
    if stored:
        begins = f"going on with the run in {folder.root}"
    elif FLAGS.resume:
        begins = f"nothing to resume in {folder.root}: a new run begins there"
    else:
        begins = f"{config.method} on {config.dataset}, run in {folder.root}"
    PROGRAM.say(f"{begins}; starting TensorFlow")
    environment.prepare(config.deterministic, bool(FLAGS["verbosity"].present))
    require_tensorflow_backend()
    devices.require(devices.of(config), config.split_gpu_mb)
    if config.model_file or config.data:
        from . import run

        run.check(config)


def _train(config: configs.Config, folder: workdir.Workdir, stop: Stop) -> Exit:
    from robustra_tf.training.checkpoint import CheckpointError, found
    from robustra_tf.training.means import NotFiniteError

    from . import run

    try:
        run.run(config, folder, stop)
    except Stopped as saved:
        PROGRAM.say(f"stopped; saved in {saved}; --resume goes on from there")
        return Exit.STOPPED
    except NotFiniteError as error:
        PROGRAM.say(str(error))
        return Exit.NOT_FINITE
    except (CheckpointError, DataNotFoundError, settings.FlagError) as error:
        return PROGRAM.refuse(error)
    except OSError as error:  # Such as a full disk, or one that cannot be written.
        anew = "goes on from the last checkpoint" if found(folder.checkpoints) else "begins anew"
        PROGRAM.say(f"{error}; --resume {anew}")
        return Exit.FAILED
    return Exit.DONE


def start() -> None:
    """Reads the command line; ends the process with the code of `main`."""
    _define()
    app.run(main, flags_parser=functools.partial(PROGRAM.parse, FLAGS, COMMAND, __doc__))


if __name__ == "__main__":
    start()
