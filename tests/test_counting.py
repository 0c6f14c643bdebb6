"""What counts as certified, everywhere that counts: nothing that was not proven."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import robustra_tf as rt
from eval.cascade import Examples
from eval.checker import claim, derive
from eval.rows import Row, Status
from eval.stages import Clean
from robustra_tf import counting, export
from robustra_tf.bounds.balls import ball
from robustra_tf.certificates.certificate import Certificate
from robustra_tf.objective.losses import clean_error, robust_error
from tests import claims, evaluations, nets

NAN, INF, HUGE = np.nan, np.inf, 3e38
#: Lower bounds of margins, a label, a prediction, and whether they certify.
TABLE = {
    "all above 0": ([0.0, 1.0, 2.0], 0, 0, True),
    "the label's own entry is not looked at": ([NAN, 1.0, 2.0], 0, 0, True),
    "nor is it where it is negative": ([1.0, -7.0, 2.0], 1, 1, True),
    "two classes": ([0.0, 1.0], 0, 0, True),
    "huge but finite": ([0.0, HUGE, 1e-30], 0, 0, True),
    "a tie": ([0.0, 0.0, 1.0], 0, 0, False),
    "minus zero": ([0.0, -0.0, 1.0], 0, 0, False),
    "below 0": ([0.0, 1.0, -1.0], 0, 0, False),
    "one NaN": ([0.0, NAN, 1.0], 0, 0, False),
    "NaN last": ([0.0, 1.0, NAN], 0, 0, False),
    "all NaN": ([NAN, NAN, NAN], 0, 0, False),
    "infinite": ([0.0, INF, 1.0], 0, 0, False),
    "all infinite": ([0.0, INF, INF], 0, 0, False),
    "minus infinite": ([0.0, -INF, 1.0], 0, 0, False),
    "one class": ([0.0], 0, 0, False),
    "one class, infinite": ([INF], 0, 0, False),
    "no class at all": ([], 0, 0, False),
    "a label above the classes": ([1.0, 1.0, 1.0], 3, 3, False),
    "a label beyond int32": ([0.0, 1.0, 1.0], 2**32, 2**32, False),
    "a label below them": ([1.0, 1.0, 1.0], -1, -1, False),
    "predicted otherwise": ([0.0, 1.0, 2.0], 0, 1, False),
    "nothing predicted": ([0.0, 1.0, 2.0], 0, counting.NO_CLASS, False),
}
LOGITS = {
    "plain": ([1.0, 3.0, 2.0], 1),
    "the first of two alike": ([1.0, 3.0, 3.0], 1),
    "NaN": ([NAN, 3.0, 2.0], -1),
    "all NaN": ([NAN, NAN, NAN], -1),
    "overflowed": ([INF, 3.0, 2.0], -1),
    "overflowed below": ([-INF, 3.0, 2.0], -1),
    "none": ([], -1),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TABLE)
def test_arrays_and_tensors_count_alike(name, dtype):
    lower, label, predicted, expected = TABLE[name]
    lower, y, classes = np.array([lower], dtype), np.array([label]), np.array([predicted])
    assert counting.certified(lower, y, classes).tolist() == [expected]
    assert counting.certified_tensor(*map(tf.constant, (lower, y, classes))).numpy() == [expected]
    without = expected or predicted != label
    assert counting.certified(lower, y).tolist() == [without]
    assert counting.certified_tensor(tf.constant(lower), tf.constant(y)).numpy() == [without]
    # What the losses, the metric and a certificate make of it.
    upper, wrong = tf.constant(-lower), tf.constant(y)
    assert robust_error(upper, wrong).numpy() == [not without]
    assert rt.metrics.certified(wrong, upper).numpy() == [without]
    certificate = Certificate(lower, y, classes, 0.1, "linf", None, "dual", dtype)
    assert certificate.certified.tolist() == [expected]
    assert (certificate.worst_margin > 0) == without or label not in range(lower.shape[1])


@pytest.mark.parametrize("name", LOGITS)
def test_no_class_is_predicted_of_what_is_no_number(name):
    logits, expected = LOGITS[name]
    array = np.array([logits], "float32")
    assert counting.predicted(array).tolist() == [expected]
    if logits:
        assert counting.predicted_tensor(tf.constant(array)).numpy() == [expected]
        for label in range(3):
            assert clean_error(tf.constant(array), [label]).numpy() == [label != expected]


def test_compiled_they_count_alike_too():
    """XLA's reductions pass over NaN."""
    rows = [entry for entry in TABLE.values() if len(entry[0]) == 3]
    lower, y, classes = (np.array([row[k] for row in rows]) for k in range(3))
    given = tf.constant(lower, tf.float32), tf.constant(y), tf.constant(classes)
    compiled = tf.function(counting.certified_tensor, jit_compile=True)(*given)
    np.testing.assert_array_equal(compiled, [row[3] for row in rows])


def test_of_no_examples_none_count():
    none = np.zeros((0, 3), "float32"), np.zeros(0, int), np.zeros(0, int)
    assert counting.certified(*none).shape == (0,)
    assert counting.certified_tensor(*map(tf.constant, none)).shape == (0,)
    assert counting.predicted(none[0]).shape == (0,)
    assert float(rt.metrics.CertifiedAccuracy().result()) == 0.0


@pytest.mark.parametrize("eps", [-0.1, NAN, INF])
def test_a_certificate_over_no_ball_proves_nothing(eps):
    about = np.ones((2, 3)), np.zeros(2, int), np.zeros(2, int)
    assert Certificate(*about, 0.0, "linf", None, "dual", "float32").certified.all()
    found = Certificate(*about, eps, "linf", None, "dual", "float32")
    assert not found.certified.any()
    assert "0 of 2 certified" in found.summary()


def test_the_metric_refuses_labels_that_are_no_integers():
    with pytest.raises(ValueError, match=r"y must be integer labels \[n\], got float32"):
        rt.metrics.CertifiedAccuracy().update_state([0.7], np.full((1, 3), -1.0))


# Balls


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_where_there_is_no_ball_nothing_follows(norm, box):
    """A whole image is poisoned by one pixel, which the network need not even read."""
    good = np.full((2, 2, 1), 0.5, "float32")
    images = np.stack([good] * 5)
    images[1:, 0, 0, 0] = [NAN, INF, 1.5, -0.1]
    found = ball(tf.constant(images), tf.constant(0.1), norm, box).centre.numpy()
    expected = [True, False, False, box is None, box is None]
    np.testing.assert_array_equal(np.isfinite(found).all((1, 2, 3)), expected)
    np.testing.assert_array_equal(np.isnan(found).all((1, 2, 3)), ~np.array(expected))
    for eps in (-0.1, NAN, INF):
        region = ball(tf.constant(images[:1], tf.float64), tf.constant(eps), norm, box)
        assert np.isnan(region.centre).all()


# One logit


def _one(units=1):
    return keras.Sequential([keras.Input((2,)), layers.Dense(3, "relu"), layers.Dense(units)])


@pytest.mark.parametrize(
    "entry",
    [
        lambda m, x: rt.certify(m, x, [0], 0.1),
        lambda m, x: rt.margin_bounds(m, x, [0], 0.1),
        lambda m, x: rt.attack(m, x, [0], 0.1),
        lambda m, x: rt.Verifier(m, 0.1).verify(x[0], 0),
        lambda m, x: rt.DualObjective(m),
        lambda m, x: rt.DualObjective(_one(2), m),
        lambda m, x: rt.CertifiedModel(m, "wong"),
        lambda m, x: rt.CertifiedModel(_one(2), "robustra", reference=m),
        lambda m, x: export.save(m, "nowhere"),
    ],
)
def test_one_logit_is_refused(entry):
    with pytest.raises(
        ValueError, match=r"^model: expected at least two logits.*rt\.binary"
    ) as raised:
        entry(_one(), np.full((1, 2), 0.5, "float32"))
    assert "\n" not in str(raised.value)


# Inner layers


def test_bounds_of_inner_layers_that_are_not_there_are_refused():
    told = "method must be one of dual, interval, mixed, crown, alpha, got 'exact'"
    with pytest.raises(ValueError, match=told):
        rt.layer_bounds(nets.dense(), nets.images(nets.dense(), 1), 0.1, method="exact")


def test_bounds_of_inner_layers_are_never_looser_than_what_they_are_named_after():
    model = nets.two_conv()
    x = nets.images(model, 2)
    kinds = ("dual", "interval", "mixed", "crown", "alpha")
    found = {kind: rt.layer_bounds(model, x, 0.03, method=kind) for kind in kinds}
    for kind, others in {
        "mixed": ("interval",),
        "crown": ("dual", "interval"),
        "alpha": ("dual", "interval", "crown"),
    }.items():
        for other in others:
            tighter = 0
            for ours, theirs in zip(found[kind], found[other], strict=True):
                assert (ours[0] >= theirs[0] - 1e-5).all()
                assert (ours[1] <= theirs[1] + 1e-5).all()
                tighter += (ours[1] - ours[0] < theirs[1] - theirs[0] - 1e-4).sum()
            assert tighter, (kind, other)


# The exported signature


def test_the_signature_certifies_nothing_that_it_cannot(tmp_path):
    model = nets.conv()
    export.save(model, tmp_path / "f")
    loaded = tf.saved_model.load(str(tmp_path / "f"))
    signature = loaded.signatures["certify"]

    def asked(images, eps=0.001):
        given = {"image": tf.constant(images), "eps": tf.constant(eps, tf.float32)}
        return {name: value.numpy() for name, value in signature(**given).items()}

    good = nets.images(model, 5)
    plain = asked(good)
    assert plain["certified"].all()
    bad = good.copy()
    bad[0, 0, 0, 0], bad[1, 5, 5, 0], bad[2, 3, 3, 0], bad[3] = 1.0001, -1e-6, NAN, 255 * bad[3]
    found = asked(bad)
    np.testing.assert_array_equal(found["certified"], [False, False, False, False, True])
    np.testing.assert_array_equal(found["margin"][:4], -INF)
    assert found["margin"][4] == pytest.approx(plain["margin"][4], rel=1e-5)
    assert found["predicted"][2] == counting.NO_CLASS
    for eps in (-0.001, NAN, INF):
        found = asked(good, eps)
        assert not found["certified"].any()
        np.testing.assert_array_equal(found["margin"], -INF)
    empty = asked(good[:0])
    assert sorted(empty) == ["certified", "margin", "predicted"]
    assert all(value.shape == (0,) for value in empty.values())
    logits = loaded.signatures["serving_default"](image=tf.constant(good[:0]))["logits"]
    assert logits.shape == (0, nets.CLASSES)


# Ledgers and the checker


@pytest.mark.parametrize("margin", [0.0, -1.0, INF, NAN])
def test_a_ledger_takes_no_verdict_without_a_proof(margin):
    about = {"index": 3, "label": 1, "predicted": 1, "stage": "lp"}
    rest = {"worst_target": 0, "seconds": 0.0}
    Row(**about, status=Status.UNKNOWN, margin_lower=margin, **rest)
    Row(**about, status=Status.VERIFIED, margin_lower=0.5, **rest)
    with pytest.raises(ValueError, match="a finite margin above 0"):
        Row(**about, status=Status.VERIFIED, margin_lower=margin, **rest)
    with pytest.raises(ValueError, match="its label as the prediction"):
        Row(**about | {"label": 2}, status=Status.VERIFIED, margin_lower=0.5, **rest)


def test_a_network_whose_logits_overflow_is_right_about_nothing(saved, tmp_path):
    """NaN is greatest for `argmax`, whichever label that is."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2), layers.Dense(2)])
    model.set_weights([np.full(w.shape, HUGE) for w in model.get_weights()])
    config = evaluations.resolve(saved, tmp_path / "out", stages=["clean"])
    batch = Examples(np.arange(2), np.ones((2, 2), "float32"), np.array([0, 1]))
    decided = Clean(config, model)._decide(batch)
    assert decided.status == [Status.MISCLASSIFIED] * 2
    row = Row(0, 0, int(decided.predicted[0]), decided.status[0], "clean", None, None, 0.0)
    assert Row.parse(row.cells()) == row
    verdict = rt.certify(model, batch.images, batch.labels, 0.1)
    assert verdict.predicted.tolist() == [counting.NO_CLASS] * 2


def test_the_checker_counts_no_label_without_its_prediction(tmp_path):
    """Of two logits that are alike to rounding, either may be called the prediction."""
    path, found = claims.made(tmp_path, ("dense", 0, "float64"))
    assert derive.check(claim.read(path)).certified.any()
    arrays, header = claims.members(path)
    arrays["predicted"] = (arrays["labels"] + 1) % nets.CLASSES
    assert claims.rejection(claims.written(path, arrays, header)).field == "predicted"
    del found


def test_the_checker_reads_no_network_of_one_logit(tmp_path):
    path, _ = claims.made(tmp_path, ("dense", 0, "float64"))
    arrays, header = claims.members(path)
    last = header["network"][-1]["weights"]
    for k in last:
        arrays[f"weight_{k}"] = arrays[f"weight_{k}"][..., :1]
    arrays |= {"margin_lower": np.zeros((2, 1)), "labels": np.zeros(2, int)}
    with pytest.raises(claim.UnreadableError, match="logits with one axis, two of them or more"):
        claim.read(claims.written(path, arrays, header))
