"""The boxes of a search as a tree: what it is written down as, where a proof is kept."""

from __future__ import annotations

import numpy as np

from robustra_tf.evidence.steps import BoxTree, Step


class BoxRecord:
    """Which boxes were split where, and which groups were closed on them; 0 is the whole box."""

    def __init__(self, groups: int):
        """Nothing is split yet.

        Args:
          groups: how many there are.
        """
        self._count = 1
        self._split: list[tuple[np.ndarray, ...]] = []
        self._closed: list[tuple[np.ndarray, np.ndarray]] = [
            (np.zeros(0, int), np.zeros((0, groups), bool))
        ]

    def close(self, node: np.ndarray, closed: np.ndarray) -> None:
        """Groups [n, g] are closed on the boxes of the nodes [n]."""
        self._closed.append((node, closed))

    def split(self, node: np.ndarray, entry: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Splits boxes [n] along entries of the input; gives the halves' nodes.

        Returns:
          [2 n]: of the halves above `at`, then of those below.
        """
        first = self._count + 2 * np.arange(len(node))
        self._count += 2 * len(node)
        self._split.append((node, entry, at, first))
        return np.concatenate([first, first + 1])

    def tree(
        self, groups: tuple[int, ...], bounds: tuple[Step, ...], margins: tuple[str, ...]
    ) -> BoxTree:
        """All of it in preorder; the arguments are those of `BoxTree`."""
        entry, child = np.full(self._count, -1), np.zeros(self._count, int)
        at = np.zeros(self._count)
        for node, entries, values, first in self._split:
            entry[node], at[node], child[node] = entries, values, first
        order, pending = [], [0]
        while pending:
            node = pending.pop()
            order.append(node)
            if entry[node] >= 0:
                # The last one is taken first: that above.
                pending += [child[node] + 1, child[node]]
        split = entry[order]
        nodes, closed = (np.concatenate(parts) for parts in zip(*self._closed, strict=True))
        closes = np.zeros((self._count, closed.shape[1]), np.uint8)
        closes[nodes] = closed
        return BoxTree(
            groups, bounds, margins, split.astype(np.int32), at[order][split >= 0], closes[order]
        )
