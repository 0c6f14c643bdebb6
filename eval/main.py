"""Evaluates a network: `python -m eval.main --saved_model=DIR --stages=clean,pgd,lp --out=DIR`.

Flags become one frozen `Config`; everything is checked before TensorFlow is imported. A network is
a SavedModel that training wrote, or published weights (`--weights=FILE.mat --model=NAME`).
"""

from __future__ import annotations

import functools
import os

from absl import app, flags, logging

from robustra_tf import data, settings
from robustra_tf.backend import BackendError, require_tensorflow_backend
from robustra_tf.program import Program
from robustra_tf.stopping import Exit, Stop, Stopped

from . import config as configs

FLAGS = flags.FLAGS
PROGRAM = Program("eval.main")


def _define() -> None:
    text, number, whole = flags.DEFINE_string, flags.DEFINE_float, flags.DEFINE_integer
    yes_no, default = flags.DEFINE_bool, configs.DEFAULTS
    trained = "default: what the saved model was trained for"
    text("saved_model", None, "directory of a SavedModel that training wrote")
    text("weights", None, "published weights, a .mat file; with --model")
    text("model", None, f"architecture of --weights: {', '.join(settings.MODEL_INPUTS)}")
    yes_no("normalised", None, "the network in --weights works on normalised inputs")
    text("dataset", None, f"{', '.join(data.NAMES)}; {trained}")
    text("data_dir", None, "TensorFlow Datasets' folder; default: TFDS_DATA_DIR, or else its own")
    text("split", None, f"{', '.join(data.SPLITS)}; default: {default['split']}")
    whole("first", None, "position of the first example in the split; default: 0")
    whole("limit", None, "so many examples from --first on; default: all")
    number("eps", None, f"radius of the ball in pixels of [0, 1]; {trained}")
    flags.DEFINE_list("eps_sweep", None, "further radii, for PGD and the LP bound: sweep.csv")
    text("norm", None, f"of the ball: {', '.join(settings.NORMS)}; {trained}, or else linf")
    text("box", None, f"low,high that attacked pixels keep to, or none; default: {default['box']}")
    yes_no("lp_box", None, "cut the ball to the box in the LP bound too: tighter than the paper's")
    flags.DEFINE_list("stages", None, f"of {','.join(configs.STAGES)}; default: clean,lp")
    whole("batch_size", None, f"examples at a time in lp; default: {default['batch_size']}")
    text("dtype", None, f"of the bounds: {', '.join(configs.DTYPES)}; default: float32")
    yes_no("sound", None, "subtract rounding from ibp and lp: true in real numbers and in float32")
    text("attack_loss", None, f"{', '.join(configs.LOSSES)}; default: {default['attack_loss']}")
    whole("attack_steps", None, f"of each restart; default: {default['attack_steps']}")
    whole("attack_restarts", None, f"default: {default['attack_restarts']}")
    whole("seed", None, "of the attack's random starts; default: 0")
    number("time_limit", None, "seconds of milp for an example; default: 120")
    text("solver", None, f"of milp: {', '.join(configs.SOLVERS)}; default: {default['solver']}")
    whole("workers", None, f"processes of milp; default: {default['workers']}")
    text("out", None, "directory of results.json, report.html and ledger.csv")
    yes_no("resume", None, "go on with the evaluation in --out")


def main(argv) -> int:
    """Evaluates as the flags say; returns the process's exit code."""
    del argv
    try:
        config = configs.resolve({name: FLAGS[name].value for name in configs.FIELDS})
        data.find(config.dataset, config.data_dir)
    except (ValueError, OSError) as error:
        return PROGRAM.refuse(error)
    # The first is read by TensorFlow at its import, the second by TensorFlow Datasets.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.WARNING)
    with Stop(PROGRAM.say) as stop:
        return _evaluate(config, stop)


def _evaluate(config: configs.Config, stop: Stop) -> Exit:
    try:
        require_tensorflow_backend()
        from . import milp, run

        evaluation = run.prepare(config)
    except (ValueError, OSError, BackendError) as error:
        return PROGRAM.refuse(error)
    try:
        run.evaluate(evaluation, stop)
    except (Stopped, milp.StageError, OSError) as error:
        # Ctrl-C reaches the workers too, which may break off before anything is looked at.
        if stop.requested:
            PROGRAM.say("stopped; --resume goes on from here")
            return Exit.STOPPED
        PROGRAM.say(str(error))  # Such as a full disk.
        return Exit.FAILED
    return Exit.DONE


if __name__ == "__main__":
    _define()
    app.run(main, flags_parser=functools.partial(PROGRAM.parse, FLAGS))
