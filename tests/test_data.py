"""Datasets, the order of their batches and their augmentation."""

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf import data


@pytest.fixture(scope="module")
def digits():
    return {split: data.load("digits", split) for split in data.SPLITS}


def _numbered(count: int, side: int = 2) -> data.Dataset:
    """Images that can be told apart: image i is constant, i / count."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.float32)[:, None, None, None] / max(count, 1),
        (count, side, side, 1),
    )
    return data.Dataset(np.array(images), np.arange(count, dtype=np.int32))


def _labels(batches) -> np.ndarray:
    return np.array([y.numpy() for _, y in batches])


@pytest.mark.parametrize("split", data.SPLITS)
def test_digits_have_the_shape_range_and_types_that_are_promised(digits, split):
    images, labels = digits[split]
    info = data.INFO["digits"]
    assert images.shape == (getattr(info, split), *info.shape)
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert set(labels) == set(range(info.classes))


def test_digits_splits_are_disjoint_fixed_and_equally_mixed(digits):
    sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="no scikit-learn")
    everything = np.concatenate([digits["train"].images, digits["test"].images]).reshape(-1, 64)
    original = sklearn_datasets.load_digits().data / 16
    np.testing.assert_array_equal(np.sort(everything, axis=0), np.sort(original, axis=0))
    again = data.load("digits", "test")
    np.testing.assert_array_equal(again.images, digits["test"].images)
    counts = np.bincount(digits["test"].labels)
    assert counts.min() >= 34
    assert counts.max() <= 38


def test_a_limit_takes_the_first_examples(digits):
    few = data.load("digits", "test", limit=7)
    np.testing.assert_array_equal(few.images, digits["test"].images[:7])
    np.testing.assert_array_equal(few.labels, digits["test"].labels[:7])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fashion", "test"), "name: expected one of digits, mnist, cifar10, got 'fashion'"),
        (("digits", "valid"), "split: expected one of train, test, got 'valid'"),
        (("digits", "test", 0), "limit: expected None or at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(*arguments)


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_missing_folder_is_one_line_with_the_folder_and_the_remedy(
    tmp_path, monkeypatch, by_variable
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path if by_variable else "elsewhere"))
    with pytest.raises(data.DataNotFoundError) as caught:
        data.load("mnist", "test", data_dir=None if by_variable else tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "mnist") in message
    assert "--data_dir" in message
    assert "tensorflow_datasets" in message
    assert "\n" not in message


def test_the_newest_version_of_a_dataset_is_found(tmp_path):
    for version in ("3.0.2", "3.0.10", "2.9.9"):
        folder = tmp_path / "mnist" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{}")
    assert data.find("mnist", tmp_path).name == "3.0.10"
    assert data.find("digits", tmp_path) is None


@pytest.mark.oracle
def test_mnist_and_cifar10_are_read_from_their_folders(shared):
    for name in ("mnist", "cifar10"):
        images, labels = data.load(name, "test", 500, shared / "tfds")
        info = data.INFO[name]
        assert images.shape == (500, *info.shape)
        assert (images.dtype, labels.dtype) == (np.float32, np.int32)
        assert 0.0 <= images.min() < 0.01
        assert 0.99 < images.max() <= 1.0
        assert set(labels) == set(range(info.classes))


@pytest.mark.oracle
def test_cifar10_test_images_are_the_lossless_ones_but_for_their_compression(shared):
    with np.load(shared / "data" / "cifar10_test_first1017_lossless.npz") as file:
        pixels, labels = file["x"], file["y"]
    images, found = data.load("cifar10", "test", 2000, shared / "tfds")
    # The folder's order is its own: look each of its images up among the lossless ones.
    small = images.reshape(len(images), -1)
    lossless = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
    distances = (
        (small**2).sum(1)[:, None] + (lossless**2).sum(1) - 2 * small @ lossless.T
    ) / small.shape[1]
    nearest = distances.argmin(axis=1)
    matched = distances.min(axis=1) < 0.002
    assert matched.sum() >= 50
    np.testing.assert_array_equal(found[matched], labels[nearest[matched]])


def test_an_epoch_is_full_batches_of_different_examples():
    batches = data.TrainingBatches(_numbered(23), 5, seed=1)
    seen = _labels(batches.epoch(0))
    assert (batches.steps, seen.shape) == (4, (4, 5))
    assert len(set(seen.ravel())) == 20


def test_every_example_is_used_over_the_epochs():
    batches = data.TrainingBatches(_numbered(23), 5, seed=1)
    assert {label for epoch in range(10) for label in batches.order(epoch).ravel()} == set(
        range(23)
    )


def test_images_stay_with_their_labels():
    for images, labels in data.TrainingBatches(_numbered(12), 5, seed=3).epoch(1):
        np.testing.assert_allclose(images[:, 0, 0, 0], labels.numpy() / 12, rtol=1e-6)


def test_a_dataset_smaller_than_a_batch_is_one_batch():
    batches = data.TrainingBatches(_numbered(3), 50, seed=0)
    assert sorted(_labels(batches.epoch(0)).ravel()) == [0, 1, 2]


def test_the_order_is_that_of_seed_and_epoch_alone():
    first, again, other = (data.TrainingBatches(_numbered(40), 8, seed) for seed in (5, 5, 6))
    _labels(again.epoch(0))  # what was drawn before makes no difference
    np.testing.assert_array_equal(_labels(first.epoch(2)), _labels(again.epoch(2)))
    assert not np.array_equal(_labels(first.epoch(2)), _labels(first.epoch(3)))
    assert not np.array_equal(_labels(first.epoch(2)), _labels(other.epoch(2)))


def test_an_interrupted_epoch_goes_on_with_the_same_augmented_batches(rng):
    images = rng.random((30, 8, 8, 3), dtype=np.float32)
    dataset = data.Dataset(images, np.arange(30, dtype=np.int32))
    batches = data.TrainingBatches(dataset, 6, 9, data.Augmentation(2, True))
    whole, rest = list(batches.epoch(4)), list(batches.epoch(4, first_step=2))
    assert len(rest) == 3
    for (x, y), (x_rest, y_rest) in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(x, x_rest)
        np.testing.assert_array_equal(y, y_rest)


def test_the_batches_have_static_shapes():
    batches = data.TrainingBatches(_numbered(23), 5, 1, data.Augmentation(1, True))
    element = batches.epoch(0).element_spec
    assert [spec.shape.as_list() for spec in element] == [[5, 2, 2, 1], [5]]


@pytest.mark.parametrize("mirroring", [True, False])
def test_augmented_images_are_mirrored_and_shifted_originals(rng, mirroring):
    images = rng.random((64, 8, 8, 3), dtype=np.float32)
    pad = 4
    seed = tf.constant([3, 4], tf.int64)
    augmented = data.augment(tf.constant(images), seed, pad, mirroring).numpy()
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
    batches = data.TrainingBatches(dataset, 2, 0, data.Augmentation(2, True))
    found = [x.numpy() for epoch in range(2) for x, _ in batches.epoch(epoch)]
    for index, left in enumerate(found):
        assert not any(np.array_equal(left, right) for right in found[index + 1 :])


@pytest.mark.parametrize(("count", "batch_size"), [(0, 5), (5, 0)])
def test_empty_data_and_empty_batches_are_refused(count, batch_size):
    name = "batch_size" if count else "dataset"
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        data.TrainingBatches(_numbered(count), batch_size, seed=0)
