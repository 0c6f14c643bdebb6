"""Examples of one's own: archives, folders of images, data sets found by name; else one line."""

import json
import struct

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf import data
from tests.hostile import Payload, refused
from tests.test_untrusted_data import IMAGE, LABEL, picture
from tests.test_untrusted_data import dataset as prepared

pytestmark = pytest.mark.usefixtures("nothing_runs")
SHAPE = (5, 4, 1)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, *SHAPE)).astype(np.uint8)
PIXELS[0, 0, 0] = 255
IMAGES = (PIXELS / np.float32(255)).astype(np.float32)
LABELS = np.array([2, 0, 1, 1, 0, 2])


@pytest.fixture
def archive(tmp_path):
    """Writes an archive of the given fields; its path."""

    def write(**fields):
        np.savez(tmp_path / "mine.npz", **fields)
        return tmp_path / "mine.npz"

    return write


def test_an_archive_is_read_as_it_is_or_divided_by_what_is_said(archive):
    images, labels = data.read(archive(x=IMAGES.astype(np.float64), y=LABELS))
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(data.read(archive(x=PIXELS, y=LABELS), scale=255)[0], IMAGES)
    few = data.read(archive(x=PIXELS, y=LABELS), limit=2, scale=255)
    np.testing.assert_array_equal(few.images, IMAGES[:2])
    np.testing.assert_array_equal(few.labels, LABELS[:2])


def test_an_archive_may_have_two_parts(archive):
    path = archive(x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:2], y_test=LABELS[:2] + 3)
    assert data.Origin("mine.npz", path=path).info() == data.Info(
        SHAPE, 6, {"train": 6, "test": 2}, 1.0
    )
    np.testing.assert_array_equal(data.read(path, "test").labels, [5, 3])
    refused(lambda: data.read(path), "", "split: expected one of train, test, got 'given'")


ARCHIVES = {
    "no images": ({"y": LABELS}, "expected the fields x and y", "got y"),
    "other fields": ({"images": IMAGES, "labels": LABELS}, "got images, labels"),
    "another length": ({"x": IMAGES, "y": LABELS[:4]}, "x has 6 images, y 4 labels"),
    "labels that are no integers": ({"x": IMAGES, "y": LABELS / 2}, "field 'y'", "float64"),
    "labels on two axes": ({"x": IMAGES, "y": LABELS[:, None]}, "field 'y'", "(6, 1)"),
    "negative labels": ({"x": IMAGES, "y": LABELS - 1}, "y: expected classes from 0 on", "got -1"),
    "huge labels": ({"x": IMAGES, "y": LABELS + 2**40}, "y: expected classes from 0 on, fewer"),
    "no example": ({"x": IMAGES[:0], "y": LABELS[:0]}, "x: expected at least one image"),
    "numbers for images": ({"x": IMAGES[:, 0, 0, 0], "y": LABELS}, "x: expected images [n, "),
    "text": ({"x": IMAGES.astype(str), "y": LABELS}, "field 'x'", "of a type in 'fiu'"),
    "NaN": ({"x": np.where(IMAGES == 1, np.nan, IMAGES), "y": LABELS}, "image 0 has pixels that"),
    "integers": ({"x": PIXELS, "y": LABELS}, "x: expected floats in [0, 1], got uint8", "=255"),
    "0..255": ({"x": 255 * IMAGES, "y": LABELS}, "got float32 from 0 to 255", "--scale=255"),
    "16 bits": ({"x": PIXELS * 256.0, "y": LABELS}, "--scale=65535 divides them by 65535"),
    "standardised": ({"x": 4 * IMAGES - 2, "y": LABELS}, "got float32 from -2 to 2"),
}


@pytest.mark.parametrize(("fields", "words"), [(f, w) for f, *w in ARCHIVES.values()], ids=ARCHIVES)
def test_an_archive_of_something_else_is_refused_in_one_line(archive, fields, words):
    path = archive(**fields)
    assert "\n" not in refused(lambda: data.read(path), path, *words)


@pytest.mark.parametrize(
    ("x", "scale", "message"),
    [
        (PIXELS, 16, "x: expected values from 0 to 16 (--scale), got uint8 from 0 to 255"),
        (IMAGES, 255, "x: expected no --scale for values in [0, 1], got 255"),
        (IMAGES - 1, 255, "x: expected values from 0 to 255 (--scale), got float32 from -1"),
    ],
)
def test_a_scale_that_is_not_the_images_is_refused(archive, x, scale, message):
    path = archive(x=x, y=LABELS)
    refused(lambda: data.read(path, scale=scale), path, message)


def test_black_images_have_any_scale(archive):
    found = data.read(archive(x=np.zeros((6, *SHAPE)), y=LABELS), scale=255)
    np.testing.assert_array_equal(found.images, np.zeros((6, *SHAPE)))


def test_pickles_in_an_archive_are_not_read(archive, tmp_path):
    path = archive(x=np.array([[Payload(tmp_path)]] * 6, object), y=LABELS)
    refused(lambda: data.read(path), path, "pickled objects are never read")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a zip"), (b"x,y\n1,2\n" * 9, "not a zip"), (None, "damaged")],
    ids=["empty", "text", "cut"],
)
def test_a_file_that_is_no_archive_is_refused_in_one_line(archive, content, message):
    path = archive(x=IMAGES, y=LABELS)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    assert "\n" not in refused(lambda: data.read(path), path, message)


def test_a_file_that_is_not_there_or_of_another_kind_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.npz: there is no such file or folder"):
        data.read(tmp_path / "x.npz")
    (tmp_path / "x.csv").touch()
    refused(lambda: data.read(tmp_path / "x.csv"), tmp_path / "x.csv", "expected an .npz", ".csv")


# Folders of images


def pictures(folder, pixels=PIXELS, encode=tf.io.encode_png):
    """A folder of the images in three classes, some hidden files beside them."""
    for number, (image, label) in enumerate(zip(pixels, LABELS, strict=True)):
        (folder / "abc"[label]).mkdir(parents=True, exist_ok=True)
        path = folder / "abc"[label] / f"{number}.{encode.__name__.removeprefix('encode_')}"
        path.write_bytes(encode(image).numpy())
    (folder / ".DS_Store").touch()
    (folder / "a" / ".DS_Store").touch()
    return folder


def test_a_folder_is_read_by_names_an_image_of_each_class_in_turn(tmp_path):
    folder = pictures(tmp_path / "mine")
    order = [1, 2, 0, 4, 3, 5]
    images, labels = data.read(folder)
    np.testing.assert_array_equal(images, IMAGES[order])
    np.testing.assert_array_equal(labels, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(data.read(folder, limit=2).images, IMAGES[order[:2]])
    assert data.Origin("mine", path=folder).info() == data.Info(SHAPE, 3, {"given": 6}, 255)


def test_colours_jpegs_and_parts_are_read_too(tmp_path):
    colours = np.repeat(PIXELS, 3, axis=-1)
    for part, encode in (("train", tf.io.encode_jpeg), ("test", tf.io.encode_png)):
        pictures(tmp_path / part, colours, encode)
    assert data.Origin("", path=tmp_path).info().splits == {"train": 6, "test": 6}
    tested, trained = data.read(tmp_path, "test"), data.read(tmp_path, "train")
    np.testing.assert_array_equal(tested.images[0], colours[1] / np.float32(255))
    assert trained.images.shape == tested.images.shape == (6, 5, 4, 3)
    assert np.abs(trained.images - tested.images).mean() < 0.1  # but for what JPEG loses


def png(width, height, bits=8, colour=0):
    return b"\x89PNG\r\n\x1a\n" + struct.pack(
        ">I4sII5B", 13, b"IHDR", width, height, bits, colour, 0, 0, 0
    )


def write(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


FOLDERS = {
    "empty": (lambda folder: folder.mkdir(), "of two classes or more, got nothing"),
    "one class": (lambda folder: write(folder / "a" / "0.png"), "two classes or more, got a"),
    "images beside the classes": (
        lambda folder: write(pictures(folder) / "0.png"),
        "two classes or more, got a, b, c, 0.png",
    ),
    "classes without images": (
        lambda folder: [(folder / name).mkdir(parents=True) for name in "ab"],
        "expected images in a, b, got none",
    ),
    "other files": (
        lambda folder: write(pictures(folder) / "a" / "notes.txt"),
        "notes.txt: expected PNG or JPEG images alone",
    ),
    "folders in a class": (
        lambda folder: write(pictures(folder) / "a" / "more" / "0.png"),
        "more: expected PNG or JPEG images alone",
    ),
    "another size": (
        lambda folder: write(pictures(folder) / "b" / "9.png", png(60_000, 60_000)),
        "9.png: expected an image of (5, 4, 1) as others, got (60000, 60000, 1)",
    ),
    "transparency": (
        lambda folder: write(pictures(folder) / "b" / "9.png", png(4, 5, colour=6)),
        "9.png: expected a PNG or JPEG of 8 bits without transparency",
    ),
    "16 bits": (
        lambda folder: write(pictures(folder) / "b" / "9.png", png(4, 5, bits=16)),
        "9.png: expected a PNG or JPEG of 8 bits",
    ),
    "a header alone": (
        lambda folder: write(pictures(folder) / "b" / "9.png", png(4, 5)),
        "9.png: cannot be read",
    ),
    "no picture": (
        lambda folder: write(pictures(folder) / "b" / "9.png", b"\xff\xd8\xff"),
        "9.png: expected a PNG or JPEG",
    ),
}


@pytest.mark.parametrize(("make", "message"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path, make, message):
    make(tmp_path / "mine")
    assert "\n" not in refused(lambda: data.read(tmp_path / "mine"), tmp_path, message)


def test_a_folder_has_a_scale_of_its_own(tmp_path):
    folder = pictures(tmp_path / "mine")
    np.testing.assert_array_equal(data.read(folder, scale=255)[0], data.read(folder)[0])
    refused(lambda: data.read(folder, scale=1), "", "scale: expected 255 for a folder")


# Data sets of TensorFlow Datasets by their names


def test_any_data_set_of_images_is_found_by_its_name(tmp_path):
    prepared(tmp_path, [(picture(), 3), (picture(), 9)], name="fashion_mnist")
    info = data.describe("fashion_mnist", tmp_path)
    assert info == data.Info((28, 28, 1), 10, {"test": 2}, 255)
    images, labels = data.load("fashion_mnist", "test", data_dir=tmp_path)
    expected = np.arange(784, dtype=np.uint8).reshape(28, 28, 1) / np.float32(255)
    np.testing.assert_array_equal(images, [expected] * 2)
    np.testing.assert_array_equal(labels, [3, 9])
    with pytest.raises(ValueError, match="split: expected one of test, got 'train'"):
        data.load("fashion_mnist", "train", data_dir=tmp_path)


def test_an_unknown_name_lists_what_is_there(tmp_path):
    prepared(tmp_path, [], name="fashion_mnist")
    prepared(tmp_path, [], name="corrupted/brightness_1")
    with pytest.raises(data.DataNotFoundError, match=r"svhn: .*there are digits, corrupted"):
        data.load("svhn", "test", data_dir=tmp_path)
    assert data.find("corrupted/brightness_1", tmp_path).name == "3.0.1"


def about(**changed):
    return {"image": IMAGE["image"] | changed}


@pytest.mark.parametrize(
    "image",
    [
        about(dtype="float32"),
        about(shape={"dimensions": ["-1", "28", "1"]}),
        about(shape={"dimensions": ["28", "28", "4"]}),
        about(shape={"dimensions": ["60000", "60000", "3"]}),
        about(shape={}),
        {"image": []},
    ],
    ids=["floats", "any height", "four channels", "huge", "no shape", "no image"],
)
def test_a_data_set_of_other_images_is_refused(tmp_path, image):
    folder = prepared(tmp_path, [(picture(), 1)] * 2, IMAGE | image, name="other")
    text = refused(lambda: data.load("other", "test", data_dir=tmp_path), folder)
    assert "expected images of one size, 8 bits and 1 or 3 channels" in text
    assert "\n" not in text


def test_a_data_set_without_classes_is_refused(tmp_path):
    folder = prepared(tmp_path, [(picture(), 1)], name="other")
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["label"] = {"pythonClassName": LABEL["pythonClassName"]}
    (folder / "features.json").write_text(json.dumps(features))
    refused(lambda: data.load("other", "test", data_dir=tmp_path), folder, "classLabel")
