"""The searches for radii: every image's own bracket, whole batches at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from robustra_tf.attacks import Attack
from robustra_tf.attacks.nearest import Nearest
from robustra_tf.attacks.replay import distances, replayed
from robustra_tf.bounds.balls import Box
from robustra_tf.certificates.brackets import Brackets, Search
from robustra_tf.exact.verdict import Status
from robustra_tf.exact.verifier import Verifier
from robustra_tf.property import by_labels

#: Of the margin at the image, what is guessed to be left at the certified radius.
_LEFT = 1 / 3
#: How many steps the descent has for each of an attack.
_DESCENT = 2
#: How often the way from an image to a point that is classified wrongly is halved.
_HALVINGS = 8

#: Called with a number of images that were just finished.
Done = Callable[[int], None]


class Images(NamedTuple):
    """Images [n, *shape] with labels [n], the balls about them, and how far radii are searched."""

    x: np.ndarray
    y: np.ndarray
    norm: str
    box: Box | None
    search: Search

    def certified(self, margins: Callable, clean: np.ndarray, size: int, done: Done) -> np.ndarray:
        """The certified radii [n].

        Args:
          margins: `(x, y, eps) -> least margins [n]`, of whole batches with radii [n, 1, ...].
          clean: the least margin of each image itself; only those above 0 are looked at.
          size: images in a batch.
          done: called with the number of images that were just finished.
        """
        going = np.flatnonzero(clean > 0)
        size = min(size, len(going))

        def evaluate(index: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            # Balls of like size take like work; the last batch is filled up by repetition.
            order = np.argsort(radii, kind="stable")
            order = np.resize(order, -(-len(order) // size) * size)
            chosen, least = going[index[order]], np.empty(len(index))
            least[order] = margins(self.x[chosen], self.y[chosen], self._by_image(radii[order]))
            return radii, least

        brackets = Brackets.of(np.zeros(len(going)), clean[going])
        done(len(clean) - len(going))
        brackets.narrow(evaluate, self.search, done)
        low = np.zeros(len(clean))
        low[going] = brackets.low
        return low

    def _by_image(self, radii: np.ndarray) -> np.ndarray:
        """[n] as [n, 1, ...]."""
        return radii.reshape(-1, *[1] * (self.x.ndim - 1))

    def attacked(
        self,
        attack: Attack,
        model: Callable,
        low: np.ndarray,
        clean: np.ndarray,
        high: np.ndarray,
        done: Done,
    ) -> np.ndarray:
        """The radii [n] of the nearest points found that are classified wrongly, else `high`.

        One descent looks for near points of all images; then attacks at radii below what was found
        close the brackets.

        Args:
          attack: to find them by, of images on which its model was compared already.
          model: that is attacked.
          low: the certified radii.
          clean: the least margins of the images themselves.
          high: 0 where an image is misclassified; these are left alone.
          done: called with the number of images that were just finished.
        """
        going = np.flatnonzero(high > 0)
        steps = _DESCENT * attack.steps
        nearest = Nearest(attack.network, self.norm, self.box, self.search.limit, steps)

        def moved(index: np.ndarray, points: np.ndarray, won: np.ndarray) -> np.ndarray:
            """How far the points are, those classified wrongly as near as they stay so."""
            x, y = images[index], self.y[going[index]]
            points[won] = self._nearer(model, x[won], points[won], y[won])
            return distances(x, points, self.norm)

        def evaluate(index: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            chosen = going[index]
            query = by_labels(images[index], self.y[chosen], self._by_image(radii), *ball)
            found = attack.of(query, query, chosen)
            values = np.where(found.success, 0.0, np.maximum(-found.margin, np.finfo(float).tiny))
            away = moved(index, found.adversarial, found.success)
            return np.where(found.success, away, radii), values

        images, ball = self.x[going].astype(np.float32), (self.norm, self.box)
        brackets = Brackets.of(low[going], _LEFT * clean[going])
        brackets.other[:], brackets.other_value[:] = 0.0, clean[going]
        done(len(high) - len(going))
        points = nearest(images, self.y[going])
        anywhere = by_labels(images, self.y[going], np.inf, *ball)
        won = replayed(model, anywhere, points).success
        hit = np.flatnonzero(won)
        away = moved(np.arange(len(going)), points, won)
        brackets.record(hit, away[hit], np.zeros(len(hit)))
        brackets.narrow(evaluate, self.search, done)
        high = high.copy()
        high[going] = brackets.high
        return high

    def _nearer(
        self, model: Callable, x: np.ndarray, points: np.ndarray, y: np.ndarray
    ) -> np.ndarray:
        """The points, moved straight to their images while they are classified wrongly."""
        shape = (-1, *[1] * (x.ndim - 1))
        near, far = np.zeros(len(x), np.float32), np.ones(len(x), np.float32)
        anywhere = by_labels(x, y, np.inf, self.norm, self.box)
        for _ in range(_HALVINGS):
            share = 0.5 * (near + far)
            tried = x + share.reshape(shape) * (points - x)
            won = replayed(model, anywhere, tried).success
            near, far = np.where(won, near, share), np.where(won, share, far)
        tried = x + far.reshape(shape) * (points - x)
        return np.where((far < 1).reshape(shape), tried, points)

    def decided(
        self, verifier: Verifier, low: np.ndarray, high: np.ndarray, done: Done
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both radii, halved by complete verification until they are within the tolerance."""
        ends = [self._decided(verifier, at, low[at], high[at], done) for at in range(len(low))]
        low, high = np.array(ends).reshape(-1, 2).T
        return low, high

    def _decided(
        self, verifier: Verifier, at: int, low: float, high: float, done: Done
    ) -> tuple[float, float]:
        x, limit = self.x[at : at + 1].astype(np.float32), self.search.limit
        while min(high, limit) - low > self.search.tolerance:
            radius = 0.5 * (low + min(high, limit))
            if np.isinf(high):
                radius = min(radius, float(self.search.reach(np.array(low))))
            verdict = verifier.verify(x[0], self.y[at], radius)
            if verdict.status is Status.VERIFIED:
                low = radius
            elif verdict.witness is not None:
                high = float(distances(x, verdict.witness[None], self.norm)[0])
            else:
                break
        done(1)
        return low, high
