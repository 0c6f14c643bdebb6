"""Proofs of what CROWN's slopes certify: what is written is accepted by the checker."""

import warnings

import numpy as np
import pytest

import robustra_tf as rt
from eval.checker import files
from robustra_tf.certificates import proving
from tests import nets

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def given():
    model = nets.dense()
    x = nets.images(model, 6, seed=1)
    return model, x, model(x).numpy().argmax(1)


def verdicts(path, exact=False):
    return [one.verdict for one in files.check(path, files.Options(exact=exact)).found]


@pytest.mark.parametrize(
    ("method", "norm", "eps"),
    [
        ("crown", "linf", 0.15),
        ("crown", "l2", 0.25),
        ("crown", "l1", 0.4),
        ("alpha", "linf", 0.15),
        ("alpha", "l1", 0.4),
    ],
)
def test_every_certified_image_has_a_proof(given, method, norm, eps, tmp_path):
    """At a radius where some are certified; one that is misclassified is not."""
    model, x, y = given
    y, path = np.r_[(y[0] + 1) % 3, y[1:]], tmp_path / "proof.npz"
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        certificate = rt.certify(model, x, y, eps, norm=norm, method=method, save=path)
    assert 0 < certificate.certified.sum() < len(x)
    expected = ["verified" if each else "open" for each in certificate.certified]
    assert verdicts(path) == expected


@pytest.mark.parametrize("name", ["conv", "residual", "maxima", "batch_norm"])
def test_networks_of_other_layers(name, tmp_path):
    model = nets.ALL[name]()
    x = nets.images(model, 3, seed=1)
    y, path = model(x).numpy().argmax(1), tmp_path / "proof.npz"
    certificate = rt.certify(model, x, y, 0.01, method="crown", save=path)
    assert certificate.certified.any()
    assert verdicts(path) == ["verified" if c else "open" for c in certificate.certified]


def test_slopes_of_alpha_close_what_rules_leave_open(tmp_path):
    """At radii where the rules of CROWN certify no more."""
    path = tmp_path / "proof.npz"
    for seed in range(10):
        model = nets.dense(seed)
        x = nets.images(model, 4, seed=seed)
        y = model(x).numpy().argmax(1)
        for eps in (0.1, 0.2, 0.3):
            both = [rt.certify(model, x, y, eps, method=m).certified for m in ("crown", "alpha")]
            if not (both[1] & ~both[0]).any():
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                rt.certify(model, x, y, eps, method="alpha", save=path)
            assert verdicts(path) == ["verified" if c else "open" for c in both[1]]
            assert verdicts(path, exact=True) == verdicts(path)
            assert any("/t0/alpha" in name for name in np.load(path).files)
            return
    raise AssertionError("no network shows the difference")


def test_properties(given, tmp_path):
    model, x, _ = given
    path, least = tmp_path / "proof.npz", model(x).numpy()[:, 0].min()
    output = rt.above(0, float(least) - 2.0)
    certificate = rt.certify(
        model, rt.Property(x - 0.01, x + 0.01, output), method="crown", save=path
    )
    assert certificate.verified.all()
    assert set(verdicts(path)) == {"verified"}


def test_what_no_proof_is_found_of_is_left_open_and_named(given, tmp_path, monkeypatch):
    model, x, y = given
    monkeypatch.setattr(proving, "proven", lambda *_, **__: None)
    path = tmp_path / "proof.npz"
    with pytest.warns(RuntimeWarning, match="no proof was found of 2 of 2 examples .*: 0, 1"):
        rt.certify(model, x[:2], y[:2], 0.01, method="crown", save=path)
    assert verdicts(path) == ["open", "open"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "interval"}, "method must be one of dual, crown, alpha"),
        ({"method": "crown", "inner": "mixed"}, "inner must be crown where save is given"),
    ],
)
def test_what_is_not_saved(given, options, text, tmp_path):
    model, x, y = given
    with pytest.raises(ValueError, match=text):
        rt.certify(model, x, y, 0.1, save=tmp_path / "proof.npz", **options)
