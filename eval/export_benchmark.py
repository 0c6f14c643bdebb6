"""Writes an evaluation as a benchmark of VNN-COMP, for other verifiers to run.

`python -m eval.export_benchmark --run=EVAL_DIR --out=DIR`, or `robustra export-benchmark`. EVAL_DIR
is the folder of a finished `eval.main` or `eval.merge` over balls of the maximum norm. Written are
the network in ONNX, a property in VNN-LIB for each image, `instances.csv` that lists them, and
`verdicts.csv`: `unsat` where the evaluation verified the image, `sat` where it is misclassified or
falsified, `unknown` otherwise. `robustra cross-check` compares these with another tool's results.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustra_tf.backend import BackendError, require_tensorflow_backend
from robustra_tf.cli import command, settings
from robustra_tf.cli.program import Program
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.cli.stopping import Exit
from robustra_tf.storage import keras_files
from robustra_tf.vnncomp import instances
from robustra_tf.vnncomp.answers import Word
from robustra_tf.vnncomp.instances import Instance

from . import answered, gallery, ledger, results
from .answered import Answered
from .cascade import Examples
from .ledger import Stored
from .rows import Row, Status
from .subject import Source

if TYPE_CHECKING:
    import keras

PROGRAM = Program("eval.export_benchmark")
NETWORK = "onnx/network.onnx"
_WORDS = {
    Status.VERIFIED: Word.UNSAT,
    Status.FALSIFIED: Word.SAT,
    Status.MISCLASSIFIED: Word.SAT,
    Status.UNKNOWN: Word.UNKNOWN,
}
#: How far the file may be from the model on an image, as a share of the largest logit.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportBenchmark:
    """The command's settings."""

    run: Path = command.setting("folder of the finished evaluation")
    out: Path = command.setting("new or empty folder of the benchmark")
    timeout: float = command.setting(
        "seconds that an instance is given", 100.0, range=Range(0, open_low=True)
    )
    network: Path | None = command.setting(
        "the evaluated network's file or folder", None, otherwise="where it was"
    )
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)
    data: Path | None = command.setting("the file or folder that was evaluated on", None)

    def __post_init__(self):
        command.check(self)
        settings.output_directory("out", self.out)
        if self.out.is_dir() and any(self.out.iterdir()):
            raise SettingError("out", "a new or empty folder", str(self.out))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports what the command line names; returns the process's exit code."""
    given = PROGRAM.read(ExportBenchmark, __doc__, arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        require_tensorflow_backend()
        print(export(given))
    except (ValueError, OSError, ImportError, BackendError) as error:
        return PROGRAM.refuse(error)
    return Exit.DONE


def export(given: ExportBenchmark) -> str:
    """Writes the benchmark; gives a line that says what is in it.

    Raises:
      OSError, ImportError, ValueError: no finished evaluation of balls of the maximum norm, its
        network or examples are not there or others, or the network cannot be written as ONNX.
    """
    stored = _finished(given.run)
    model = _network(stored, results.read(given.run), given)
    examples = gallery.load(stored.identity, given.data_dir, given.data)
    out = given.out
    for folder in (out, out / "onnx", out / "vnnlib"):
        folder.mkdir(exist_ok=True)
    images = _written(model, out / NETWORK, examples.images)
    rows = []
    outputs = model.output_shape[-1]
    for place, query in enumerate(_queries(stored.identity, examples, images, out, outputs)):
        row = stored.rows[int(examples.indices[place])]
        rows.append(_answered(place, query, row, given.timeout))
    instances.write(out / instances.NAME, [Instance(r.network, r.query, r.limit) for r in rows])
    answered.write(out, out.resolve().name, rows)
    counted = ", ".join(f"{sum(r.status is word for r in rows)} {word}" for word in Word)
    return f"{len(rows)} instances in {out / instances.NAME}: {counted}"


def _finished(run: Path) -> Stored[Row]:
    stored = ledger.read(run)
    if not stored.finished:
        raise ValueError(f"{run}: the evaluation is not finished; eval.main --resume goes on")
    if stored.identity["norm"] != "linf":
        raise ValueError(
            f"{run}: VNN-LIB knows boxes, expected balls of linf, got {stored.identity['norm']}"
        )
    return stored


def _network(stored: Stored[Row], found: Mapping[str, Any], given: ExportBenchmark) -> keras.Model:
    """The network that was evaluated, read again."""
    from robustra_tf.storage import fingerprint

    from . import inputs

    place = given.network or (found["source"] and Path(found["source"]))
    if not place:
        raise ValueError(f"{given.run}: its network's place is not known: --network names it")
    identity = stored.identity
    if place.suffix == ".mat":
        named = {name: identity[name] for name in ("model", "normalised")}
        source = Source(weights=place, **named)
    elif place.suffix in keras_files.SUFFIXES and not place.is_dir():
        source = Source(model_file=place)
    else:
        source = Source(saved_model=place)
    with settings.naming("network"):
        model = inputs.load_network(source)
    if fingerprint.weights_sha256(model) != identity["weights_sha256"]:
        raise ValueError(f"{place}: another network than the one that was evaluated")
    return model


def _written(model: keras.Model, path: Path, images: np.ndarray) -> np.ndarray:
    """Writes the network; gives the images as the file has them, compared by onnxruntime."""
    from robustra_tf import onnx
    from robustra_tf.onnx.files import read_model
    from robustra_tf.onnx.replay import Runtime
    from robustra_tf.onnx.writing import channels_first

    from .stages import predict

    onnx.save(model, path)
    turned = np.moveaxis(images, -1, 1) if channels_first(model) else images
    (found,) = Runtime(read_model(path))(turned)
    expected = predict(model, images)
    apart = np.abs(found.reshape(expected.shape) - expected).max(initial=0.0)
    if not apart <= _TOLERANCE * np.abs(expected).max(initial=0.0):
        raise ValueError(f"{path}: onnxruntime is {apart:.3g} from the model on the images")
    return turned


def _queries(
    identity: Mapping[str, Any], examples: Examples, images: np.ndarray, out: Path, outputs: int
) -> Iterator[str]:
    """Writes each image's property; gives its name in the benchmark."""
    from robustra_tf.outputs import classified
    from robustra_tf.property import Property

    eps, box = identity["eps"], identity["box"]
    for index, image, label in zip(examples.indices, images, examples.labels, strict=True):
        name = f"vnnlib/image_{int(index)}.vnnlib"
        ball = Property.around(image[None], eps, classified(int(label)), "linf", box)
        ball.to_vnnlib(out / name, outputs)
        yield name


def _answered(place: int, query: str, row: Row, seconds: float) -> Answered:
    word = _WORDS[row.status]
    reason = "not decided" if word is Word.UNKNOWN else ""
    return Answered(place, NETWORK, query, seconds, word, row.seconds, reason)


if __name__ == "__main__":
    sys.exit(main())
