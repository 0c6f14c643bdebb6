"""Models as TensorFlow SavedModels, and back into Keras models that bounds can be computed for.

A saved model is an ordinary SavedModel that runs without this package. Its signatures:

* `serving_default`: `image` (float32 [batch, ...], pixels in [0, 1]) -> `logits` (float32 [batch,
  classes]);
* `certify`: `image` and `eps` (float32 scalar, in pixels) -> `predicted` (int32 [batch], -1 where
  the image or the logits are no finite numbers), `margin` (float32 [batch], a lower bound of
  `min_t f_p(x') - f_t(x')` over the targets `t` other than the predicted class `p` and over the
  l_inf ball of radius `eps`, by Wong and Kolter's bound) and `certified` (bool [batch], whether it
  is positive: no input of the ball changes the prediction). Where nothing is proven the margin is
  -inf: of a radius that is negative or no number, of an image with a pixel outside [0, 1].
  It has no gradient.
* `about`: nothing -> `norm` (string, of the balls of `certify`), `pixels` (float32 [2], the range
  that images keep to), `trained_eps` (float32, the radius in pixels that the model was trained for,
  NaN where that is not known) and `trained_norm` (string, of that ball, empty where not known).

The architecture stands beside it as text (`description.py`), the weights in the SavedModel's own
checkpoint. Reading back builds Keras's own layers from that text and never runs code that the files
bring along.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from robustra_tf import counting, graph
from robustra_tf.bounds.balls import Box, ball, inside
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.intake.subject import take
from robustra_tf.storage import description, keras_files

#: Of the images that a saved model certifies.
BOX: Box = (0.0, 1.0)
# What TensorFlow raises for checkpoints that are missing, cut short or altered.
_READ_ERRORS = (ValueError, IndexError, RuntimeError, tf.errors.OpError)


class _Servable(tf.Module):
    """A model's weights, each under its position, and what can be asked of it as signatures."""

    def __init__(
        self,
        model: keras.Model,
        network: graph.Graph,
        settings: Mapping[str, description.Setting],
        certifies: bool,
    ):
        super().__init__()
        self.model_weights = [weight.value for weight in model.weights]
        image = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name="image")
        eps = tf.TensorSpec([], tf.float32, name="eps")
        self.serving_default = tf.function(
            lambda image: {"logits": tf.cast(graph.logits(model, image), tf.float32)},
            input_signature=[image],
            autograph=False,
        )
        self.about = tf.function(lambda: _about(settings), input_signature=[], autograph=False)
        # Set or not: saving would trace it.
        if certifies:
            self.certify = tf.function(
                lambda image, eps: _certify(network, image, eps),
                input_signature=[image, eps],
                autograph=False,
            )

    def functions(self) -> dict[str, tf.types.experimental.GenericFunction]:
        """The signatures by name."""
        names = ("serving_default", "about", "certify")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}


def _about(settings: Mapping[str, description.Setting]) -> dict[str, tf.Tensor]:
    """The outputs of the signature `about`."""
    return {
        "norm": tf.constant("linf"),
        "pixels": tf.constant(BOX),
        "trained_eps": tf.constant(settings.get("eps", np.nan), tf.float32),
        "trained_norm": tf.constant(settings.get("norm", "")),
    }


def _certify(network: graph.Graph, image: tf.Tensor, eps: tf.Tensor) -> dict[str, tf.Tensor]:
    """The outputs of the signature `certify`."""
    values = network.network()
    count = tf.shape(image)[0]
    # Rows of no image cannot be convolved: an image of zeros stands in for an empty batch.
    filled = tf.pad(image, [[0, tf.cast(count < 1, tf.int32)], *[[0, 0]] * (image.shape.rank - 1)])
    # On some processors a layer fused with its ReLU makes 0 of NaN: such an image has no logits.
    finite = tf.reshape(inside(filled, None), (-1, 1))
    predicted = counting.predicted_tensor(tf.where(finite, values(filled), np.nan))
    # Of a radius that makes no sense there is no ball.
    lower = -margins(values, ball(filled, eps), predicted, BoundOptions("needed")).upper
    own = tf.one_hot(predicted, lower.shape[-1], on_value=True, off_value=False)
    there = tf.logical_and(tf.reshape(inside(filled, BOX), (-1,)), predicted >= 0)[:, None]
    # A maximum may pass over NaN: what is no number is told apart before.
    rival = tf.where(tf.logical_and(there, tf.math.is_finite(lower)), lower, -np.inf)
    # The gradient that bounds have in training is not saved with them, and no other one is right.
    margin = tf.stop_gradient(tf.reduce_min(tf.where(own, np.inf, rival), axis=-1))
    certified = counting.certified_tensor(rival, predicted)
    found = {"predicted": predicted, "margin": margin, "certified": certified}
    return {name: value[:count] for name, value in found.items()}


def save(
    model: keras.Model,
    directory: str | os.PathLike,
    settings: Mapping[str, description.Setting] | None = None,
    certifies: bool = True,
) -> Path:
    """Writes a model as a SavedModel that `load` reads back.

    It is written beside its place first and then moved there, so that the place never holds half a
    model. A SavedModel that stands there already is replaced; anything else is left alone.

    Args:
      model: a built Sequential or functional model of supported layers, image in, logits out; or a
        `CertifiedModel`, for its network.
      directory: where to; its parents are made.
      settings: plain values kept with the model, such as the dataset and the radius that it was
        trained for; `description.read_settings` gives them back.
      certifies: with the signature `certify`, whose tracing takes seconds, more for deep networks.

    Returns:
      The directory.

    Raises:
      ValueError: a model that could not be read back, or computes something else than its layers'
        weights and settings say; or a directory that holds something else.

    Example:
      >>> rt.export.save(model, "saved", {"eps": 0.1}, certifies=False).name
      'saved'
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"model: expected a built keras.Model, got {model!r}")
    subject = take(model)
    model, network = subject.model, subject.graph
    architecture = keras.saving.serialize_keras_object(model)
    architecture.pop("compile_config", None)
    # As it will be read: JSON turns tuples into lists.
    architecture = json.loads(json.dumps(architecture))
    description.check_supported(architecture, f"model {model.name!r}")
    directory = Path(directory)
    if directory.exists() and not _replaceable(directory):
        raise ValueError(
            f"directory: expected a new, empty or SavedModel directory, got {directory}, which "
            "holds something else"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as scratch:
        fresh, old = Path(scratch) / "fresh", Path(scratch) / "old"
        servable = _Servable(model, network, settings or {}, certifies)
        # The signatures are bounds to be read; their gradients would take longer than all the rest.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(servable, str(fresh), servable.functions(), options)
        _forget_gradients(fresh / "saved_model.pb")
        description.write(fresh, architecture, settings or {})
        if directory.exists():
            directory.rename(old)
        fresh.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    return directory


def load(directory: str | os.PathLike) -> keras.Model:
    """The Keras model that `save` wrote, or Keras itself: the same layers, the same weights.

    Args:
      directory: of the SavedModel; or a `.keras` or `.h5` file of a whole model, of which no code
        is run: custom classes and Lambda layers are refused.

    Returns:
      A built `keras.Model`, image [batch, ...] in, logits [batch, classes] out.

    Raises:
      FileNotFoundError: the directory or file, or a part of what `save` writes, is not there.
      NotADirectoryError: it is a file of another kind.
      ValueError: a part of it cannot be read, holds a layer that is not supported, or does not fit
        the rest; the text names the directory and what is wrong.

    Example:
      >>> directory = rt.export.save(model, "saved", certifies=False)
      >>> print(rt.export.load(directory)(x).numpy().round(2))
      [[0.8 0.2]]
      >>> model.save("net.keras")
      >>> print(rt.export.load("net.keras")(x).numpy().round(2))
      [[0.8 0.2]]
    """
    directory = Path(directory)
    if directory.suffix in keras_files.SUFFIXES and not directory.is_dir():
        return keras_files.load(directory)
    architecture = description.read_architecture(directory)
    reader, shapes = _stored(directory)
    # In a graph weights are symbols: their shapes are known before any of them takes memory.
    with tf.Graph().as_default():
        _compare(_built(architecture, directory), shapes, directory)
    model = _built(architecture, directory)
    for index, weight in enumerate(model.weights):
        try:
            weight.assign(reader.get_tensor(_key(index)))
        except _READ_ERRORS as error:
            raise ValueError(f"{directory}: weight {weight.path} is damaged: {error}") from error
    keras_files.finish(model)
    description.check_whole(directory)
    return model


def _forget_gradients(path: Path) -> None:
    """Takes off the operations of a SavedModel the names of gradients that were not saved with it.

    TensorFlow would warn of each function with one when it loads them.
    """
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for part in saved.meta_graphs:
        for function in part.graph_def.library.function:
            for node in function.node_def:
                node.attr.pop("_gradient_op_type", None)
    path.write_bytes(saved.SerializeToString(deterministic=True))


def _replaceable(directory: Path) -> bool:
    return directory.is_dir() and (
        (directory / "saved_model.pb").is_file() or not any(directory.iterdir())
    )


def _built(architecture: dict, directory: Path) -> keras.Model:
    try:
        # A copy: Keras changes what it reads.
        return keras.saving.deserialize_keras_object(copy.deepcopy(architecture), safe_mode=True)
    except Exception as error:  # Keras raises whatever the damaged setting leads to.
        first_line = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{directory / description.FILE}: Keras cannot build this architecture: {first_line}"
        ) from error


def _key(index: int) -> str:
    """The checkpoint's name of the model's weight at a position."""
    return f"model_weights/{index}/.ATTRIBUTES/VARIABLE_VALUE"


def _stored(directory: Path) -> tuple[tf.train.CheckpointReader, dict[str, list[int]]]:
    """The SavedModel's checkpoint and the shapes in it, which its files are large enough for."""
    prefix = directory / "variables" / "variables"
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        types = reader.get_variable_to_dtype_map()
        sizes = {key: math.prod(shape) * types[key].size for key, shape in shapes.items()}
    except _READ_ERRORS as error:
        raise ValueError(f"{directory}: its weights cannot be read: {error}") from error
    there = sum(part.stat().st_size for part in prefix.parent.glob("variables.data-*"))
    for key, size in sizes.items():
        if key.startswith("model_weights/") and not 0 <= size <= there:
            raise ValueError(
                f"{directory}: its weights cannot be read: {key} of shape {shapes[key]} is larger "
                f"than the {there} bytes of its files"
            )
    return reader, shapes


def _compare(model: keras.Model, shapes: Mapping[str, list[int]], directory: Path) -> None:
    """Refuses a checkpoint that does not hold just the model's weights."""
    stored = sum(key.startswith("model_weights/") for key in shapes)
    if stored != len(model.weights):
        raise ValueError(
            f"{directory}: the architecture has {len(model.weights)} weights, its checkpoint "
            f"{stored}"
        )
    for index, weight in enumerate(model.weights):
        if list(weight.shape) != shapes.get(_key(index)):
            raise ValueError(
                f"{directory}: weight {weight.path} has shape {list(weight.shape)} by the "
                f"architecture, {shapes.get(_key(index))} in its checkpoint"
            )
