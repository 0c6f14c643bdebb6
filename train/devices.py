"""The two devices that the parallel schedule trains on: their names, and whether they are there."""

from __future__ import annotations

import re

from robustra_tf.cli.settings import SettingError

_NAME = re.compile(r"([A-Za-z_]+):(\d+)")


def names(text: str | None) -> tuple[str, str]:
    """The two names of `--devices=A,B`, such as `CPU:0` and `GPU:1`.

    Raises:
      SettingError: not two names of the form KIND:NUMBER, or one device twice.
    """
    found = [_NAME.fullmatch(part.strip()) for part in (text or "").split(",")]
    named = tuple(f"{m[1].upper()}:{int(m[2])}" for m in found if m)
    if len(found) != 2 or len(named) != 2:
        expected = "two TensorFlow devices, as in GPU:0,GPU:1 or CPU:0,CPU:1"
        raise SettingError("devices", expected, text)
    if named[0] == named[1]:
        raise SettingError("devices", f"two different devices, not {named[0]} twice", text)
    return named


def require(text: str, split_gpu_mb: int = 0) -> tuple[str, str]:
    """Makes sure that both devices are there; starts TensorFlow's runtime.

    `CPU:1` is the other half of the processor, which TensorFlow has only where it is asked for it.

    Args:
      text: as `names` takes it.
      split_gpu_mb: MiB of each of two logical devices that a single GPU becomes; 0 leaves it whole.

    Raises:
      SettingError: a device that is not there, by name, with those that are.
    """
    import tensorflow as tf

    wanted = names(text)
    if "CPU:1" in wanted:
        _split("CPU", tf.config.LogicalDeviceConfiguration())
    if split_gpu_mb:
        _split("GPU", tf.config.LogicalDeviceConfiguration(memory_limit=split_gpu_mb))
    there = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    for name in wanted:
        if name not in there:
            expected = f"devices that are there ({', '.join(there)})"
            raise SettingError("devices", expected, name)
    return wanted


def _split(kind: str, half) -> None:
    """Two logical devices where there is one, unless TensorFlow runs already or has been told."""
    import tensorflow as tf

    physical = tf.config.list_physical_devices(kind)
    if len(physical) != 1 or tf.config.get_logical_device_configuration(physical[0]):
        return
    try:
        tf.config.set_logical_device_configuration(physical[0], [half, half])
    except RuntimeError:
        return  # it runs: what there is must do
