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

Of a `Pair` of networks, f and g:

* `serving_default`: `image` -> `logits_f`, `logits_g` and `predicted` (int32 [batch], the class
  that both answer; -1 where the pair abstains, or where a logit is no finite number);
* `certify`: `image` and `eps` -> `predicted`; `margin` (a lower bound, over the ball and the
  targets `t` other than the class `p` that the pair answers, of the best mix
  `a (f_p - f_t) + (1 - a) (g_p - g_t)`, by Wong and Kolter's bounds); `certified` (whether it is
  positive: no input of the ball makes both networks answer one class other than `p`) and `answered`
  (whether both networks answer `p` on the whole ball). Nothing is proven where the pair abstains.
* `about`, as above.

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from robustra_tf.intake.subject import Subject, take
from robustra_tf.pair import Pair, Taken, take_pair
from robustra_tf.servable import Servable, networks
from robustra_tf.storage import description, keras_files

# What TensorFlow raises for checkpoints that are missing, cut short or altered.
_READ_ERRORS = (ValueError, IndexError, RuntimeError, tf.errors.OpError)


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
      model: a built Sequential or functional model of supported layers, image in, logits out; a
        `CertifiedModel`, for its network; or a `Pair` of networks.
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
    subject = take_pair(model) if isinstance(model, Pair) else take(model)
    architecture = _architecture(subject)
    directory = Path(directory)
    if directory.exists() and not _replaceable(directory):
        raise ValueError(
            f"directory: expected a new, empty or SavedModel directory, got {directory}, which "
            "holds something else"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as scratch:
        fresh, old = Path(scratch) / "fresh", Path(scratch) / "old"
        servable = Servable(subject, settings or {}, certifies)
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


def _architecture(subject: Subject | Taken) -> dict[str, Any]:
    """The Keras configuration of a network, or of both, as it will be read."""
    parts = []
    for model in (each.own for each in networks(subject)):
        name, architecture = model.name, keras.saving.serialize_keras_object(model)
        architecture.pop("compile_config", None)
        # JSON turns tuples into lists.
        architecture = json.loads(json.dumps(architecture))
        description.check_supported(architecture, f"model {name!r}")
        parts.append(architecture)
    if len(parts) == 1:
        return parts[0]
    config = dict(zip(description.PARTS, parts, strict=True))
    return {"class_name": description.PAIR, "config": config}


def load(directory: str | os.PathLike) -> keras.Model:
    """The Keras model that `save` wrote, or Keras itself: the same layers, the same weights.

    Args:
      directory: of the SavedModel; or a `.keras` or `.h5` file of a whole model, of which no code
        is run: custom classes and Lambda layers are refused.

    Returns:
      A built `keras.Model`, image [batch, ...] in, logits [batch, classes] out; or a `Pair`.

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
    parts = description.parts(architecture, str(directory / description.FILE))
    # In a graph weights are symbols: their shapes are known before any of them takes memory.
    with tf.Graph().as_default():
        _compare([_built(part, directory) for part in parts], shapes, directory)
    models = [_built(part, directory) for part in parts]
    for index, weight in enumerate(_weights(models)):
        try:
            weight.assign(reader.get_tensor(_key(index)))
        except _READ_ERRORS as error:
            raise ValueError(f"{directory}: weight {weight.path} is damaged: {error}") from error
    for model in models:
        keras_files.finish(model)
    description.check_whole(directory)
    try:
        return Pair(*models) if len(models) == 2 else models[0]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{directory}: no pair: {error}") from error


def _weights(models: Sequence[keras.Model]) -> list[keras.Variable]:
    """The weights of all models, in the order in which they are saved."""
    return [weight for model in models for weight in model.weights]


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


def _compare(
    models: Sequence[keras.Model], shapes: Mapping[str, list[int]], directory: Path
) -> None:
    """Refuses a checkpoint that does not hold just the models' weights."""
    stored, weights = sum(key.startswith("model_weights/") for key in shapes), _weights(models)
    if stored != len(weights):
        raise ValueError(
            f"{directory}: the architecture has {len(weights)} weights, its checkpoint {stored}"
        )
    for index, weight in enumerate(weights):
        if list(weight.shape) != shapes.get(_key(index)):
            raise ValueError(
                f"{directory}: weight {weight.path} has shape {list(weight.shape)} by the "
                f"architecture, {shapes.get(_key(index))} in its checkpoint"
            )
