"""Checkpoints: what they hold, what they refuse, and that the last whole one is found."""

import os
import shutil
import subprocess

import keras
import numpy as np
import pytest

from robustra_tf.storage import files
from robustra_tf.training.checkpoint import KEPT, CheckpointError, Checkpoints, found
from robustra_tf.training.means import NotFiniteError
from robustra_tf.training.mutual import Learner, Snapshot
from robustra_tf.training.watch import Position

HERE = Position(7, 3, {"f": {"loss": 0.1 + 0.2, "eta": float("inf")}}, 1.5)
NOTES = {"history": [{"epoch": "1", "loss": "2.5"}], "events": {"f/events.out": 12}}


def _network(name: str, units: int = 2, seen: bool = False) -> Learner:
    model, copy = (
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)]) for _ in range(2)
    )
    optimizer = keras.optimizers.Adam(0.5)
    optimizer.build(model.trainable_variables)
    return Learner(name, model, optimizer, None, snapshot=Snapshot(copy, model) if seen else None)


def _pair(**options) -> list[Learner]:
    return [_network(name, **options) for name in "fg"]


def _fit(network: Learner, steps: int) -> None:
    rng = np.random.default_rng(steps)
    for _ in range(steps):
        variables = network.model.trainable_variables
        network.optimizer.apply([rng.normal(size=v.shape) for v in variables], variables)


def _state(networks) -> list[np.ndarray]:
    parts = [(n.model, n.optimizer, *([n.snapshot.copy] if n.snapshot else [])) for n in networks]
    return [v.numpy() for found in parts for part in found for v in part.variables]


def _equal(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(_state(one), _state(other), strict=True))


@pytest.mark.parametrize("seen", [False, True])
def test_a_checkpoint_restores_everything(tmp_path, seen):
    saved, restored = _pair(seen=seen), _pair(seen=seen)
    for steps, network in enumerate(saved, start=1):
        _fit(network, steps)
    path = Checkpoints(tmp_path, saved, seed=5).save(HERE, NOTES)
    assert not _equal(saved, restored)
    back = Checkpoints(tmp_path, restored, seed=5).restore()
    assert (back.path, back.position, back.notes, back.skipped) == (path, HERE, NOTES, [])
    assert _equal(saved, restored)
    # The slots too: the next update is the same.
    for network in (*saved, *restored):
        _fit(network, 1)
    assert _equal(saved, restored)


def test_a_snapshot_is_restored_as_it_was_and_not_refreshed(tmp_path):
    (saved,), (restored,) = [_network("f", seen=True)], [_network("f", seen=True)]
    saved.snapshot.copy.set_weights([np.full(w.shape, 0.5) for w in saved.model.get_weights()])
    Checkpoints(tmp_path, [saved], seed=5).save(HERE, NOTES)
    Checkpoints(tmp_path, [restored], seed=5).restore()
    for copied, own in zip(
        restored.snapshot.copy.get_weights(), restored.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(copied, 0.5)
        assert not np.array_equal(copied, own)


def test_without_a_checkpoint_nothing_is_restored(tmp_path):
    assert Checkpoints(tmp_path / "none", [_network("f")], seed=0).restore() is None


def test_a_checkpoint_of_other_networks_or_another_seed_is_refused(tmp_path):
    Checkpoints(tmp_path, _pair(), seed=5).save(HERE, NOTES)
    with pytest.raises(CheckpointError, match="expected a checkpoint of seed 6, got seed 5"):
        Checkpoints(tmp_path, _pair(), seed=6).restore()
    for others in ([_network("f")], [_network("f", units=3), _network("g")], _pair(seen=True)):
        with pytest.raises(CheckpointError, match="not a checkpoint of these networks") as raised:
            Checkpoints(tmp_path, others, seed=5).restore()
        assert "\n" not in str(raised.value)


def test_the_checksums_are_those_of_sha256sum(tmp_path):
    path = Checkpoints(tmp_path, _pair(), seed=5).save(HERE, NOTES)
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=path, capture_output=True, text=True, check=True
    )
    checked = {line.split(":")[0] for line in done.stdout.splitlines()}
    assert checked == {file.name for file in path.iterdir()} - {"SHA256SUMS"}


def test_the_newest_ones_are_kept_in_the_order_of_their_positions(tmp_path):
    checkpoints = Checkpoints(tmp_path, _pair(), seed=5)
    places = [(0, 2), (1, 0), (1, 99_999_999), (999_999, 5), (1_000_000, 0)]
    for place in places:
        path = checkpoints.save(Position(*place), NOTES)
        assert checkpoints.newest == path == found(tmp_path)[0]
    assert len(found(tmp_path)) == KEPT == 2
    assert {p.name for p in tmp_path.iterdir()} == {"999999-00000005", "1000000-00000000"}


def _cut(path):
    os.truncate(path, path.stat().st_size // 2)


def _empty(path):
    os.truncate(path, 0)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def _drop_line(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


DAMAGE = {
    **{
        f"{how.__name__[1:]} {name}": (how, name)
        for how in (_cut, _empty, _flip, os.unlink)
        for name in ("about.json", "state.index", "state.data-00000-of-00001", "SHA256SUMS")
    },
    "no sum of about.json": (_drop_line, "SHA256SUMS"),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two checkpoints, and the networks as they were at the first and at the second."""
    root, networks = tmp_path_factory.mktemp("two"), _pair()
    checkpoints, states = Checkpoints(root, networks, seed=5), []
    for step in (1, 2):
        _fit(networks[0], step)
        checkpoints.save(HERE._replace(step=step), NOTES)
        states.append(_state(networks))
    return root, states


@pytest.mark.parametrize(("how", "name"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(two, tmp_path, how, name):
    root, states = two
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    newest, before = found(tmp_path)
    how(newest / name)
    restored = _pair()
    checkpoints = Checkpoints(tmp_path, restored, seed=5)
    back = checkpoints.restore()
    assert (back.path, back.position.step) == (before, 1)
    for got, want in zip(_state(restored), states[0], strict=True):
        np.testing.assert_array_equal(got, want)
    (line,) = back.skipped
    assert str(newest) in line
    assert "damaged" in line
    assert "\n" not in line
    # Out of the way of the one that will be saved in its place, and of being kept for a good one.
    assert found(tmp_path) == [before]
    assert checkpoints.save(back.position._replace(step=2), NOTES) == newest
    assert found(tmp_path) == [newest, before]
    assert Checkpoints(tmp_path, _pair(), seed=5).restore().skipped == []


def test_damaged_checkpoints_alone_are_refused_and_left(two, tmp_path):
    shutil.copytree(two[0], tmp_path, dirs_exist_ok=True)
    both = found(tmp_path)
    for path in both:
        _flip(path / "about.json")
    with pytest.raises(CheckpointError, match="no checkpoint can be used") as raised:
        Checkpoints(tmp_path, _pair(), seed=5).restore()
    for path in both:
        assert f"{path / 'about.json'}: damaged" in str(raised.value)
    assert found(tmp_path) == both


def test_what_a_crash_left_half_written_is_neither_read_nor_kept(two, tmp_path):
    shutil.copytree(two[0], tmp_path, dirs_exist_ok=True)
    half = tmp_path / "000009-00000000.partial"
    shutil.copytree(found(tmp_path)[0], half)
    (half / "SHA256SUMS").unlink()
    checkpoints = Checkpoints(tmp_path, _pair(), seed=5)
    assert checkpoints.restore().position.step == 2
    checkpoints.save(HERE, NOTES)
    assert not half.exists()


@pytest.mark.parametrize("part", ["model", "optimizer", "snapshot"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_saved(tmp_path, part, value):
    network = _network("f", seen=True)
    checkpoints = Checkpoints(tmp_path, [network], seed=5)
    checkpoints.save(HERE, NOTES)
    held = {"model": network.model, "optimizer": network.optimizer}
    variable = (held | {"snapshot": network.snapshot.copy})[part].variables[-1]
    poisoned = variable.numpy()
    poisoned.flat[-1] = value
    variable.assign(poisoned)
    with pytest.raises(NotFiniteError, match=f"{part} of f: not finite after 8 passes"):
        checkpoints.save(Position(8), NOTES)
    assert [path.name for path in tmp_path.iterdir()] == ["000007-00000003"]
    assert Checkpoints(tmp_path, [_network("f", seen=True)], seed=5).restore().position == HERE


def test_a_checkpoint_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Every file of it and the folder are synchronised before the folder is renamed."""
    synchronised = []
    sync = files.sync

    def recorded(path):
        synchronised.append(path)
        sync(path)

    monkeypatch.setattr(files, "sync", recorded)
    final = Checkpoints(tmp_path, _pair(), seed=5).save(HERE, NOTES)
    partial = final.with_name(final.name + ".partial")
    expected = {partial / file.name for file in final.iterdir()} | {partial}
    assert set(synchronised[:-1]) == expected
    assert synchronised[-1] == tmp_path
