"""The table that compares pairs with their parts."""

import json
import types

import numpy as np
import pytest

import robustra_tf as rt
from eval import pair_study
from robustra_tf.certificates import certify as certify_module
from tests import nets

pytestmark = pytest.mark.usefixtures("eager")
GIVEN = types.SimpleNamespace(
    eps=0.05, norm="linf", methods=("interval", "dual"), sound=True, batch_size=20
)


@pytest.fixture(scope="module")
def compared(eager):
    f, g = nets.dense(5), nets.dense(6)
    rng = np.random.default_rng(0)
    g.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in f.get_weights()])
    pair = rt.Pair(f, g)
    test, held = (
        rt.data.Dataset(x, f(x).numpy().argmax(1)) for x in np.split(nets.images(f, 40), [20])
    )
    return pair, test, held, pair_study.rows_of(pair, test, held, GIVEN)


def test_without_a_threshold_the_shares_are_those_of_the_certificates(compared):
    pair, test, _, rows = compared
    found = [rt.certify(pair, *test, 0.05, method=m, sound=True) for m in GIVEN.methods]
    certified = np.any([each.certified for each in found], 0)
    answered = np.any([each.answered for each in found], 0)
    assert rows["pair"]["silent_error"] == pytest.approx(1 - certified.mean())
    assert rows["pair"]["abstention"] == pytest.approx(1 - answered.mean())
    assert rows["pair"]["clean_abstention"] == pytest.approx((found[0].predicted == -1).mean())
    assert rows["pair"]["clean_abstention"] > 0
    single = [rt.certify(pair.f, *test, 0.05, method=m, sound=True) for m in GIVEN.methods]
    alone = np.any([each.certified for each in single], 0)
    assert rows["f"]["silent_error"] == rows["f"]["abstention"] == pytest.approx(1 - alone.mean())
    assert rows["f"]["clean_abstention"] == 0


def test_a_threshold_abstains_as_often_and_proves_by_its_definition(compared):
    pair, test, held, rows = compared
    share = (pair.predict_classes(held.images) == -1).mean()
    logits = pair.f(held.images).numpy()
    top = np.sort(logits, 1)
    tau = rows["f, threshold"]["threshold"]
    assert tau > 0
    assert (top[:, -1] - top[:, -2] < tau).mean() <= share
    # Sampled points of balls that are certified are answered rightly, or led by less than tau.
    single = [rt.certify(pair.f, *test, 0.05, method=m, sound=True) for m in GIVEN.methods]
    margins = np.max([each.worst_margin for each in single], 0)
    rng = np.random.default_rng(1)
    for x, label, margin in zip(*test, margins, strict=True):
        points = np.clip(x + rng.uniform(-0.05, 0.05, (200, 5)), 0, 1).astype(np.float32)
        found = pair.f(points).numpy()
        lead = found.max(1) - np.sort(found, 1)[:, -2]
        wrong = (found.argmax(1) != label) & (lead >= tau)
        if margin > -tau:
            assert not wrong.any()
        if margin >= tau:
            assert (lead >= tau).all()
    assert rows["f, threshold"]["silent_error"] <= rows["f"]["silent_error"]
    assert rows["f, threshold"]["abstention"] >= rows["f"]["abstention"]


def test_what_is_settled_is_not_bounded_again(compared, monkeypatch):
    pair, test, held, _ = compared
    seen, certify = [], certify_module.certify

    def counted(model, x, *rest, method, **options):
        seen.append((method, len(x)))
        return certify(model, x, *rest, method=method, **options)

    monkeypatch.setattr(certify_module, "certify", counted)
    given = types.SimpleNamespace(**vars(GIVEN) | {"eps": 0.01})
    rows = pair_study.rows_of(pair, test, held, given)
    lengths = dict(seen)
    assert lengths["interval"] == len(test.labels) > lengths["dual"] > 0
    given.methods = ("dual", "interval")
    assert pair_study.rows_of(pair, test, held, given) == rows


def test_thresholds_may_be_set_on_the_images_that_are_certified(compared, tmp_path, monkeypatch):
    pair, test, _, _ = compared
    monkeypatch.setattr(rt.data, "load", lambda name, split, limit, folder: test)
    monkeypatch.setattr(rt.export, "load", {"f": pair.f, "g": pair.g}.get)
    line = ["it=f,g", "--eps=0.05", "--held=0", f"--out={tmp_path / 'out'}"]
    assert pair_study.main(line) == 0
    (path,) = (tmp_path / "out").glob("it-*.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert rows["f, threshold"]["clean_abstention"] <= rows["pair"]["clean_abstention"]
    assert rows["f, threshold"]["threshold"] > 0


def test_the_table_has_a_row_for_each(compared):
    lines = pair_study.table({"t0": compared[3]}).splitlines()
    assert len(lines) == 2 + len(compared[3])
    assert lines[2].startswith("| t0 | pair | 0.00 | ")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pairs": ()}, "--pairs: expected one NAME=RUN or more"),
        ({"pairs": ("a",)}, "--pairs: expected NAME=RUN or NAME=F,G"),
        ({"methods": ("alpha",), "sound": True}, "--methods: expected dual and interval"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, change, text):
    given = {"pairs": ("a=b",), "eps": 0.1, "out": tmp_path / "out"}
    with pytest.raises(ValueError, match=text):
        pair_study.Study(**given | change)
