"""Networks in Keras's own files: read back as they are, or refused in one line, no code run."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from robustra_tf import export
from robustra_tf.storage import keras_files
from tests.hostile import HUGE, refused

pytestmark = pytest.mark.usefixtures("nothing_runs")
SHAPE = (6, 6, 1)


def network():
    """Convolutions, two normalisations, a residual sum, a nested model: all that has weights."""
    rng = np.random.default_rng(0)
    scaled = layers.Normalization(axis=-1)
    scaled.adapt(rng.normal(0.5, 0.3, (20, *SHAPE)))
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(3, 3, activation="relu", padding="same")(scaled(inputs))
    branch = layers.Conv2D(3, 3, padding="same", kernel_regularizer="l2")(x)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Add()([x, branch])))
    head = keras.Sequential(
        [keras.Input((108,)), layers.Dense(7, activation="relu"), layers.Dense(4)], name="head"
    )
    x = head(layers.Dropout(0.5)(layers.Flatten()(x)))
    model = keras.Model(inputs, x, name="whole")
    for weight in model.weights:
        if weight.path.endswith(("mean", "variance", "beta", "gamma", "bias")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    model.compile("adam", "sparse_categorical_crossentropy")
    scaled.finalize_state()
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The network, and its file of each kind."""
    model, folder = network(), tmp_path_factory.mktemp("keras")
    for suffix in keras_files.SUFFIXES:
        model.save(folder / f"net{suffix}")
    return model, folder


def logits(model):
    return model(np.random.default_rng(1).uniform(size=(5, *SHAPE)).astype("float32")).numpy()


@pytest.mark.parametrize("suffix", keras_files.SUFFIXES)
def test_a_whole_model_is_read_as_it_is(files, suffix):
    model, folder = files
    found = export.load(folder / f"net{suffix}")
    np.testing.assert_array_equal(logits(found), logits(model))
    assert [w.shape for w in found.weights] == [w.shape for w in model.weights]


def older(item):
    """A configuration as Keras 2 wrote it: no places of classes, other names of some settings."""
    if isinstance(item, list):
        return [older(part) for part in item]
    if not isinstance(item, dict):
        return item
    item = {name: older(part) for name, part in item.items()}
    if item.get("class_name") == "DTypePolicy":
        return "float32"
    if "batch_shape" in item:
        item["batch_input_shape"] = item.pop("batch_shape")
    if "momentum" in item:
        item["axis"] = [item["axis"]]
    if item.get("class_name") == "Functional":
        item["class_name"] = "Model"
    return {k: v for k, v in item.items() if k not in ("module", "registered_name")}


def test_an_h5_file_of_keras_2_is_read(files, tmp_path):
    model, folder = files
    path = tmp_path / "old.h5"
    path.write_bytes((folder / "net.h5").read_bytes())
    with h5py.File(path, "a") as file:
        config = older(json.loads(file.attrs["model_config"]))
        assert '"module"' not in json.dumps(config)
        file.attrs["model_config"] = json.dumps(config)
    np.testing.assert_array_equal(logits(export.load(path)), logits(model))


def rewritten(folder, path, edit=lambda config: None, weights=lambda file: None, **options):
    """A copy of the `.keras` file whose configuration and weights functions have changed."""
    with zipfile.ZipFile(folder / "net.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    edit(config)
    parts["config.json"] = json.dumps(config).encode()
    content = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(content, "a") as file:
        weights(file)
    parts["model.weights.h5"] = content.getvalue()
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


def layer(config, kind):
    return next(part for part in config["config"]["layers"] if part["class_name"] == kind)


def custom(config):
    module = {"module": "os", "class_name": "system", "registered_name": "system"}
    layer(config, "ReLU").update(module)


def as_lambda(config):
    code = {"class_name": "__lambda__", "config": {"code": "4wA=", "defaults": None}}
    new = {"class_name": "Lambda", "config": {"name": "mine", "function": code}}
    layer(config, "ReLU").update(new)


def huge(config):
    layer(config, "Sequential")["config"]["layers"][-1]["config"].update(units=HUGE)


def link(file):
    del file["layers/conv2d/vars/0"]
    file["layers/conv2d/vars/0"] = h5py.ExternalLink("/etc/passwd", "/x")


def bomb(file):
    del file["layers/conv2d/vars/0"]
    file.create_dataset("layers/conv2d/vars/0", (HUGE,), "f4", chunks=(1024,), compression="gzip")


def without(file):
    del file["layers/conv2d/vars"]


def no_number(file):
    file["layers/conv2d/vars/1"][:] = np.nan


REWRITTEN = {
    "a custom class": ({"edit": custom}, "of type 'system' is not supported"),
    "code": ({"edit": as_lambda}, "layer 'mine' of type 'Lambda' is not supported (it carries co"),
    "a subclassed model": (
        {"edit": lambda config: config.update(class_name="Mine")},
        "expected a Sequential or functional model, got 'Mine'",
    ),
    "what fit trains": (
        {"edit": lambda config: config.update(class_name="CertifiedModel")},
        "got 'CertifiedModel': save its network",
    ),
    "no model": ({"edit": lambda config: config.clear()}, "functional model, got None"),
    "huge layers": ({"edit": huge}, "bytes of weights, the file"),
    "an unknown setting": (
        {"edit": lambda config: layer(config, "Conv2D")["config"].update(whatever=1)},
        "cannot be read",
    ),
    "a link": ({"weights": link}, "ExternalLink to another place"),
    "a bomb": ({"weights": bomb}, "its weights declare"),
    "weights left out": ({"weights": without}, "cannot be read"),
    "a weight that is NaN": ({"weights": no_number}, "bias is missing, or has values not finite"),
    "compressed": ({"compression": zipfile.ZIP_DEFLATED}, "got it compressed"),
}


@pytest.mark.parametrize(("changed", "message"), REWRITTEN.values(), ids=REWRITTEN)
def test_what_a_keras_file_must_not_hold_is_refused_in_one_line(files, tmp_path, changed, message):
    path = tmp_path / "net.keras"
    rewritten(files[1], path, **changed)
    assert "\n" not in refused(lambda: export.load(path), path, message)


def test_the_rewritten_files_are_near_a_good_one(files, tmp_path):
    rewritten(files[1], tmp_path / "net.keras")
    np.testing.assert_array_equal(logits(export.load(tmp_path / "net.keras")), logits(files[0]))


@pytest.mark.parametrize("suffix", keras_files.SUFFIXES)
@pytest.mark.parametrize("kept", [0, 40, 0.5])
def test_a_cut_file_is_refused_in_one_line(files, tmp_path, suffix, kept):
    whole = (files[1] / f"net{suffix}").read_bytes()
    path = tmp_path / f"net{suffix}"
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    assert "\n" not in refused(lambda: export.load(path), path)


def test_a_changed_byte_is_found(files, tmp_path):
    content = bytearray((files[1] / "net.keras").read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "net.keras"
    path.write_bytes(content)
    refused(lambda: export.load(path), path, "damaged", "CRC")


def test_weights_alone_are_no_model(files, tmp_path):
    path = tmp_path / "net.weights.h5"
    files[0].save_weights(path)
    refused(lambda: export.load(path), path, "weights alone: expected a whole model")


def test_a_lambda_in_a_file_of_keras_is_not_run(tmp_path):
    source = f"__import__('os').mkdir({str(tmp_path / 'ran')!r})"
    code = keras.Sequential([keras.Input((3,)), layers.Lambda(lambda x: eval(source) or x, (3,))])
    if (tmp_path / "ran").exists():  # building traces it
        (tmp_path / "ran").rmdir()
    for suffix in keras_files.SUFFIXES:
        code.save(tmp_path / f"net{suffix}")
        refused(lambda suffix=suffix: export.load(tmp_path / f"net{suffix}"), tmp_path, "Lambda")


def test_a_file_that_is_not_there_and_an_export_of_keras_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"net\.keras: there is no such file"):
        export.load(tmp_path / "net.keras")
    # What Keras exports has operations and no layers.
    small = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    small.export(str(tmp_path / "exported"), verbose=False)
    with pytest.raises(FileNotFoundError, match=r"save the model as \.keras"):
        export.load(tmp_path / "exported")
