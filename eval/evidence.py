"""What binds an evaluation to what others can check: hashes.

They do not depend on this program's version: `docs/certificates.md` defines them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from robustra_tf import Pair, graph
from robustra_tf.evidence.network import network_sha256

from .cascade import Examples


def hashes(
    model: keras.Model | Pair, examples: Examples, settings: Mapping[str, Any]
) -> dict[str, str]:
    """Of the network, as certificates name it, of the data and of the property; in hexadecimal.

    Args:
      model: the network, or a pair, whose hash is that of both hashes.
      examples: all of them.
      settings: with `norm`, `eps` and `box`.
    """
    networks = (model.f, model.g) if isinstance(model, Pair) else (model,)
    own = [network_sha256(graph.build(network)) for network in networks]
    property_ = {"property": "label", **{k: settings[k] for k in ("norm", "eps", "box")}}
    return {
        "network": own[0] if len(own) == 1 else _digits("".join(own)),
        "data": data_sha256(examples.images, examples.labels),
        "property": _digits(json.dumps(property_, sort_keys=True, separators=(",", ":"))),
    }


def data_sha256(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of one text after the other: the SHA-256 of an image's float32 bytes and its label.

    Args:
      images: [n, ...].
      labels: integers [n].
    """
    whole = hashlib.sha256()
    for image, label in zip(images, labels.tolist(), strict=True):
        one = hashlib.sha256(np.ascontiguousarray(image, "<f4").tobytes())
        one.update(f" {label}".encode())
        whole.update(one.hexdigest().encode())
    return whole.hexdigest()


def folder_sha256(folder: Path) -> str:
    """SHA-256 of a folder of proofs: for each file in order a line of its name and its SHA-256."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("*.npz")):
        whole.update(f"{path.name} {_digits(path.read_bytes())}\n".encode())
    return whole.hexdigest()


def _digits(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
