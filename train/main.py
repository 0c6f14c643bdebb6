"""Trains a pair of provably robust networks: `python -m train.main`.

Flags become one frozen `Config`; everything is checked before TensorFlow is imported. Defaults are
presets per dataset, the paper's; without any flag a pair is trained on scikit-learn's digits.
"""

from __future__ import annotations

import functools

from absl import app, flags

from robustra_tf import settings
from robustra_tf.backend import BackendError, require_tensorflow_backend
from robustra_tf.data import INFO as DATASETS
from robustra_tf.data import DataNotFoundError
from robustra_tf.program import Program
from robustra_tf.stopping import Exit, Stop, Stopped

from . import config as configs
from . import devices, environment, presets, workdir

FLAGS = flags.FLAGS
PROGRAM = Program("train.main")


def _define() -> None:
    preset = "default: the dataset's preset"
    text, number, whole = flags.DEFINE_string, flags.DEFINE_float, flags.DEFINE_integer
    text("preset", None, "a recipe by name; other flags go before it (--list_presets)")
    flags.DEFINE_bool("list_presets", False, "print the recipes and do nothing else")
    text("dataset", None, f"{', '.join(DATASETS)}; default: {presets.DEFAULT_DATASET}")
    text("model", None, f"{', '.join(settings.MODEL_INPUTS)}; {preset}")
    text("method", None, f"{', '.join(settings.METHODS)}; default: robustra")
    flags.DEFINE_bool("pair", None, "wong, natural: train f and g, or f alone; default: both")
    text("inner", None, f"bounds of inner layers: {', '.join(settings.INNER)}; default: dual")
    text("schedule", None, f"{', '.join(configs.SCHEDULES)}; default: alternating")
    text("devices", None, "parallel: f's and g's TensorFlow devices, as in GPU:0,GPU:1")
    whole("split_gpu_mb", None, "parallel: two devices of so many MiB from one GPU; default: 0")
    text("norm", None, f"of the ball: {', '.join(settings.NORMS)}; default: linf")
    whole("projection", None, "estimate inner layers by so many random vectors; default: 0, exact")
    number("eps", None, f"radius of the ball in pixels of [0, 1]; {preset}")
    number("eps_train_ratio", None, "training goes up to this times eps; default: 1")
    number("eps_start", None, f"radius in the first epoch; {preset}")
    whole("eps_warmup_epochs", None, f"epochs over which the radius grows to eps; {preset}")
    text("ramp", None, f"the radius grows every: {', '.join(configs.RAMPS)}; {preset}")
    whole("epochs", None, f"each trains f, then g; {preset}")
    whole("batch_size", None, f"examples a step; {preset}")
    text("init", None, f"of the weights: {', '.join(settings.INITS)}; {preset}")
    flags.DEFINE_bool("batch_norm", None, "batch normalisation behind hidden layers; default: no")
    number("share", None, "mtl_ibp: of the interval loss; sabr: of the radius; default: 0.05")
    number("clean_share", None, "of the clean loss, by intervals, after the ramp; default: 0")
    whole("attack_steps", None, "of the attacks; default: 8")
    number("interval_share", None, "robustra, wong: of a loss by intervals; default: 0")
    number("attack_share", None, "robustra, wong: of the loss at attacked images; default: 0")
    number("regulariser", None, f"of interval bounds during the ramp; {preset}")
    text("optimizer", None, f"{', '.join(configs.OPTIMIZERS)}; {preset}")
    number("lr", None, f"learning rate; {preset}")
    text("lr_schedule", None, f"after the warm-up: {', '.join(configs.LR_SCHEDULES)}; {preset}")
    number("momentum", None, "of sgd; default: 0.9")
    number("weight_decay", None, f"added to the gradient times the weights; {preset}")
    number("clip_norm", None, f"largest norm of the gradient, 0: no limit; {preset}")
    whole("shift", None, f"move training images at random by up to so many pixels; {preset}")
    flags.DEFINE_bool("mirror", None, f"mirror training images at random; {preset}")
    whole("limit_train", None, "train on the first so many examples; default: all")
    whole("limit_test", None, "evaluate on so many test examples an epoch, 0: none")
    whole(
        "memory_mb",
        None,
        f"working memory of a step's bounds; default: {settings.DEFAULT_MEMORY_MB}",
    )
    whole("microbatch", None, "examples of a batch worked on at a time; default: by memory_mb")
    text("data_dir", None, "TensorFlow Datasets' folder; default: TFDS_DATA_DIR, or else its own")
    text("workdir", None, "folder of the run; default: runs/DATASET-METHOD")
    whole("seed", None, "of the weights and of the order of the data; default: 0")
    flags.DEFINE_bool("deterministic", None, "equal runs give equal bits, at some cost in speed")
    number("checkpoint_minutes", None, "between checkpoints in an epoch, 0: none; default: 10")
    flags.DEFINE_bool("resume", False, "go on with the run of the workdir")


def main(argv) -> int:
    """Trains as the flags say; returns the process's exit code."""
    del argv
    if FLAGS.list_presets:
        print(presets.listing())
        return 0
    given = {name: FLAGS[name].value for name in configs.FIELDS}
    with Stop(PROGRAM.say) as stop:
        try:
            config, folder = workdir.open_run(given, FLAGS.resume, _require)
            return _train(config, folder, stop)
        except (settings.SettingError, DataNotFoundError, BackendError) as error:
            return PROGRAM.refuse(error)
        except OSError as error:  # Such as a full disk, or one that cannot be written.
            PROGRAM.say(f"{error}; --resume goes on from the last checkpoint")
            return Exit.FAILED


def _train(config: configs.Config, folder: workdir.Workdir, stop: Stop) -> Exit:
    from . import run
    from .checkpoint import CheckpointError
    from .means import NotFiniteError

    try:
        run.run(config, folder, stop)
    except Stopped as saved:
        PROGRAM.say(f"stopped; saved in {saved}; --resume goes on from there")
        return Exit.STOPPED
    except NotFiniteError as error:
        PROGRAM.say(str(error))
        return Exit.NOT_FINITE
    except CheckpointError as error:
        return PROGRAM.refuse(error)
    return Exit.DONE


def _require(config: configs.Config) -> None:
    """What only TensorFlow can tell, whose import is spent on nothing but right flags."""
    environment.prepare(config.deterministic, FLAGS["verbosity"].present)
    require_tensorflow_backend()
    if config.devices:
        devices.require(config.devices, config.split_gpu_mb)


if __name__ == "__main__":
    _define()
    app.run(main, flags_parser=functools.partial(PROGRAM.parse, FLAGS))
