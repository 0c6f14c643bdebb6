"""The page of a certificate: what is proven of each image, the hardest first.

One file that needs no network and no script, light or dark as its reader's system is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import image

from robustra_tf.storage.files import write_atomically

from . import figures
from .report import as_uri, environment, picture

if TYPE_CHECKING:
    from robustra_tf.certificates.certificate import Certificate

NAME = "certificate.html"
#: Images that are shown, and rows of the table at most.
SHOWN, LISTED = 18, 500
_KINDS = {"misclassified": "misclassified", "certified": "certified", "not certified": "open"}


def build(path: Path, certificate: Certificate, images: np.ndarray, named: tuple[str, str]) -> Path:
    """Writes the page of a certificate.

    Args:
      path: the page's file.
      certificate: of at least one image.
      images: [n, h, w, c] in [0, 1], those that it is of.
      named: the network, and where the images are from.

    Raises:
      ValueError: a certificate of no images.
    """
    count = len(certificate.labels)
    if not count:
        raise ValueError("report: expected a certificate of at least one image, got none")
    rows = list(_rows(certificate))
    shown = [row | {"uri": image_uri(images[row["index"]])} for row in rows[:SHOWN]]
    drawn = []
    for dark in (False, True):
        with figures.on_page(dark):
            figure = figures.sorted_margins(certificate.worst_margin, certificate.certified)
            drawn.append(picture("margins", "Lower bounds of the margins, sorted", figure))
    content = {
        "network": named[0],
        "origin": named[1],
        "certificate": certificate,
        "count": count,
        "totals": [
            {"words": words, "count": sum(row["status"] == words for row in rows)}
            for words in ("certified", "not certified", "misclassified")
        ],
        "light": drawn[0],
        "dark": drawn[1],
        "classes": list(_records(certificate.by_class())),
        "hardest": shown,
        "rows": rows[:LISTED],
    }
    write_atomically(path, environment().get_template(NAME).render(content))
    return path


def _rows(certificate: Certificate) -> Iterator[dict[str, Any]]:
    """What is known of each image, in the order of the lower bounds of their margins."""
    rows = list(_records(certificate.columns()))
    for place in np.argsort(certificate.worst_margin, kind="stable"):
        row = rows[place]
        status = "certified" if row["certified"] else "not certified"
        words = f"{status}, rival {row['worst_target']}"
        if row["predicted"] != row["label"]:
            status, words = "misclassified", f"classified as {row['predicted']}"
        yield row | {"status": status, "kind": _KINDS[status], "words": words}


def _records(columns: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    for values in zip(*(column.tolist() for column in columns.values()), strict=True):
        yield dict(zip(columns, values, strict=True))


def image_uri(pixels: np.ndarray) -> str:
    """An image [h, w, c] as a data URI."""
    png = io.BytesIO()
    grey = pixels.shape[-1] == 1
    shown = np.clip(pixels[..., 0] if grey else pixels[..., :3], 0, 1)
    image.imsave(png, shown, cmap="gray", vmin=0, vmax=1, format="png")
    return as_uri(png.getvalue())
