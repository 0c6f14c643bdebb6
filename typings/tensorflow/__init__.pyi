# The checker's own stubs of TensorFlow cover a part of it and contradict the rest, such as
# `tf.random.experimental` or `x[..., None]`. Names of TensorFlow are taken as they come.
from typing import Any

def __getattr__(name: str) -> Any: ...
