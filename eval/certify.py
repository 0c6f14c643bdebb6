"""Certifies the images of a file.

`python -m eval.certify IMAGES.npz --saved_model=DIR`, or `robustra certify`. The file holds `x`,
images [n, height, width, channels] as floats in [0, 1], and `y`, the label of each. The network is
a SavedModel that training wrote, which knows the radius that it was trained for, or published
weights. Printed is what is proven; `--out` keeps it image by image, `--save` as a certificate that
`eval.check` derives anew.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustra_tf import data
from robustra_tf.backend import BackendError, require_tensorflow_backend
from robustra_tf.cli import command
from robustra_tf.cli.program import Program
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.storage import description
from robustra_tf.storage.files import write_atomically
from robustra_tf.storage.reading import Field, read_arrays
from robustra_tf.vocabulary import BOUNDS

from .config import Config, Source

if TYPE_CHECKING:
    from robustra_tf.certificates.certificate import Certificate

PROGRAM = Program("eval.certify")
COLUMNS = ("index", "label", "predicted", "certified", "worst_target", "worst_margin")
#: Bytes of the images and the labels together: 10,000 images of CIFAR-10 ten times over.
LARGEST = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certify(Source):
    """The command's settings."""

    images: Path = command.setting(
        "x: images, y: their labels", operands="IMAGES.npz", topic="Images"
    )
    eps: float | None = command.same(Config, "eps", default=None)
    norm: str | None = command.same(Config, "norm", default=None)
    box: bool = command.setting(
        "bound over the ball's part in [0, 1], not all of it", True, topic="Question"
    )
    method: str = command.setting("of the bound", "dual", choices=BOUNDS, topic="Bounds")
    dtype: str | None = command.same(Config, "dtype", default=None)
    sound: bool = command.setting("subtract all rounding: dual and interval", False, topic="Bounds")
    batch_size: int = command.setting("images at a time", 20, range=Range(1), topic="Bounds")
    save: Path | None = command.setting(
        "the certificate, for eval.check; of the method dual", None, topic="Results"
    )
    out: Path | None = command.setting(
        "what is proven image by image, a CSV", None, topic="Results"
    )


def read(path: Path, shape: tuple[int, ...]) -> data.Dataset:
    """The images and the labels of a file.

    Args:
      path: an `.npz` archive with `x` [n, *shape] and `y` [n].
      shape: of one image, as the network takes it.

    Raises:
      ValueError: the file is damaged, lacks a field, or has integers for pixels; it names what.
    """
    fields = {"x": Field("fiu", 1 + len(shape)), "y": Field("iu", 1)}
    found = read_arrays(path, fields, LARGEST)
    if found["x"].dtype.kind != "f":
        raise ValueError(
            f"{path}: x: expected floats in [0, 1], got {found['x'].dtype}; divide by the value of "
            "a white pixel, such as 255"
        )
    return data.Dataset(found["x"].astype(np.float32), found["y"].astype(np.int32))


def table(certificate: Certificate) -> str:
    """What is proven of each image as CSV, a row for each, columns `COLUMNS`."""
    columns = (
        range(len(certificate.labels)),
        certificate.labels,
        certificate.predicted,
        certificate.certified.astype(int),
        certificate.worst_target,
        certificate.worst_margin.tolist(),
    )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *zip(*columns, strict=True)])
    return text.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Certifies what the command line names; returns the process's exit code."""
    given = PROGRAM.read(Certify, __doc__, arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    PROGRAM.say(f"{given.images} by {given.saved_model or given.weights}; starting TensorFlow")
    try:
        certificate = _certify(given)
        if given.out is not None:
            write_atomically(given.out, table(certificate))
    except (ValueError, OSError, BackendError) as error:
        return PROGRAM.refuse(error)
    print(certificate.summary())
    return 0


def _certify(given: Certify) -> Certificate:
    known = {}
    if given.saved_model is not None:
        known = description.read_settings(given.saved_model)
    eps, norm = (
        known.get(name) if getattr(given, name) is None else getattr(given, name)
        for name in ("eps", "norm")
    )
    if eps is None:
        raise SettingError("eps", "a radius in pixels of [0, 1]", None)
    require_tensorflow_backend()
    from robustra_tf.certificates import certify as certificates

    from . import inputs

    model = inputs.load_network(given)
    images, labels = read(given.images, tuple(model.input_shape[1:]))
    return certificates.certify(
        model,
        images,
        labels,
        eps,
        norm=norm or "linf",
        method=given.method,
        box=(0.0, 1.0) if given.box else None,
        dtype=given.dtype,
        batch_size=given.batch_size,
        sound=given.sound,
        save=given.save,
        progress=sys.stderr.isatty(),
    )


if __name__ == "__main__":
    sys.exit(main())
