"""Section 4 of the paper: a network trained away from another one: `python -m train.motivation`.

f is trained on `l_f + lambda |cos(grad_x l_f, grad_x l_g)|`, g on `l_g` alone; after every epoch
both are attacked, and each is shown what was found for the other.
"""

from __future__ import annotations

import functools
from pathlib import Path

from absl import app, flags

from robustra_tf import settings
from robustra_tf.backend import BackendError, require_tensorflow_backend
from robustra_tf.data import INFO as DATASETS
from robustra_tf.data import DataNotFoundError, find
from robustra_tf.program import Program
from robustra_tf.stopping import Exit, Stop, Stopped

from .. import config as configs
from .. import environment, presets
from ..workdir import Workdir
from .settings import FIELDS, Settings, resolve

FLAGS = flags.FLAGS
PROGRAM = Program("train.motivation")


def _define() -> None:
    preset = "default: the dataset's preset of train.main"
    text, number, whole = flags.DEFINE_string, flags.DEFINE_float, flags.DEFINE_integer
    text("dataset", None, f"{', '.join(DATASETS)}; default: {presets.DEFAULT_DATASET}")
    text("model", None, f"both networks; {preset}")
    number("alignment", None, "lambda, the weight of |cos| in f's loss; default: 0.1")
    number("eps", None, f"radius of the attacks in pixels of [0, 1]; {preset}")
    text("norm", None, f"of the attacks: {', '.join(settings.NORMS)}; default: linf")
    whole("attack_steps", None, "of the attacks; default: 20")
    whole("attack_restarts", None, "of the attacks; default: 1")
    whole("epochs", None, "default: 20")
    whole("batch_size", None, f"examples a step; {preset}")
    text("optimizer", None, f"{', '.join(configs.OPTIMIZERS)}; {preset}")
    number("lr", None, f"learning rate; {preset}")
    number("momentum", None, "of sgd; default: 0.9")
    number("weight_decay", None, f"added to the gradient times the weights; {preset}")
    number("clip_norm", None, f"largest norm of the gradient, 0: no limit; {preset}")
    whole("shift", None, f"move training images at random by up to so many pixels; {preset}")
    flags.DEFINE_bool("mirror", None, f"mirror training images at random; {preset}")
    whole("limit_train", None, "train on the first so many examples; default: all")
    whole("limit_test", None, f"attack so many test examples an epoch; {preset}")
    whole("seed", None, "of the weights, the order of the data and the attacks; default: 0")
    flags.DEFINE_bool("deterministic", None, "equal runs give equal bits, at some cost in speed")
    text("data_dir", None, "TensorFlow Datasets' folder; default: TFDS_DATA_DIR, or else its own")
    text("workdir", None, "folder of the run; default: runs/DATASET-motivation")


def main(argv) -> int:
    """Trains as the flags say; returns the process's exit code."""
    del argv
    try:
        given = resolve({name: FLAGS[name].value for name in FIELDS})
        _check(given)
        environment.prepare(given.deterministic, FLAGS["verbosity"].present)
        require_tensorflow_backend()
    except (settings.SettingError, DataNotFoundError, BackendError) as error:
        return PROGRAM.refuse(error)
    from ..means import NotFiniteError
    from .run import run

    with Stop(PROGRAM.say) as stop:
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


if __name__ == "__main__":
    _define()
    app.run(main, flags_parser=functools.partial(PROGRAM.parse, FLAGS))
