"""Certificates for tests of the checker: made by `certify`, taken apart, put together again."""

import json

import numpy as np
import pytest

import robustra_tf as rt
from eval.checker import claim, derive
from eval.checker.rejection import RejectedError
from tests import nets

REGIONS = (("linf", (0.0, 1.0), 0.05), ("linf", None, 0.03), ("l2", None, 0.15), ("l1", None, 0.3))
MODES = {"float32": {"dtype": "float32"}, "float64": {"dtype": "float64"}, "sound": {"sound": True}}
SEED = 7


def made(folder, case):
    """The file of a certificate and what `certify` returned.

    Args:
      folder: to write into.
      case: the name of a network of `nets.ALL`, the number of a region and the name of a mode.
    """
    name, region, mode = case
    norm, box, eps = REGIONS[region]
    model = nets.ALL[name]()
    x = nets.images(model, 2, seed=SEED)
    y = model(x).numpy().argmax(1)
    path = folder / f"{name}-{region}-{mode}.npz"
    return path, rt.certify(
        model, x, y, eps, norm=norm, box=box, batch_size=2, save=path, **MODES[mode]
    )


def members(path):
    """The arrays of a certificate, and its header."""
    with np.load(path) as file:
        arrays = dict(file)
    return arrays, json.loads(arrays.pop("header").tobytes())


def written(path, arrays, header):
    """A certificate of these arrays; its path."""
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, header=text, **arrays)
    return path


def rejection(path):
    """Why a file is rejected."""
    with pytest.raises(RejectedError) as error:
        derive.check(claim.read(path))
    return error.value
