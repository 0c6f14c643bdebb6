"""What a pair must not answer, as conditions on the logits of both networks side by side."""

from __future__ import annotations

import numpy as np

from robustra_tf.conditions import Conditions, Output


def preferred(y: int) -> Output:
    """For no target `t` both networks prefer it to the label: `f_t >= f_y` and `g_t >= g_y`."""
    return _pairwise(y, "both networks never prefer one class to the label", others=False)


def answered(y: int) -> Output:
    """No class other than the label is the greatest logit of both networks, ties included."""
    return _pairwise(y, "both networks never answer one class other than the label", others=True)


def _pairwise(y: int, text: str, others: bool) -> Output:
    """Of every target one group: it beats the label, or all others, in both networks."""

    def made(outputs: int, *parts: np.ndarray) -> Conditions:
        (label,) = (int(part[0]) for part in parts)
        classes = outputs // 2
        one = np.eye(classes)
        rows, group = [], []
        for target in (t for t in range(classes) if t != label):
            beaten = [s for s in range(classes) if s != target] if others else [label]
            for half in (0, classes):
                row = np.zeros((len(beaten), outputs))
                row[:, half : half + classes] = one[target] - one[beaten]
                rows.append(row)
                group += [target] * len(beaten)
        rows = np.concatenate(rows)[None]
        return Conditions(rows, np.zeros(rows.shape[:2]), np.array([group]))

    return Output(text, (np.array([y]),), made)
