"""Certificates as files, with the bands that they rest on."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustra_tf.certificates import proofs
from robustra_tf.certificates.certificate import Certificate, PropertyCertificate
from robustra_tf.certificates.work import Found
from robustra_tf.graph.graph import Graph
from robustra_tf.property import Query


def write(
    path, graph: Graph, certificate: Certificate | PropertyCertificate, query: Query, found: Found
) -> None:
    """Writes a certificate and what it rests on, the bands of each batch."""
    x = query.x
    bands = [
        [np.concatenate(ends)[: len(x)] for ends in zip(*relu, strict=True)]
        for relu in zip(*found.bands, strict=True)
    ]
    for values in (certificate.margin_lower, *(ends for relu in bands for ends in relu)):
        lost = ~np.isfinite(values.reshape(len(x), -1)).all(1)
        if lost.any():
            raise ValueError(f"save: nothing is proven of image {lost.argmax()}: leave it out")
    claim: dict[str, Any] = {
        "norm": query.norm,
        "method": certificate.method,
        "mode": certificate.mode,
    }
    arrays = {"x": x, "margin_lower": certificate.margin_lower}
    if isinstance(certificate, Certificate) and not np.ndim(query.eps):
        claim |= {"version": proofs.LABELS, "eps": certificate.eps, "box": certificate.box}
        arrays |= {"labels": certificate.labels, "predicted": certificate.predicted}
    else:
        claim["version"] = proofs.PROPERTY
        safe = found.safe.astype(np.int32)
        arrays |= proofs.asked(query, *graph.structure.output_shape) | {"safe": safe}
    proofs.write(path, graph, claim, arrays, bands)
