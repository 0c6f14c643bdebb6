"""Points of a ball that try to beat a bound: drawn at random, and climbing uphill.

NumPy alone, and exact gradients of the matrix oracle: nothing here shares code with the library.
"""

import numpy as np


def project(points, x, eps, norm, box):
    """Points of the ball: `points` pulled towards `x`, never out of it."""
    shift = points - x
    if norm == "linf":
        shift = np.clip(shift, -eps, eps)
    else:
        size = np.linalg.norm(shift, {"l2": 2, "l1": 1}[norm], axis=-1, keepdims=True)
        shift = shift * np.minimum(1.0, eps / np.maximum(size, 1e-300))
    points = x + shift
    return points if box is None else np.clip(points, *box)


def corners(rng, x, eps, norm, box, count=60):
    """Random points of the ball, most of them at its border: [count, size]."""
    direction = rng.normal(size=(count, x.size))
    if norm == "linf":
        direction = np.where(rng.random((count, 1)) < 0.7, np.sign(direction), direction)
    elif norm == "l1":
        direction = np.where(rng.random(direction.shape) < 1.5 / x.size, direction, 0.0)
    far = project(x + 1e3 * direction, x, eps, norm, box)
    inner = rng.random((count, 1)) < 0.2
    return np.where(inner, project((far + x) / 2, x, eps, norm, box), far)


def ascend(net, rows, x, eps, norm, box, starts, steps=5, node=-1):
    """Steps uphill on `row . value(node)` from each start, each as large as the ball.

    Args:
      net: an `oracles.Net`.
      rows: [n, outputs of the node], one for each start.
      x, eps, norm, box: the ball.
      starts: [n, size].
      steps: how many.
      node: whose value is climbed; the logits by default.

    Returns:
      Every point on the way, [(steps + 1) n, size].
    """
    found = [starts]
    for k in range(steps):
        slope = net.gradient(found[-1], rows, node)
        if norm == "linf":
            step = np.sign(slope) * eps
        elif norm == "l1":
            largest = np.abs(slope) == np.abs(slope).max(-1, keepdims=True)
            step = np.where(largest, np.sign(slope), 0.0) * eps
        else:
            size = np.linalg.norm(slope, axis=-1, keepdims=True)
            step = slope * eps / np.maximum(size, 1e-300)
        found.append(project(found[-1] + 2.0 * step / (k + 1), x, eps, norm, box))
    return np.concatenate(found)
