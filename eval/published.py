"""The figures of Table 2 of the paper, in percent, to stand beside an evaluation's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

#: So far a radius may be from a published one and still mean it: CIFAR-10's were rounded.
_TOLERANCE = 0.01


class Published(NamedTuple):
    """A row of Table 2: errors in percent over 10,000 test images; None where none was given."""

    method: str
    lp: float
    milp: float | None
    clean: float


_ROBUSTRA, _WK = "Robustra", "Wong and Kolter"
_TABLE = {
    ("mnist_small", 0.1): (
        Published(_ROBUSTRA, 4.84, 2.55, 1.01),
        Published(_WK, 4.48, 4.38, 1.26),
    ),
    ("mnist_small", 0.3): (
        Published(_ROBUSTRA, 31.42, 16.91, 7.37),
        Published(_WK, 43.10, 25.79, 11.40),
    ),
    ("mnist_large", 0.1): (Published(_ROBUSTRA, 3.93, 2.09, 0.83),),
    ("mnist_large", 0.3): (Published(_ROBUSTRA, 34.59, 24.43, 11.61),),
    ("cifar10_small", 2 / 255): (Published(_ROBUSTRA, 51.47, 47.93, 36.03),),
    ("cifar10_small", 8 / 255): (Published(_ROBUSTRA, 76.29, 74.87, 66.34),),
    ("cifar10_large", 2 / 255): (Published(_ROBUSTRA, 43.68, None, 28.48),),
    ("cifar10_large", 8 / 255): (Published(_ROBUSTRA, 78.32, 77.56, 71.79),),
    ("cifar10_resnet", 2 / 255): (Published(_ROBUSTRA, 44.43, None, 29.51),),
    ("cifar10_resnet", 8 / 255): (Published(_ROBUSTRA, 79.57, 78.10, 72.10),),
}


def find(figures: Mapping[str, Any]) -> tuple[Published, ...]:
    """The rows for the architecture, dataset, norm and radius of a results.json; none if no match.

    The radius may be off by one percent, as 2/255 is often written 0.0078 or 0.00784.
    """
    if figures["norm"] != "linf" or figures["split"] != "test":
        return ()
    for (model, eps), rows in _TABLE.items():
        same = model == figures["model"] and model.startswith(f"{figures['dataset']}_")
        if same and math.isclose(eps, figures["eps"], rel_tol=_TOLERANCE):
            return rows
    return ()
