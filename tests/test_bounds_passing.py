"""What rows pass through, and how it is summed: values and gradients against the plain formulas."""

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.frames import Chosen, Every
from robustra_tf.bounds.gradients import instead, taken
from robustra_tf.bounds.passing import (
    absolute_sum,
    absolute_sum_inside,
    as_whole,
    past_relu,
    through,
)
from robustra_tf.bounds.relu import Relaxation, relax
from robustra_tf.bounds.rows import WholeRows, WindowRows, merged, regroup, split
from robustra_tf.bounds.window import Window
from robustra_tf.graph.ops import Scale
from robustra_tf.graph.spread import Tiling, correlated

RNG = np.random.default_rng(3)
#: Windows of 3 x 2 pixels about 3 x 3 positions of stride 2, some of them beyond the 5 x 5 image.
WINDOW = Window((3, 3), (5, 5), (2, 2), (-1, 0), (3, 2))
EXAMPLE, POSITION = [0, 0, 1, 1, 1], [0, 4, 2, 2, 8]


def normal(*shape):
    return tf.constant(RNG.normal(size=shape))


def nested(values):
    """An array as nested tuples, as constants are kept."""
    return tuple(map(nested, values)) if np.ndim(values) else float(values)


def gradients(function, *inputs):
    """The gradients of a weighted sum of everything that the function returns."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        found = tf.nest.flatten(function(*inputs))
        total = sum(tf.reduce_sum(tf.sin(part) + 0.3 * part) for part in found)
    return tape.gradient(total, inputs)


def assert_same(ours, expected):
    for one, other in zip(tf.nest.flatten(ours), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 0), (2, 1)), ((3, 4), (0, 3))])
@pytest.mark.parametrize("kernel", [(2, 2, 3, 4), (3, 1, 3, 2)])
def test_a_convolution_has_the_gradient_of_tensorflows(kernel, padding):
    """Padding less, equal to and beyond what the kernel reaches."""

    def plain(y, taps):
        return tf.nn.conv2d(tf.pad(y, ((0, 0), *padding, (0, 0))), taps, 1, "VALID")

    given = normal(2, 5, 4, 3), normal(*kernel)
    assert_same(correlated(*given, padding), plain(*given))
    assert_same(
        gradients(lambda y, taps: correlated(y, taps, padding), *given), gradients(plain, *given)
    )


@pytest.mark.parametrize("count", [4, 200])
def test_what_is_taken_from_a_table_passes_its_gradient_back(count):
    """By a matrix product for a short table, by sums for a long one; entries taken twice."""
    table, index = normal(count, 2, 3), tf.constant([3, 0, 3, 3, 1])
    assert_same(taken(table, index), tf.gather(table, index))
    dense = gradients(
        lambda t: tf.linalg.matmul(
            tf.one_hot(index, count, dtype=t.dtype), tf.reshape(t, (count, 6))
        ),
        table,
    )
    assert_same(gradients(lambda t: taken(t, index), table), dense)


def test_a_known_value_stands_for_a_computed_one():
    x = normal(4)
    np.testing.assert_array_equal(instead(3.0 * x, 2.0 * x), 2.0 * x)
    known = gradients(lambda x: instead(3.0 * x, 2.0 * x), x)
    assert_same(known[0], 3.0 * (tf.cos(2.0 * x) + 0.3))


def test_what_is_known_is_not_computed_by_a_compiled_function():
    """A matrix that has no inverse: computing it raises."""
    singular, known = tf.zeros((2, 2), tf.float64), normal(2, 2)
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.linalg.inv(singular)
    compiled = tf.function(lambda matrix, known: instead(tf.linalg.inv(matrix), known))
    np.testing.assert_array_equal(compiled(singular, known), known)


def whole(frame_lead, tiling=None):
    shape = (5, 5, 2)
    trailing = shape if tiling is None else (*tiling.count, 8)
    return lambda values: WholeRows(values, shape, tiling, tiling is None), (*frame_lead, *trailing)


def windows(lead):
    return lambda values: WindowRows(values, WINDOW, False), (*lead, 3, 2, 2)


TILES = Tiling((5, 5), (2, 2), (1, 1), (3, 3))
CASES = {
    "every": (Every(), whole((2, 3))),
    "every in tiles": (Every(), whole((2, 3), TILES)),
    "every, windows": (Every(), windows((2, 9, 4))),
    "chosen": (Chosen(tf.constant(EXAMPLE), tf.constant(POSITION)), whole((5,))),
    "chosen in tiles": (Chosen(tf.constant(EXAMPLE), tf.constant(POSITION)), whole((5,), TILES)),
    "chosen, windows": (Chosen(tf.constant(EXAMPLE), tf.constant(POSITION)), windows((5,))),
    "shared": (Every(), whole((1, 3))),
    "shared, windows": (Every(), windows((1, 1, 4))),
}


def test_a_lean_relaxation_leaves_out_what_follows_and_no_more():
    made = relax(normal(2, 5), tf.abs(normal(2, 5)) + 0.1)
    assert made.lean.error is None
    assert_same(made.lean.full, made)
    other = Relaxation(made.slope, made.error)  # of a sound band: nothing else has the error
    assert other.lean is other.full is other
    assert made.full is made


@pytest.mark.parametrize("case", CASES)
def test_rows_pass_a_relu_as_the_formula_has_it(case):
    """`nu = d nuhat`, charge `|nuhat| . error`, and both gradients by TensorFlow's own tape."""
    frame, (make, shape) = CASES[case]
    lower, width = normal(2, 5, 5, 2), tf.abs(normal(2, 5, 5, 2))
    values = normal(*shape)

    def ours(values, lower, width):
        rows, charge = past_relu(
            make(values), frame, relax(lower, lower + width), lambda rows: rows
        )
        return rows.values, charge

    def plain(values, lower, width):
        relaxation, rows = relax(lower, lower + width), make(values)
        slope, error = frame.align(rows, relaxation.slope, relaxation.error)
        axes = list(range(-3, 0))
        charge = tf.reduce_sum(tf.abs(values) * error, axes)
        return values * slope, frame.listed(charge, rows)

    given = values, lower, width
    assert_same(ours(*given), plain(*given))
    assert_same(gradients(ours, *given), gradients(plain, *given))


@pytest.mark.parametrize("case", ["every", "every in tiles", "chosen in tiles", "every, windows"])
def test_rows_pass_a_scale_channel_by_channel_and_pixel_by_pixel(case):
    frame, (make, shape) = CASES[case]
    rows = make(normal(*shape))
    rows = rows.with_values(rows.values, clean=True)
    channels = np.array([2.0, -3.0])
    for scale in (channels, RNG.normal(size=(5, 5, 2))):
        op = Scale((5, 5, 2), constants=(nested(scale), 0.5))
        found = as_whole(through(op, (), rows, frame), frame).values
        assert_same(found, as_whole(rows, frame).values * np.broadcast_to(scale, (5, 5, 2)))


@pytest.mark.parametrize("case", ["every, windows", "chosen, windows", "shared, windows"])
@pytest.mark.parametrize("striped", [False, True])
def test_only_pixels_in_the_image_are_summed(case, striped):
    frame, (make, shape) = CASES[case]
    values = normal(*shape)
    rows = make(values)
    if striped:
        rows = WindowRows(values, WINDOW, False, tuple(tf.split(values, [1, 2], -3)))
    mask = frame.constant(tf.constant(WINDOW.inside[..., None], values.dtype))
    expected = frame.listed(tf.reduce_sum(tf.abs(values * mask), [-3, -2, -1]), rows)
    assert_same(absolute_sum_inside(rows, frame), expected)


def test_sums_of_rows_that_are_alike_spell_none_of_them_out():
    """Of one row for all positions of all images there is one matrix product, and no copy of it."""
    make, shape = windows((1, 1, 4))
    rows = make(normal(*shape))
    weights = normal(50, WINDOW.positions, 3, 2, 2)
    largest = []

    @tf.function(autograph=False)
    def summed(values, weights):
        found = absolute_sum(rows.with_values(values), Every(), weights)
        for op in tf.compat.v1.get_default_graph().get_operations():
            largest.extend(out.shape.num_elements() for out in op.outputs)
        return found

    expected = np.einsum("rijk,npijk->npr", np.abs(rows.values[0, 0]), weights)
    np.testing.assert_allclose(summed(rows.values, weights), expected.reshape(50, -1))
    assert max(largest) == np.size(weights)


@pytest.mark.parametrize("lead", [(2, 3), (0, 3), (2, 0)])
def test_merged_axes_are_split_again_where_their_lengths_are_not_known(lead):
    """Neither of images nor of rows, as in a function that is traced once for all."""
    unknown = tf.TensorSpec([None, None, 4, 5], tf.float32)

    @tf.function(input_signature=[unknown])
    def there_and_back(values):
        return split(merged(values, 2), values, 2), regroup(values, 2, (20,))

    values = np.arange(np.prod([*lead, 4, 5]), dtype=np.float32).reshape(*lead, 4, 5)
    same, flat = there_and_back(tf.constant(values))
    np.testing.assert_array_equal(same, values)
    np.testing.assert_array_equal(flat, values.reshape(*lead, 20))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_radius_that_is_none_leaves_its_image_without_a_ball(norm):
    x, radii = tf.fill((2, 3), 0.5), np.full((2, 3), 0.1, np.float32)
    radii[1, 1] = -0.1
    radii = radii if norm == "linf" else radii[:, 1:2]
    found = ball(x, tf.constant(radii), norm).centre.numpy()
    np.testing.assert_array_equal(np.isnan(found), [[False] * 3, [True] * 3])
