"""Certifies the images of a file: `python -m eval.certify IMAGES.npz --saved_model=DIR`.

The file holds `x`, images [n, height, width, channels] as floats in [0, 1], and `y`, the label of
each. The network is a SavedModel that training wrote, which knows the radius that it was trained
for, or published weights. Printed is what is proven; `--out` keeps it image by image, `--save` as a
certificate that `eval.check` derives anew.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustra_tf import data, description, settings
from robustra_tf.backend import BackendError, require_tensorflow_backend
from robustra_tf.files import write_atomically
from robustra_tf.reading import Field, read_arrays

if TYPE_CHECKING:
    from robustra_tf.certificates import Certificate

BAD_USAGE = 2
METHODS = ("dual", "interval", "crown", "alpha")
COLUMNS = ("index", "label", "predicted", "certified", "worst_target", "worst_margin")
#: Bytes of the images and the labels together: 10,000 images of CIFAR-10 ten times over.
LARGEST = 2**30


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
    given = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        certificate = _certify(given)
        if given.out is not None:
            write_atomically(given.out, table(certificate))
    except (ValueError, OSError, BackendError) as error:
        print(f"eval.certify: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_USAGE
    print(certificate.summary())
    return 0


def _certify(given: argparse.Namespace) -> Certificate:
    known = {}
    if given.saved_model is not None:
        known = description.read_settings(given.saved_model)
    eps, norm = (
        known.get(name) if getattr(given, name) is None else getattr(given, name)
        for name in ("eps", "norm")
    )
    if eps is None:
        raise settings.SettingError("eps", "a radius in pixels of [0, 1]", None)
    require_tensorflow_backend()
    from robustra_tf import certificates, export, models, published

    if given.weights is None:
        model = export.load(given.saved_model)
    else:
        model = models.build(given.model, seed=0)
        published.load_mat(model, given.weights, normalised=given.normalised)
    images, labels = read(given.images, tuple(model.input_shape[1:]))
    return certificates.certify(
        model,
        images,
        labels,
        eps,
        norm=norm or "linf",
        method=given.method,
        box=None if given.nobox else (0.0, 1.0),
        dtype=given.dtype,
        batch_size=given.batch_size,
        sound=given.sound,
        save=given.save,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="eval.certify", description=__doc__, allow_abbrev=False)
    flag = parser.add_argument
    flag("images", type=Path, metavar="IMAGES.npz", help="x: images, y: their labels")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--saved_model", type=Path, help="directory that training wrote")
    source.add_argument("--weights", type=Path, help="published weights, a .mat file; with --model")
    flag("--model", choices=tuple(settings.MODEL_INPUTS), help="architecture of --weights")
    flag("--normalised", action="store_true", help="as for eval.main")
    flag("--eps", type=float, help="radius in pixels of [0, 1]; default: the saved model's")
    flag("--norm", choices=settings.NORMS, help="of the ball; default: the saved model's, or linf")
    flag("--nobox", action="store_true", help="bound over the whole ball, not its part in [0, 1]")
    flag("--method", choices=METHODS, default="dual", help="of the bound; default: dual")
    flag("--dtype", choices=("float32", "float64"), help="of the bound")
    flag("--sound", action="store_true", help="subtract all rounding: dual and interval")
    flag("--batch_size", type=int, default=20, help="images at a time; default: 20")
    flag("--save", type=Path, help="the certificate, for eval.check; of the method dual")
    flag("--out", type=Path, help="what is proven image by image, a CSV")
    return parser


if __name__ == "__main__":
    sys.exit(main())
