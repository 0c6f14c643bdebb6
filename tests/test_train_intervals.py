"""Runs on interval bounds: one network by intervals, a pair with interval inner bounds."""

import csv

import numpy as np
import pytest

import robustra_tf as rt
from robustra_tf.cli.settings import SettingError
from train import config as configs
from train import run, workdir

pytestmark = pytest.mark.usefixtures("unoptimised")

SETTINGS = {
    "dataset": "digits",
    "epochs": 3,
    "eps_warmup_epochs": 2,
    "limit_train": 200,
    "limit_test": 60,
    "batch_size": 50,
}


def trained(folder, **given):
    config, place = workdir.open_run(SETTINGS | given | {"workdir": str(folder)}, resume=False)
    run.run(config, place)
    with place.history.open(newline="") as file:
        return config, place, list(csv.DictReader(file))


def test_a_run_by_intervals_trains_one_network_along_a_ramp_of_steps(tmp_path):
    config, place, rows = trained(
        tmp_path / "run", method="ibp", eps=0.02, eps_train_ratio=1.5, lr=2e-3
    )
    assert [row["network"] for row in rows] == ["f"] * 3
    assert not place.model("g").exists()
    # Four steps an epoch: the last of the first one is at 3 / 8 of the ramp.
    radii = [float(row["eps"]) for row in rows]
    assert radii == pytest.approx([0.03 * 3 / 8, 0.03 * 7 / 8, 0.03])
    assert [float(row["lr"]) for row in rows] == pytest.approx([2e-3, 2e-3, 2e-3])
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    # What is reported is the certified error at eps itself, of the exported network.
    model = rt.export.load(place.model("f"))
    test = rt.data.load("digits", "test", 60)
    found = rt.certify(model, *test, eps=0.02, method="interval")
    assert float(rows[-1]["test_interval_error"]) == pytest.approx(1 - found.certified.mean())
    assert not rows[-1]["test_lp_error"]
    assert config.networks == ("f",)


def test_what_batch_normalisation_has_trained_is_certified_with_its_running_statistics(tmp_path):
    given = {"method": "ibp", "eps": 0.02, "lr": 2e-3, "batch_norm": True, "shift": 1}
    _, place, rows = trained(tmp_path / "run", **given)
    model = rt.export.load(place.model("f"))
    moving = [w.numpy() for w in model.non_trainable_weights]
    assert len(moving) == 6
    assert not any((w == 0).all() or (w == 1).all() for w in moving)
    found = rt.certify(model, *rt.data.load("digits", "test", 60), eps=0.02, method="interval")
    assert float(rows[-1]["test_interval_error"]) == pytest.approx(1 - found.certified.mean())


def test_a_share_of_the_interval_loss_narrows_the_intervals(tmp_path):
    """The same network with and without it: what changes is what was asked for."""
    given = {"method": "wong", "pair": False, "inner": "interval", "eps": 0.01, "lr": 4e-3}
    test = rt.data.load("digits", "test", 60)
    margins = {}
    for share in (0.0, 0.5):
        _, place, _ = trained(tmp_path / str(share), interval_share=share, **given)
        found = rt.certify(rt.export.load(place.model("f")), *test, eps=0.01, method="interval")
        margins[share] = np.median(found.worst_margin)
    assert margins[0.5] > margins[0.0]


def test_a_baseline_trains_alone_the_network_that_it_trains_beside_another(tmp_path):
    given = {"method": "natural", "eps": 0.01, "lr": 4e-3}
    _, alone, rows = trained(tmp_path / "alone", pair=False, **given)
    assert [row["network"] for row in rows] == ["f"] * 3
    assert not alone.model("g").exists()
    # Later epochs take their examples in another order: an order belongs to a pass.
    _, _, beside = trained(tmp_path / "both", **given)
    assert float(rows[0]["loss"]) == pytest.approx(float(beside[0]["loss"]), rel=1e-3)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_a_pair_trains_on_other_inner_bounds(tmp_path):
    inner, ramp = "interval", {"eps": 0.01, "eps_start": 0.005}
    _, place, rows = trained(tmp_path / "run", method="robustra", inner=inner, lr=2e-3, **ramp)
    assert [row["network"] for row in rows] == ["f", "g"] * 3
    losses = [float(row["loss"]) for row in rows]
    assert losses[-1] < losses[1]
    test = rt.data.load("digits", "test", 60)
    model = rt.export.load(place.model("g"))
    found = rt.certify(model, *test, eps=0.01, box=None, inner=inner)
    assert float(rows[-1]["test_lp_error"]) == pytest.approx(1 - np.mean(found.certified))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "ibp", "inner": "interval"}, "--inner: expected one of dual, got 'interval'"),
        ({"inner": "best"}, "--inner: expected one of dual, interval, mixed, got 'best'"),
        ({"pair": False}, "--pair: expected true with --method=robustra"),
        ({"method": "sabr", "share": 1.5}, "--share: expected"),
        ({"method": "ibp", "eps_train_ratio": 0.0}, "--eps_train_ratio: expected"),
        ({"ramp": "day"}, "--ramp: expected one of epoch, step, got 'day'"),
        ({"lr_schedule": "x"}, "--lr_schedule: expected one of halving, cosine, drops, got 'x'"),
        ({"method": "ibp", "attack_steps": 0}, "--attack_steps: expected"),
    ],
)
def test_bad_settings_are_named(given, message):
    with pytest.raises(SettingError) as error:
        configs.resolve(given)
    assert str(error.value).startswith(message)
