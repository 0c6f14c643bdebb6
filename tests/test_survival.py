"""Training that is killed again and again ends as if nothing had happened, bit for bit."""

import random
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.outcomes import about, scalars, variables
from train.workdir import Workdir

# A process imports TensorFlow; some thirty short runs begin in it, each of which traces a step.
pytestmark = pytest.mark.slow

PAIR = {
    "alternating": {},
    "parallel": {"schedule": "parallel", "devices_f": "CPU:0", "devices_g": "CPU:1"},
}
CASES = {
    "alternating": (PAIR["alternating"] | {"epochs": 12}, 10),
    "parallel": (PAIR["parallel"] | {"epochs": 18}, 10),
    # Attacks begin at random; running statistics are no trained weights.
    "attacks": ({"method": "mtl_ibp", "share": 0.5, "epochs": 12, "batch_norm": True}, 4),
}


def partial(folder):
    """Whether a checkpoint is being written."""
    return any(folder.checkpoints.glob("*.partial"))


def checkpoints(folder):
    return [p.name for p in folder.checkpoints.glob("*") if "." not in p.name]


def size(folder):
    """Bytes of the history, which grows at the end of a pass."""
    return folder.history.stat().st_size if folder.history.exists() else 0


def doom(life, folder, draw, kind):
    """Waits for a random moment of a life."""
    before, start = set(checkpoints(folder)), time.monotonic()
    if kind == "recorded":
        rows = size(folder)
        while size(folder) <= rows and not life.ended():
            time.sleep(0.0005)
        return
    if kind == "any":
        patience = draw.uniform(0.1, 2.0)
        while time.monotonic() < start + patience and not life.ended():
            time.sleep(0.01)
        return
    wanted, seen = draw.randint(1, 3), before
    while len(seen - before) < wanted:
        if life.ended():
            return
        seen = seen | set(checkpoints(folder))
        time.sleep(0.001)
    if kind == "writing":
        while not partial(folder) and not life.ended():
            pass
    time.sleep(draw.uniform(0, 0.004 if kind == "writing" else 0.05))


def killed(nursery, root, flags, kills):
    """A run that is killed so often, and how: (position before, whether within a checkpoint)."""
    draw, folder = random.Random(7), Workdir(root)
    kinds, deaths = ["writing", "recorded", "between", "writing", "any"], []
    while len(deaths) < kills:
        life = nursery.start(root, resume=True, **flags)
        doom(life, folder, draw, kinds[len(deaths) % len(kinds)])
        life.kill(signal.SIGKILL)
        assert life.wait() == -signal.SIGKILL, life.said()
        deaths.append((max(checkpoints(folder), default=""), partial(folder)))
    life = nursery.start(root, resume=True, **flags)
    assert life.wait() == 0, life.said()
    return deaths


def whole(nursery, root, flags):
    life = nursery.start(root, **flags)
    assert life.wait() == 0, life.said()


@pytest.fixture(scope="module")
def runs(nursery, tmp_path_factory):
    """By case: the folders of the uninterrupted and of the killed run, and the deaths."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    for case, (flags, kills) in CASES.items():
        folders = [Workdir(root / f"{case}-{kind}") for kind in ("whole", "killed")]
        whole(nursery, folders[0].root, flags)
        found[case] = *folders, killed(nursery, folders[1].root, flags, kills)
    return found


@pytest.fixture(params=CASES)
def case(request, runs):
    return request.param, *runs[request.param]


def test_it_was_killed_at_many_moments_and_while_saving(case):
    name, _, _, deaths = case
    assert len(deaths) == CASES[name][1]
    assert len({position for position, _ in deaths}) > len(deaths) // 2
    writing = [within for _, within in deaths]
    assert writing.count(True) >= len(deaths) // 5
    assert writing.count(False) >= len(deaths) // 5


def test_weights_and_optimizers_have_the_same_bits(case):
    name, whole, killed, _ = case
    found, expected = variables(killed), variables(whole)
    assert found == expected
    # Four weights, in the model and twice in Adam with its step and learning rate, and of a pair on
    # two devices in the snapshot of the other network. A batch normalisation has two weights more
    # and two running statistics.
    networks, weights = (1, 20) if name == "attacks" else (2, 16 if name == "parallel" else 12)
    assert len(found) == networks * (weights + 2)


def test_history_and_position_are_the_same(case):
    _, whole, killed, _ = case
    text = whole.history.read_text()
    assert text == killed.history.read_text()
    assert len(text.splitlines()) > 12
    assert about(whole) == about(killed)


def test_tensorboard_has_every_scalar_once(case):
    _, whole, killed, _ = case
    found, expected = scalars(killed), scalars(whole)
    assert found == expected
    assert len({entry[:3] for entry in found}) == len(found) > 0
    files = list(killed.root.glob("events/*/events*"))
    assert len(files) > len(list(whole.root.glob("events/*/events*")))


def test_the_exported_networks_are_the_same(case):
    case_name, whole, killed, _ = case
    for name in "fg":
        if not whole.model(name).exists():
            continue
        readers = [
            tf.train.load_checkpoint(str(folder.model(name) / "variables" / "variables"))
            for folder in (whole, killed)
        ]
        keys = [key for key in readers[0].get_variable_to_shape_map() if "model_weights" in key]
        assert len(keys) == (8 if case_name == "attacks" else 4)
        for key in keys:
            np.testing.assert_array_equal(*(reader.get_tensor(key) for reader in readers))


def test_nothing_half_written_is_left(case):
    _, _, killed, _ = case
    assert sorted(checkpoints(killed)) == sorted(p.name for p in killed.checkpoints.iterdir())
    assert len(checkpoints(killed)) == 2
    assert not list(killed.root.glob("*.partial"))
