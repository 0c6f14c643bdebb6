"""The order of training's batches, and their augmentation."""

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf import data
from robustra_tf.batches import TrainingBatches, augment


def _numbered(count: int, side: int = 2) -> data.Dataset:
    """Images that can be told apart: image i is constant, i / count."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.float32)[:, None, None, None] / max(count, 1),
        (count, side, side, 1),
    )
    return data.Dataset(np.array(images), np.arange(count, dtype=np.int32))


def _labels(batches) -> np.ndarray:
    return np.array([y.numpy() for _, y in batches])


def test_an_epoch_is_full_batches_of_different_examples():
    batches = TrainingBatches(_numbered(23), 5, seed=1)
    seen = _labels(batches.epoch(0))
    assert (batches.steps, seen.shape) == (4, (4, 5))
    assert len(set(seen.ravel())) == 20


def test_every_example_is_used_over_the_epochs():
    batches = TrainingBatches(_numbered(23), 5, seed=1)
    assert {label for epoch in range(10) for label in batches.order(epoch).ravel()} == set(
        range(23)
    )


def test_images_stay_with_their_labels():
    for images, labels in TrainingBatches(_numbered(12), 5, seed=3).epoch(1):
        np.testing.assert_allclose(images[:, 0, 0, 0], labels.numpy() / 12, rtol=1e-6)


def test_a_dataset_smaller_than_a_batch_is_one_batch():
    batches = TrainingBatches(_numbered(3), 50, seed=0)
    assert sorted(_labels(batches.epoch(0)).ravel()) == [0, 1, 2]


def test_the_order_is_that_of_seed_and_epoch_alone():
    first, again, other = (TrainingBatches(_numbered(40), 8, seed) for seed in (5, 5, 6))
    _labels(again.epoch(0))  # what was drawn before makes no difference
    np.testing.assert_array_equal(_labels(first.epoch(2)), _labels(again.epoch(2)))
    assert not np.array_equal(_labels(first.epoch(2)), _labels(first.epoch(3)))
    assert not np.array_equal(_labels(first.epoch(2)), _labels(other.epoch(2)))


def test_an_interrupted_epoch_goes_on_with_the_same_augmented_batches(rng):
    images = rng.random((30, 8, 8, 3), dtype=np.float32)
    dataset = data.Dataset(images, np.arange(30, dtype=np.int32))
    batches = TrainingBatches(dataset, 6, 9, shift=2, mirror=True)
    whole, rest = list(batches.epoch(4)), list(batches.epoch(4, first_step=2))
    assert len(rest) == 3
    for (x, y), (x_rest, y_rest) in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(x, x_rest)
        np.testing.assert_array_equal(y, y_rest)


def test_the_batches_have_static_shapes():
    batches = TrainingBatches(_numbered(23), 5, 1, shift=1, mirror=True)
    element = batches.epoch(0).element_spec
    assert [spec.shape.as_list() for spec in element] == [[5, 2, 2, 1], [5]]


@pytest.mark.parametrize("mirroring", [True, False])
def test_augmented_images_are_mirrored_and_shifted_originals(rng, mirroring):
    images = rng.random((64, 8, 8, 3), dtype=np.float32)
    pad = 4
    seed = tf.constant([3, 4], tf.int64)
    augmented = augment(tf.constant(images), seed, pad, mirroring).numpy()
    shifts, mirrors = [], 0
    for original, result in zip(images, augmented, strict=True):
        found = []
        for mirrored in (False, True):
            source = original[:, ::-1] if mirrored else original
            padded = np.pad(source, ((pad, pad), (pad, pad), (0, 0)))
            found += [
                (row, column, mirrored)
                for row in range(2 * pad + 1)
                for column in range(2 * pad + 1)
                if np.array_equal(padded[row : row + 8, column : column + 8], result)
            ]
        # The image is one of the 162 possible ones, and no other.
        assert len(found) == 1
        shifts.append(found[0][:2])
        mirrors += found[0][2]
    assert 16 <= mirrors <= 48 if mirroring else mirrors == 0
    assert {row for row, _ in shifts} == set(range(2 * pad + 1))
    assert {column for _, column in shifts} == set(range(2 * pad + 1))


def test_each_step_and_epoch_is_augmented_differently():
    images = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1), (4, 8, 8, 1))
    dataset = data.Dataset(np.array(images), np.zeros(4, np.int32))
    batches = TrainingBatches(dataset, 2, 0, shift=2, mirror=True)
    found = [x.numpy() for epoch in range(2) for x, _ in batches.epoch(epoch)]
    for index, left in enumerate(found):
        assert not any(np.array_equal(left, right) for right in found[index + 1 :])


@pytest.mark.parametrize(("count", "batch_size"), [(0, 5), (5, 0)])
def test_empty_data_and_empty_batches_are_refused(count, batch_size):
    name = "batch_size" if count else "dataset"
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        TrainingBatches(_numbered(count), batch_size, seed=0)
