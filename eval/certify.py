"""Certifies the images of a file, a folder or a data set.

`python -m eval.certify IMAGES --model_file=NET.keras --eps=0.1`, or `robustra certify`. IMAGES is
an `.npz` file with `x`, images [n, height, width, channels] in [0, 1], and `y`, the label of each,
or a folder of images by class; or `--dataset` names a data set. A SavedModel that training wrote
knows the radius that it was trained for; `--pair=RUN` is both networks of a run as one classifier,
which abstains where they differ. Printed is what is proven; `--out` keeps it image by
image, `--save` as a certificate that `eval.check` derives anew, `--report` writes a page of it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustra_tf.cli import command, settings
from robustra_tf.cli.program import Program
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.data import Dataset
from robustra_tf.storage.files import write_atomically
from robustra_tf.vocabulary import BOUNDS

from . import page
from .asked import Asked, answer, as_csv
from .config import Config
from .subject import PairSource

if TYPE_CHECKING:
    import keras

    from robustra_tf.certificates.certificate import Certificate
    from robustra_tf.certificates.pair_certificate import PairCertificate

PROGRAM = Program("eval.certify")
COLUMNS = ("index", "label", "predicted", "certified", "worst_target", "worst_margin")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certify(Asked, PairSource):
    """The command's settings."""

    box: bool = command.setting(
        "bound over the ball's part in [0, 1], not all of it", True, topic="Question"
    )
    method: str = command.setting("of the bound", "dual", choices=BOUNDS, topic="Bounds")
    dtype: str | None = command.same(Config, "dtype", default=None)
    sound: bool = command.setting("subtract all rounding: dual and interval", False, topic="Bounds")
    batch_size: int = command.setting("images at a time", 20, range=Range(1), topic="Bounds")
    save: Path | None = command.setting(
        "the certificate, for eval.check; of the method dual, of a pair interval too",
        None,
        topic="Results",
    )
    out: Path | None = command.setting(
        "what is proven image by image, a CSV", None, topic="Results"
    )
    report: Path | None = command.setting(
        "a page of it, the hardest images first, an HTML file", None, topic="Results"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.pair is not None and self.report is not None:
            raise SettingError("report", "none with --pair", str(self.report))
        if self.report is not None and (missing := page.missing()):
            wanted = f"{missing} installed, which pip install 'robustra-tf[report]' does"
            raise SettingError("report", wanted, str(self.report))


def table(certificate: Certificate | PairCertificate, first: int = 0) -> str:
    """What is proven of each image as CSV, a row for each from `first` on, columns `COLUMNS`."""
    columns = (
        range(first, first + len(certificate.labels)),
        certificate.labels,
        certificate.predicted,
        certificate.certified.astype(int),
        certificate.worst_target,
        certificate.worst_margin.tolist(),
    )
    return as_csv(COLUMNS, columns)


def main(arguments: Sequence[str] | None = None) -> int:
    """Certifies what the command line names; returns the process's exit code."""
    return answer(PROGRAM, Certify, __doc__, arguments, _certify)


def _certify(given: Certify, model: keras.Model, examples: Dataset) -> str:
    from robustra_tf.certificates import certify as certificates

    certificate = certificates.certify(
        model,
        *examples,
        given.eps,
        norm=settings.known("norm", given.norm),
        method=given.method,
        box=(0.0, 1.0) if given.box else None,
        dtype=given.dtype,
        batch_size=given.batch_size,
        sound=given.sound,
        save=given.save,
        progress=sys.stderr.isatty(),
    )
    if given.out is not None:
        write_atomically(given.out, table(certificate, given.first))
    if given.report is not None:
        from . import proven

        named = str(given.place), given.origin.name
        proven.build(given.report, certificate, examples.images, named)
    return certificate.summary()


if __name__ == "__main__":
    sys.exit(main())
