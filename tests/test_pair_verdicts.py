"""Attacks on pairs and complete verdicts, against brute force over the pieces of both networks.

On a piece of f and a piece of g both are affine: how far both can answer one wrong class there is
a linear programme. Points are replayed by Keras, apart from what found them.
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy.optimize import linprog

import robustra_tf as rt
from robustra_tf.exact import Status
from tests import nets, oracle_nets
from tests.oracle_exact import pieces

CLASSES, OPEN = 3, 1e-4


@pytest.fixture(autouse=True, scope="module")
def eager():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def small(seed):
    parts = [layers.Dense(4, "relu"), layers.Dense(CLASSES)]
    return nets.randomise(keras.Sequential([keras.Input((3,)), *parts]), seed)


def alike(seed):
    """Two networks that agree often: g is f, moved."""
    f, g = small(seed), small(seed + 1000)
    pairs = zip(f.get_weights(), g.get_weights(), strict=True)
    g.set_weights([0.6 * ours + 0.6 * theirs for ours, theirs in pairs])
    return rt.Pair(f, g)


def most_wrong(pair, label, low, high):
    """`max_x max_t min` over both networks of the lead of `t` over all others, `t` not the label.

    Above 0 the pair can be made to answer a wrong class, below 0 it cannot.
    """
    found = [pieces(oracle_nets.of_model(model), low, high, 64) for model in (pair.f, pair.g)]
    best = -np.inf
    for both in itertools.product(*found):
        rows = np.concatenate([piece[2] for piece in both])
        ends = np.concatenate([piece[3] for piece in both])
        for target in (t for t in range(CLASSES) if t != label):
            others = [s for s in range(CLASSES) if s != target]
            # lead >= s: s - (f_t - f_o) <= 0
            lead = [matrix[others] - matrix[target] for matrix, *_ in both]
            right = [offset[target] - offset[others] for _, offset, *_ in both]
            left = np.concatenate([np.concatenate(lead), rows])
            left = np.c_[left, [1.0] * 2 * len(others) + [0.0] * len(rows)]
            bounds = [*zip(low, high, strict=True), (None, None)]
            goal = np.r_[np.zeros(len(low)), -1.0]
            right = np.concatenate([*right, ends])
            solved = linprog(goal, left, right, bounds=bounds, method="highs")
            if solved.status == 0:
                best = max(best, -solved.fun)
    return best


def region(x, eps):
    return np.maximum(x - eps, 0.0), np.minimum(x + eps, 1.0)


def test_verdicts_are_those_of_brute_force():
    """At radii about the one where the pair first answers wrongly."""
    seen, rng = [], np.random.default_rng(0)
    for seed in range(3):
        pair = alike(seed)
        verifier = rt.Verifier(pair)
        x = rng.uniform(size=3).astype(np.float32)
        label = max(int(pair.predict_classes(x[None])[0]), 0)
        for eps in (0.15, 0.5):
            truth = most_wrong(pair, label, *region(x.astype(np.float64), eps))
            verdict = verifier.verify(x, label, eps=eps)
            seen.append(verdict.status)
            if truth < -OPEN:
                assert verdict.status is Status.VERIFIED
            elif truth > OPEN:
                assert verdict.status is Status.FALSIFIED
                (answer,) = pair.predict_classes(verdict.witness[None])
                assert answer not in (label, -1)
                assert answer == verdict.target
                assert np.abs(verdict.witness - x).max() <= eps
            certificate = rt.certify(pair, x[None], [label], eps)
            assert not certificate.certified or truth <= 0
    assert {Status.VERIFIED, Status.FALSIFIED} == set(seen)
    assert min(seen.count(status) for status in set(seen)) > 1


def test_both_preferring_a_class_is_no_error_where_neither_answers_it():
    """Both prefer class 1 to class 0, the label; but f answers 2, and g answers 1."""
    pair = rt.Pair(*(linear([0.0, 1.0, top]) for top in (2.0, 0.0)))
    verdict = rt.Verifier(pair, 0.01).verify(np.array([0.5, 0.5], np.float32), 0)
    assert verdict.status is Status.VERIFIED
    assert not rt.certify(pair, [[0.5, 0.5]], [0], 0.01).certified


def test_a_tie_of_both_is_not_decided():
    pair = rt.Pair(linear([0.0, 0.0, -1.0]), linear([0.0, 0.0, -1.0]))
    verdict = rt.Verifier(pair, 0.01).verify(np.array([0.5, 0.5], np.float32), 0)
    assert verdict.status is Status.UNKNOWN
    assert "tie" in verdict.reason


def linear(bias):
    logits = layers.Dense(CLASSES)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, "relu"), logits])
    model.set_weights([np.eye(2), np.zeros(2), np.zeros((2, CLASSES)), np.array(bias)])
    return model


@pytest.mark.parametrize(
    ("norm", "goal"),
    [("linf", "silent"), ("l2", "silent"), ("linf", "abstention"), ("l1", "abstention")],
)
def test_what_attacks_find_is_there_and_contradicts_no_certificate(norm, goal):
    pair, x = alike(3), nets.images(small(0), 12, seed=1)
    clean = pair.predict_classes(x)
    y = np.where(clean < 0, 0, clean)
    eps = 0.4 if goal == "silent" else 0.1
    found = rt.attack(pair, x, y, eps, goal=goal, norm=norm, steps=8)
    answers = pair.predict_classes(found.adversarial)
    np.testing.assert_array_equal(found.predicted, answers)
    wanted = answers == -1 if goal == "abstention" else (answers >= 0) & (answers != y)
    np.testing.assert_array_equal(found.success, wanted)
    np.testing.assert_array_equal(found.success, found.margin > 0)
    assert rt.attacks.contained(x, found.adversarial, eps, norm).all()
    assert 0 < found.success.sum() < 12
    certificate = rt.certify(pair, x, y, eps, norm=norm)
    proven = certificate.certified if goal == "silent" else certificate.answered
    assert not (proven & found.success).any()
    assert found.summary().startswith(f"{found.success.sum()} of 12 images")


def test_attacks_find_what_brute_force_finds():
    """Of silent errors: wherever there is one by a margin, on small balls."""
    found, rng = 0, np.random.default_rng(3)
    for seed in range(2):
        pair = alike(seed + 50)
        x = rng.uniform(size=(1, 3)).astype(np.float32)
        label = max(int(pair.predict_classes(x)[0]), 0)
        truth = most_wrong(pair, label, *region(x[0].astype(np.float64), 0.5))
        success = rt.attack(pair, x, [label], 0.5, steps=8).success[0]
        assert not success or truth > -OPEN
        if truth > 0.1:
            assert success
            found += 1
    assert found


def test_the_fast_attack_takes_a_pair_too():
    pair, x = alike(3), nets.images(small(0), 4, seed=1)
    found = rt.attacks.fgsm(pair, x, np.zeros(4, int), 0.4, goal="abstention")
    assert isinstance(found, rt.attacks.PairAttackResult)
    assert rt.attack(pair, x[:0], np.zeros(0, int), 0.4).success.shape == (0,)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"goal": "both"}, "goal must be one of silent"), ({"loss": "margin"}, "loss must be left")],
)
def test_attacks_on_a_pair_refuse_what_they_have_not(options, text):
    with pytest.raises(ValueError, match=text):
        rt.attacks.PairAttack(alike(0), **options)
    with pytest.raises(TypeError, match="pair: expected a Pair"):
        rt.attacks.PairAttack(small(0))
    with pytest.raises(ValueError, match="one network for Attack, got a Pair"):
        rt.Attack(alike(0))


def test_properties_of_a_pair_are_refused():
    pair, x = alike(0), np.zeros((1, 3), np.float32)
    asked = rt.Property.around(x, 0.1, rt.below(0, 3.0))
    with pytest.raises(ValueError, match="an attack on a Pair"):
        rt.attack(pair, asked)
    with pytest.raises(ValueError, match="must be images for a Pair"):
        rt.Verifier(pair).verify(asked)
    with pytest.raises(ValueError, match="must be labels for a Pair"):
        rt.Verifier(pair, 0.1).verify(x[0], rt.below(0, 3.0))
    with pytest.raises(ValueError, match=r"y must be a class from 0 to 2"):
        rt.Verifier(pair, 0.1).verify(x[0], 3)
