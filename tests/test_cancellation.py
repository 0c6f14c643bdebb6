"""Digits that the library's own rewriting could lose: large slopes and ends, small coefficients.

What a layer or a condition is turned into must not round where the model itself does not.
"""

import keras
import numpy as np
import pytest
from keras import layers

import robustra_tf as rt

X, GRID = np.float32([[0.3]]), np.linspace(0.05, 0.55, 1001, dtype=np.float32)[:, None]
pytestmark = pytest.mark.usefixtures("eager")
#: Each keeps what is between 0 and 1 as it is.
ACTIVATIONS = {
    "a far maximum": lambda: layers.ReLU(max_value=1e9),
    "a farther one": lambda: layers.ReLU(max_value=2.0**60),
    "with a slope": lambda: layers.ReLU(max_value=1e16, negative_slope=0.5),
    "one that is large": lambda: layers.ReLU(max_value=1e4),
    "a steep side": lambda: layers.LeakyReLU(2.0**26),
    "a steeper side": lambda: layers.LeakyReLU(2.0**60),
}


def net(activation):
    """Logits `0.45 - h(x)` and 0."""
    x = keras.Input((1,))
    dense, out = layers.Dense(1), layers.Dense(2)
    model = keras.Model(x, out(activation(dense(x))))
    dense.set_weights([np.eye(1), np.zeros(1)])
    out.set_weights([np.float32([[-1, 0]]), np.float32([0.45, 0])])
    return model


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_ends_and_steep_sides_cost_no_digits(name, dtype):
    model = net(ACTIVATIONS[name]())
    logits = model(GRID).numpy()
    least = (logits[:, 0] - logits[:, 1]).min()
    assert least == pytest.approx(-0.1, abs=1e-6)
    for options in (
        {"method": "dual"},
        {"method": "interval"},
        {"method": "crown"},
        {"method": "dual", "inner": "mixed"},
    ):
        found = rt.certify(model, X, [0], 0.25, dtype=dtype, **options)
        # Over this ball the function is affine: the bound is the least margin itself.
        assert found.worst_margin[0] == pytest.approx(least, abs=1e-6), options
    assert rt.Verifier(model, 0.25).verify(X[0], 0).status == "falsified"


def test_steep_slopes_that_are_weights_are_refused():
    prelu = layers.PReLU()
    model = net(prelu)
    for size, refused in ((64.0, False), (2.0**26, True), (np.nan, True)):
        prelu.set_weights([np.float32([size])])
        if refused:
            with pytest.raises(ValueError, match="must have slopes of at most 64 in size, got"):
                rt.certify(model, X, [0], 0.25)
        else:
            assert not rt.certify(model, X, [0], 0.25).certified.any()


def steep(kernels):
    """A chain of dense layers, a ReLU after each but the last."""
    stack = [keras.Input((len(kernels[0][0]),))]
    for number, (kernel, _) in enumerate(kernels, start=1):
        act = "relu" if number < len(kernels) else None
        stack.append(layers.Dense(len(kernel[0]), activation=act))
    model = keras.Sequential(stack)
    for layer, (kernel, bias) in zip(model.layers, kernels, strict=True):
        layer.set_weights([np.array(kernel), np.array(bias)])
    return model


@pytest.mark.parametrize(
    ("size", "row", "bound"), [(1e8, 1e-40, 8e-33), (1e10, 1e-46, 8e-37), (1e8, 1e-39, 8e-32)]
)
def test_conditions_keep_small_coefficients(size, row, bound):
    model = steep([([[1.0]], [0.0]), ([[size]], [0.0])])
    asked = rt.Property([[0.0]], [[1.0]], rt.unreachable(([[-row]], [-bound])))
    for method in ("dual", "interval", "crown"):
        assert not rt.certify(model, asked, method=method).verified.any()
    # What is out of reach by far stays proven.
    far = rt.Property([[0.0]], [[1.0]], rt.unreachable(([[-row]], [-2 * size * row])))
    assert rt.certify(model, far).verified.all()
    assert rt.attack(model, asked).success.all()


def test_a_coefficient_that_a_type_does_not_have_beside_another_proves_nothing():
    model = steep([([[1.0]], [0.0]), ([[1.0, 1e30]], [0.0, 0.0])])
    asked = rt.Property([[0.0]], [[1.0]], rt.unreachable(([[-1e-9, -1e-48]], [-2e-9])))
    assert not rt.certify(model, asked).verified.any()
    assert rt.certify(model, asked, dtype="float64").verified.all()


def test_images_that_float32_does_not_have_are_verified_as_they_are():
    model, x = steep([([[-1e9]], [1.0]), ([[-1.0, 1.0]], [1.0, 0.0])]), np.array([0.1])
    assert model(np.zeros((1, 1), "f4")).numpy().argmax() == 1
    verdict = rt.Verifier(model, 0.1, box=None).verify(x, 0)
    assert verdict.status != "verified"
    other = steep([([[1.0, -1.0]], [0.0, 0.79])])
    verdict = rt.Verifier(other, 0.1, box=None).verify(np.array([0.3]), 1)
    # Class 0 from 0.395 on: a witness there, within the ball about 0.3 itself.
    assert verdict.status == "falsified"
    assert abs(float(verdict.witness[0]) - 0.3) <= 0.1
    found = rt.attack(other, np.array([[0.3]]), [1], 0.1, box=None, early_stop=False)
    assert abs(float(found.adversarial[0, 0]) - 0.3) <= 0.1


def on_images(shape, layer):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layer(inputs))))


REFUSED = {
    "bias along the last axis": (
        (2, 4, 3),
        lambda: layers.Conv2D(2, 3, 2, "same", data_format="channels_first"),
        "Keras adds its bias of 2 channels to the places",
    ),
    "of lines": (
        (2, 4),
        lambda: layers.Conv1D(2, 3, data_format="channels_first"),
        "Keras adds its bias of 2 channels to the places",
    ),
    "nothing left": (
        (1, 3),
        lambda: layers.Conv1DTranspose(2, 2, 3, "same", output_padding=0),
        "it leaves nothing of an input of shape",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_keras_computes_otherwise_or_not_at_all_is_refused(case):
    shape, layer, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as raised:
        rt.certify(on_images(shape, layer()), np.zeros((1, *shape), "f4"), [0], 0.1)
    assert "\n" not in str(raised.value)


def test_what_keras_cannot_run_is_one_line():
    layer = layers.Conv1DTranspose(2, 2, 3, "same", output_padding=0)
    model, x = on_images((5, 2), layer), np.zeros((1, 5, 2), "f4")
    try:
        model(x)
    except Exception:
        with pytest.raises(ValueError, match="cannot be run here") as raised:
            rt.certify(model, x, [0], 0.1)
        assert "\n" not in str(raised.value)
    else:
        assert rt.certify(model, x, [0], 0.1).margin_lower.shape == (1, 2)
