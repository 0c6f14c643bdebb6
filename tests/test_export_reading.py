"""SavedModels that are damaged, or say what they must not: nothing of them is built."""

import json

import keras
import pytest
import tensorflow as tf
from keras import layers

from robustra_tf import export
from robustra_tf.storage import description
from tests import nets


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved network that tests may read, not change."""
    return export.save(nets.dense(), tmp_path_factory.mktemp("saved") / "f", certifies=False)


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of it to damage: its directory and the parsed description."""
    directory = tmp_path / "copy"
    tf.io.gfile.makedirs(str(directory))
    for path in saved.rglob("*"):
        if path.is_file():
            target = directory / path.relative_to(saved)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return directory


def edit(directory, change):
    """Applies `change` to the description's parsed JSON."""
    path = directory / description.FILE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@keras.saving.register_keras_serializable(package="tests")
class Custom(layers.Layer):
    """A registered layer: Keras itself would build it."""

    built_from_text = False

    def __init__(self, **options):
        super().__init__(**options)
        Custom.built_from_text = True


def test_code_and_custom_objects_are_refused_on_reading(copy):
    layer = {
        "module": "tests.test_export_reading",
        "class_name": "Custom",
        "config": {"name": "mine"},
    }
    edit(
        copy,
        lambda content: content["architecture"]["config"]["layers"].append(
            layer | {"registered_name": "tests>Custom"}
        ),
    )
    with pytest.raises(ValueError, match=r"keras\.json: layer 'mine' of type 'Custom' is not"):
        export.load(copy)
    assert not Custom.built_from_text


@pytest.mark.parametrize(
    "disguise",
    [
        {"module": "keras.layers", "class_name": "Lambda", "registered_name": None},
        {"module": "keras.layers", "class_name": "Dense", "registered_name": "tests>Custom"},
        {"module": "builtins", "class_name": "eval", "registered_name": None},
        {"module": None, "class_name": "__lambda__", "registered_name": None},
        {"module": "keras.saving", "class_name": "load_model", "registered_name": None},
    ],
    ids=lambda disguise: disguise["class_name"],
)
def test_nothing_off_the_list_is_built_wherever_it_hides(copy, disguise):
    def hide(content):
        content["architecture"]["config"]["layers"][1]["config"]["kernel_initializer"] = disguise

    edit(copy, hide)
    with pytest.raises(ValueError, match="not supported"):
        export.load(copy)


def test_a_layer_that_carries_code_is_named_on_reading(copy):
    ran = []

    def spy(x):
        ran.append(x)
        return x

    inner = keras.Sequential([keras.Input((3,)), layers.Lambda(spy, (3,), name="code")])
    layer = json.loads(json.dumps(keras.saving.serialize_keras_object(inner)))
    ran.clear()
    edit(copy, lambda content: content["architecture"]["config"]["layers"].append(layer))
    message = r"keras\.json: layer 'code' of type 'Lambda' is not supported \(it carries code"
    with pytest.raises(ValueError, match=message):
        export.load(copy)
    assert not ran


def test_a_function_inside_a_layer_is_named_by_the_layer(copy):
    name = None

    def hide(content):
        nonlocal name
        config = content["architecture"]["config"]["layers"][1]["config"]
        name = config["name"]
        config["activation"] = {
            "module": "builtins",
            "class_name": "function",
            "config": "system",
            "registered_name": "function",
        }

    edit(copy, hide)
    with pytest.raises(ValueError, match="of type 'function' is not supported") as raised:
        export.load(copy)
    assert f"layer {name!r} of type" in str(raised.value)


def _units(content):
    content["architecture"]["config"]["layers"][-1]["config"]["units"] = 9


def _no_bias(content):
    content["architecture"]["config"]["layers"][-1]["config"]["use_bias"] = False


def _wrong_setting(content):
    content["architecture"]["config"]["layers"][1]["config"]["units"] = "many"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_units, r"copy: weight .*kernel has shape \[6, 9\] by the architecture, \[6, 3\] in its"),
        (_no_bias, "copy: the architecture has 5 weights, its checkpoint 6"),
        (_wrong_setting, "Keras cannot build this architecture"),
        (lambda content: content.update(version=99), "expected version 1, got 99"),
        (lambda content: content.update(format="other"), "expected an object with format"),
        (lambda content: content.pop("architecture"), "expected a model under 'architecture'"),
        (lambda content: content.update(architecture=[1]), "expected a model under"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(copy, change, message):
    edit(copy, change)
    with pytest.raises(ValueError, match=message):
        export.load(copy)


def test_what_is_missing_is_named(copy, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such SavedModel"):
        export.load(tmp_path / "nowhere")
    (copy / description.FILE).write_text('{"format": "robustra_tf", "vers')
    with pytest.raises(ValueError, match=r"copy.*keras\.json: damaged, not JSON"):
        export.load(copy)
    (copy / description.FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"copy: .*no assets\.extra/keras\.json"):
        export.load(copy)
    (copy / "saved_model.pb").unlink()
    with pytest.raises(FileNotFoundError, match=r"copy: not a SavedModel"):
        export.load(copy)


@pytest.mark.parametrize("name", ["saved_model.pb", "fingerprint.pb"])
def test_a_folder_that_is_not_whole_is_refused(copy, name):
    """Also where the weights can still be read: who serves it would notice late."""
    path = copy / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"copy: not whole: {name} is not as it was saved"):
        export.load(copy)
    path.write_bytes(content)
    export.load(copy)
    (copy / "fingerprint.pb").unlink()
    with pytest.raises(ValueError, match=r"copy: not whole: fingerprint\.pb is missing"):
        export.load(copy)


def test_damaged_weights_are_refused(copy):
    values = copy / "variables" / "variables.data-00000-of-00001"
    values.write_bytes(values.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"copy: (its weights cannot be read|weight .* damaged)"):
        export.load(copy)
    (copy / "variables" / "variables.index").unlink()
    with pytest.raises(ValueError, match="copy: its weights cannot be read"):
        export.load(copy)
