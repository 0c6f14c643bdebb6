"""Steps whose batches several devices share: what one device does, within rounding, and where."""

import json

import pytest

from tests.shared_batches import CASES, DEVICES
from tests.test_parallel import _python


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the program of `shared_batches` has left."""
    folder = tmp_path_factory.mktemp("shared")
    done = _python("-m", "tests.shared_batches", str(folder), cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


# Slow: a process imports TensorFlow and traces a step once for one device and once for three.


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_several_devices_take_the_steps_of_one(found, name):
    """Weights and metrics after two steps; shares are unequal, for seven examples are shared."""
    compared = found[name]
    assert compared["moved"] > 1e-2
    # Sums of seven terms and of three partial sums in float32.
    assert compared["weights"] <= 1e-6
    assert compared["metrics"] <= 2e-6


@pytest.mark.slow
def test_each_device_has_a_share_of_the_work_and_the_weights_once(found):
    placement = found["placement"]
    counts = [placement["operations"][device] for device in DEVICES]
    assert min(counts) > 300
    # Six weights of each network, images, labels and the radius go out; six gradients and the
    # measurements come back; the others have nothing to do with each other.
    ways = {f"{DEVICES[0]} {device}": 15 for device in DEVICES[1:]}
    assert placement["sent"] == ways | {f"{device} {DEVICES[0]}": 18 for device in DEVICES[1:]}
