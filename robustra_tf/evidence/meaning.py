"""What a described network computes, by what the format says of its operations, in NumPy.

Nothing of the graph's own operations is used: whoever describes a network compares the two.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

#: An operation as files have it.
Text = dict[str, Any]
#: `(text, weights, *inputs) -> output`, arrays [n, ...] in float64.
Meaning = Callable[..., np.ndarray]


def values(
    operations: Sequence[Text], weights: Sequence[np.ndarray], x: np.ndarray
) -> Iterator[np.ndarray]:
    """The output of every operation at inputs [n, *shape], one after the other."""
    found = [np.asarray(x, np.float64)]
    yield found[0]
    for text in operations[1:]:
        own = [np.asarray(weights[i], np.float64) for i in text["weights"]]
        found.append(_MEANINGS[text["op"]](text, own, *(found[i] for i in text["inputs"])))
        yield found[-1]


def _dense(text: Text, weights: list[np.ndarray], v: np.ndarray) -> np.ndarray:
    return v @ weights[0] + (weights[1] if len(weights) > 1 else 0.0)


def _windows(
    text: Text, v: np.ndarray, size: Sequence[int]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """For each tap its place in the window and what it reads, [n, rows, columns, channels]."""
    v = np.pad(v, ((0, 0), *text["padding"], (0, 0)))
    dilation = text.get("dilation", [1, 1])
    rows, columns = (
        (length - (taps - 1) * apart - 1) // step + 1
        for length, taps, apart, step in zip(
            v.shape[1:3], size, dilation, text["strides"], strict=True
        )
    )
    (down, right), (apart_down, apart_right) = text["strides"], dilation
    for a, b in itertools.product(range(size[0]), range(size[1])):
        first, left = a * apart_down, b * apart_right
        part = v[:, first::down, left::right]
        yield a, b, part[:, :rows, :columns]


def _conv(text: Text, weights: list[np.ndarray], v: np.ndarray) -> np.ndarray:
    kernel = weights[0] if weights[0].ndim == 4 else weights[0][None]
    groups = text.get("groups", 1)
    found = []
    for part, own in zip(
        np.split(v, groups, axis=-1), np.split(kernel, groups, axis=-1), strict=True
    ):
        taps = _windows(text, part, kernel.shape[:2])
        found.append(sum(read @ own[a, b] for a, b, read in taps))
    return np.concatenate(found, axis=-1) + (weights[1] if len(weights) > 1 else 0.0)


def _turned_conv(text: Text, weights: list[np.ndarray], v: np.ndarray) -> np.ndarray:
    kernel = weights[0] if weights[0].ndim == 4 else weights[0][None]
    return _conv(text, [kernel[::-1, ::-1].swapaxes(2, 3), *weights[1:]], v)


def _depthwise_conv(text: Text, weights: list[np.ndarray], v: np.ndarray) -> np.ndarray:
    kernel = weights[0] if weights[0].ndim == 4 else weights[0][None]
    taps = _windows(text, v, kernel.shape[:2])
    found = np.asarray(sum(read[..., None] * kernel[a, b] for a, b, read in taps))
    found = found.reshape(*found.shape[:-2], -1)
    return found + (weights[1] if len(weights) > 1 else 0.0)


def _average_pool(text: Text, weights: list[np.ndarray], v: np.ndarray) -> np.ndarray:
    taps = [read for *_, read in _windows(text, v, text["size"])]
    return np.mean(taps, axis=0)


def _pick(text: Text, weights: list[np.ndarray], v: np.ndarray) -> np.ndarray:
    entries = [
        part
        for *_, read in _windows(text, v, text["size"])
        for part in np.split(read, text["slots"], axis=-1)
    ]
    minus = text["minus"] or [None] * len(text["plus"])
    return np.concatenate(
        [
            entries[i] if j is None else entries[i] - entries[j]
            for i, j in zip(text["plus"], minus, strict=True)
        ],
        axis=-1,
    )


def _take(text: Text, weights: list[np.ndarray], v: np.ndarray) -> np.ndarray:
    axis, nothing = text["axis"] + 1, np.zeros_like(np.take(v, [0], text["axis"] + 1))
    return np.take(np.concatenate([v, nothing], axis), text["indices"], axis)


def _permute(text: Text, weights: list[np.ndarray], v: np.ndarray) -> np.ndarray:
    return v.transpose(0, *(axis + 1 for axis in text["order"]))


def _normalised(text: Text, weights: list[np.ndarray], v: np.ndarray) -> np.ndarray:
    own = dict(zip(text["parts"], weights, strict=True))
    if text["op"] == "standardise":
        divisor = np.maximum(np.sqrt(own["variance"]), text["epsilon"])
    else:
        divisor = np.sqrt(own["variance"] + text["epsilon"])
    return own.get("scale", 1.0) * (v - own["mean"]) / divisor + own.get("centre", 0.0)


_MEANINGS: dict[str, Meaning] = {
    "relu": lambda text, weights, v: np.maximum(v, 0.0),
    "add": lambda text, weights, *v: np.sum(v, axis=0),
    "dense": _dense,
    "conv": _conv,
    "turned_conv": _turned_conv,
    "depthwise_conv": _depthwise_conv,
    "average_pool": _average_pool,
    "pick": _pick,
    "pad": lambda text, weights, v: np.pad(v, ((0, 0), *text["padding"], (0, 0))),
    "take": _take,
    "permute": _permute,
    "reshape": lambda text, weights, v: v.reshape(len(v), *text["shape"]),
    "scale": lambda text, weights, v: np.array(text["scale"]) * v + np.array(text["shift"]),
    "slope": lambda text, weights, v: weights[0] * v,
    "complement": lambda text, weights, v: (1.0 - weights[0]) * v,
    "standardise": _normalised,
    "batch_norm": _normalised,
}
