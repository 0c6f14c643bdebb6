"""Datasets: their shapes and splits, and folders that are absent."""

import numpy as np
import pytest

from robustra_tf import data


@pytest.fixture(scope="module")
def digits():
    return {split: data.load("digits", split) for split in data.SPLITS}


@pytest.mark.parametrize("split", data.SPLITS)
def test_digits_have_the_shape_range_and_types_that_are_promised(digits, split):
    images, labels = digits[split]
    info = data.INFO["digits"]
    assert images.shape == (info.splits[split], *info.shape)
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
        (("../mnist", "test"), "name: expected that of a data set, such as mnist, got '../mnist'"),
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
    assert "(there are digits)" in message
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
