"""The devices that networks are trained on: their names, and whether they are there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from robustra_tf.cli.settings import SettingError

_NAME = re.compile(r"([A-Za-z_]+):(\d+)")


class Given(Protocol):
    """What has the settings of devices."""

    @property
    def devices_f(self) -> str | None:
        """The first network's."""
        ...

    @property
    def devices_g(self) -> str | None:
        """The second one's."""
        ...

    @property
    def networks(self) -> tuple[str, ...]:
        """Their names."""
        ...


def of(given: Given) -> tuple[tuple[str, ...], ...]:
    """The devices of each network; none where none are given, g's are f's where g has none.

    Raises:
      SettingError: names of another form, or one device twice.
    """
    if given.devices_f is None:
        return ()
    first = names("devices_f", given.devices_f)
    if len(given.networks) == 1:
        return (first,)
    return first, first if given.devices_g is None else names("devices_g", given.devices_g)


def names(flag: str, text: str) -> tuple[str, ...]:
    """The names of `--devices_f=A,B`, such as `CPU:0` and `GPU:1`.

    Raises:
      SettingError: no names of the form KIND:NUMBER, or one device twice.
    """
    found = [_NAME.fullmatch(part.strip()) for part in text.split(",")]
    named = tuple(f"{m[1].upper()}:{int(m[2])}" for m in found if m)
    if len(named) != len(found):
        raise SettingError(flag, "TensorFlow devices, as in GPU:0,GPU:1 or CPU:0", text)
    for name in named:
        if named.count(name) > 1:
            raise SettingError(flag, f"different devices, not {name} twice", text)
    return named


def require(wanted: Sequence[Sequence[str]], split_gpu_mb: int = 0) -> None:
    """Makes sure that all devices are there; starts TensorFlow's runtime where there are any.

    `CPU:1` is a part of the processor, which TensorFlow has only where it is asked for it.

    Args:
      wanted: of each network.
      split_gpu_mb: MiB of each of the logical devices that a single GPU becomes; 0 leaves it whole.

    Raises:
      SettingError: a device that is not there, by name, with those that are.
    """
    if not wanted:
        return
    import tensorflow as tf

    every = [name for each in wanted for name in each]
    _split("CPU", every, tf.config.LogicalDeviceConfiguration())
    if split_gpu_mb:
        _split("GPU", every, tf.config.LogicalDeviceConfiguration(memory_limit=split_gpu_mb))
    there = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    for flag, each in zip(("devices_f", "devices_g"), wanted, strict=False):
        for name in each:
            if name not in there:
                expected = f"devices that are there ({', '.join(there)})"
                raise SettingError(flag, expected, name)


def _split(kind: str, every: Sequence[str], part) -> None:
    """As many logical devices as are wanted where there is one, unless TensorFlow runs already."""
    import tensorflow as tf

    numbers = [int(name.partition(":")[2]) for name in every if name.partition(":")[0] == kind]
    physical = tf.config.list_physical_devices(kind)
    if max(numbers, default=0) == 0 or len(physical) != 1:
        return
    if tf.config.get_logical_device_configuration(physical[0]):
        return
    try:
        tf.config.set_logical_device_configuration(physical[0], [part] * (max(numbers) + 1))
    except RuntimeError:
        return  # it runs: what there is must do
