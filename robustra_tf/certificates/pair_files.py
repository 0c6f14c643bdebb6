"""Certificates of pairs as files that a program of another author can check: docs/certificates.md.

Both networks with what their margins rest on, as `proofs` writes it of one, and the mix of both
margins for every image and target.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from robustra_tf.certificates import proofs
from robustra_tf.certificates.pair_certificate import PairCertificate
from robustra_tf.graph.graph import Graph

FORMAT, VERSION = "robustra_tf certificate of a pair", 1


class Kept(NamedTuple):
    """What a file has beside the margins.

    Attributes:
      share: the mix `a` that `margin_lower` is of, [n, classes]; None where no file is written.
      bands: of f and of g, for each ReLU the arrays of `proofs.BAND`; of intervals the first two.
    """

    share: np.ndarray | None
    bands: tuple[list, list]

    @classmethod
    def of(cls, shares: Sequence[np.ndarray], batches: Sequence[tuple], count: int) -> Self:
        """Of parts by batch, the first `count` examples of them all."""
        if not shares:
            return cls(None, ([], []))
        networks = []
        for relus in zip(*batches, strict=True):
            by_relu = zip(*relus, strict=True)
            networks.append(
                [[np.concatenate(e)[:count] for e in zip(*ends, strict=True)] for ends in by_relu]
            )
        return cls(np.concatenate(shares)[:count], (networks[0], networks[1]))


def write(
    path: Path,
    graphs: tuple[Graph, Graph],
    certificate: PairCertificate,
    x: np.ndarray,
    kept: Kept,
) -> None:
    """Writes a certificate, whole or not at all.

    Args:
      path: as `proofs.checked_path` gives it.
      graphs: of f and of g.
      certificate: of labels, one radius and one box.
      x: the images [n, *shape].
      kept: what its margins rest on.

    Raises:
      ValueError: no images, a radius for each image, or an image of which nothing is proven; the
        text says which.
    """
    if np.ndim(certificate.eps):
        raise ValueError("save: expected one radius for all images of a Pair, got several")
    if kept.share is None:
        raise ValueError("save: expected at least one image to certify, got none")
    margins = {"f": certificate.f_margin, "g": certificate.g_margin}
    answers = {"f": certificate.f_predicted, "g": certificate.g_predicted}
    for values in (certificate.margin_lower, *margins.values()):
        lost = ~np.isfinite(values).all(1)
        if lost.any():
            raise ValueError(f"save: nothing is proven of image {lost.argmax()}: leave it out")
    header = {
        "format": FORMAT,
        "version": VERSION,
        "norm": certificate.norm,
        "eps": certificate.eps,
        "box": certificate.box,
        "method": certificate.method,
        "mode": certificate.mode,
    }
    arrays = {
        "x": x,
        "labels": certificate.labels,
        "mix": kept.share,
        "margin_lower": certificate.margin_lower,
    }
    for name, graph, bands in zip(("f", "g"), graphs, kept.bands, strict=True):
        header[name], own = proofs.parts(graph, bands, f"{name}/")
        arrays |= {f"{name}/predicted": answers[name], f"{name}/margin_lower": margins[name]}
        arrays |= own
    proofs.archived(path, header, arrays)
