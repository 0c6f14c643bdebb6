"""Full float32 arithmetic while something is proven.

TensorFlow may compute float32 products in fewer digits: TensorFloat-32 keeps ten bits of a factor
and is on by default where the hardware has it. A bound computed so is none.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import tensorflow as tf

#: Read by oneDNN before anything of ours runs; these values leave float32 as it is.
_VARIABLE, _STRICT = "ONEDNN_DEFAULT_FPMATH_MODE", ("", "STRICT")

_lock = threading.Lock()
_holders = 0
_before = False


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Switches TensorFloat-32 off on every device, until the last one that asked for it leaves.

    The switch is the whole process's: other threads compute in full precision for that time too.

    Raises:
      ValueError: products are computed in fewer digits by a setting that cannot be lifted from
        here; the text names it.
    """
    global _holders, _before
    _refuse_others()
    switch = tf.config.experimental
    with _lock:
        if _holders == 0:
            _before = switch.tensor_float_32_execution_enabled()
            switch.enable_tensor_float_32_execution(False)
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0:
                switch.enable_tensor_float_32_execution(_before)


def _refuse_others() -> None:
    mode = os.environ.get(_VARIABLE, "")
    if mode.upper() not in _STRICT:
        raise ValueError(f"{_VARIABLE} must be STRICT or unset where bounds are computed: {mode!r}")
    for name, value in tf.config.optimizer.get_experimental_options().items():
        if name.startswith("auto_mixed_precision") and value:
            raise ValueError(
                f"tf.config.optimizer: the option {name} must be off where bounds are computed: it "
                "rounds products to half precision"
            )
