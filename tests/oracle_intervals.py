"""Interval arithmetic in float64 NumPy, node by node: the oracle of the interval bounds."""

import numpy as np

from tests import oracle_maxima
from tests.oracles import target_rows


def intervals(net, x, eps, norm="linf", box=None) -> list:
    """Interval bounds `(lower, upper)` of every node; the ball is that of l_inf, cut to the box.

    The l_2 and l_1 balls lie in the l_inf ball of their radius; for them the box is left out.
    """
    x = np.asarray(x, np.float64).ravel()
    low, high = x - eps, x + eps
    if box is not None and norm == "linf":
        low, high = np.maximum(low, box[0]), np.minimum(high, box[1])
    found = [(low, high)]
    for kind, inputs, matrix, bias in net.nodes[1:]:
        ends = [found[k] for k in inputs]
        if kind == "affine":
            (low, high), positive, negative = ends[0], np.maximum(matrix, 0), np.minimum(matrix, 0)
            low, high = positive @ low + negative @ high, positive @ high + negative @ low
            found.append((low + bias, high + bias))
        elif kind == "relu":
            found.append(tuple(np.maximum(end, 0) for end in ends[0]))
        else:
            largest = oracle_maxima.ends(net, len(found), found)
            found.append(largest or tuple(map(sum, zip(*ends, strict=True))))
    return found


def interval_margins(net, x, y, eps, norm="linf", box=None) -> np.ndarray:
    """Upper bounds of `f_t - f_y`, with the last affine map and the difference as one matrix."""
    found = intervals(net, x, eps, norm, box)
    _, (before,), matrix, bias = net.nodes[-1]
    rows = target_rows(y, len(bias))
    matrix, bias = rows @ np.asarray(matrix), rows @ bias
    low, high = found[before]
    return np.maximum(matrix, 0) @ high + np.minimum(matrix, 0) @ low + bias
