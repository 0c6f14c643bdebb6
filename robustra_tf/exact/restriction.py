"""The network on one ball: what its stable ReLUs leave of it.

Where every pre-activation keeps its sign over the ball, a ReLU is the identity or zero, and layers
melt into one affine map. What is left of a certifiably trained network is often a hundredth of its
neurons. Everything that `robustra_tf.exact` does with an image, it does with this small network.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp

# Relative widening of computed bounds, far above float64 rounding and far below what matters.
SLACK = 1e-10
# Of the largest power of two that a unit is scaled by, so that products neither vanish nor grow.
_EXPONENT = 300


@dataclasses.dataclass(frozen=True, eq=False)
class Restriction:
    """`z = W u + c` with `u = (x, h)`, and logits `V u + d`, equal to the network's on the ball.

    A hidden unit is an unstable ReLU, `h = max(z, 0)`, or, where that keeps the matrices sparse, a
    pre-activation under its own name, `h = z`. Units come in groups: one reads only pixels and
    units of earlier groups.

    Attributes:
      low, high: [n] the interval of every pixel, flattened.
      weights: `W`, CSR [m, n + m].
      offset: `c` [m].
      logit_weights: `V`, CSR [classes, n + m].
      logit_offset: `d` [classes].
      relu: boolean [m], whether the unit is a ReLU.
      lower, upper: [m] bounds of `z` over the ball.
      scale: [m] powers of two: the network's own numbers are `scale z` and `scale h`.
      node, neuron: [m] the graph's node, and the row-major number in it, whose value `scale h` is.
      groups: slices of the m units, in order.
    """

    low: np.ndarray
    high: np.ndarray
    weights: sp.csr_array
    offset: np.ndarray
    logit_weights: sp.csr_array
    logit_offset: np.ndarray
    relu: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    scale: np.ndarray
    node: np.ndarray
    neuron: np.ndarray
    groups: tuple[slice, ...]

    @property
    def pixels(self) -> int:
        """The number n of pixels."""
        return len(self.low)

    @property
    def units(self) -> int:
        """The number m of hidden units."""
        return len(self.offset)

    def columns(self, group: slice) -> slice:
        """Where the units of a group stand in `u`."""
        return slice(self.pixels + group.start, self.pixels + group.stop)

    def before(self, number: int) -> Restriction:
        """The groups before that of a number, with its pre-activations for logits."""
        group = self.groups[number]
        units, columns = slice(None, group.start), slice(None, self.pixels + group.start)
        return dataclasses.replace(
            self,
            weights=self.weights[units][:, columns],
            offset=self.offset[units],
            logit_weights=self.weights[group][:, columns],
            logit_offset=self.offset[group],
            relu=self.relu[units],
            lower=self.lower[units],
            upper=self.upper[units],
            scale=self.scale[units],
            node=self.node[units],
            neuron=self.neuron[units],
            groups=self.groups[:number],
        )

    def values(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(`u` [k, n + m], `z` [k, m]) at the inputs `x` [k, n]."""
        u = np.concatenate([x, np.zeros((len(x), self.units))], axis=1)
        z = np.zeros((len(x), self.units))
        for group in self.groups:
            z[:, group] = (self.weights[group] @ u.T).T + self.offset[group]
            positive = np.maximum(z[:, group], 0.0)
            u[:, self.columns(group)] = np.where(self.relu[group], positive, z[:, group])
        return u, z

    def logits(self, x: np.ndarray) -> np.ndarray:
        """The logits [k, classes] at the inputs `x` [k, n]."""
        return (self.logit_weights @ self.values(x)[0].T).T + self.logit_offset

    def gradient(self, x: np.ndarray, row: np.ndarray) -> tuple[float, np.ndarray]:
        """`row u` at the input `x` [n] and its gradient [n] in `x`; `row` [n + m]."""
        u, z = (values[0] for values in self.values(x[None]))
        slope = row.copy()
        for group in reversed(self.groups):
            passed = slope[self.columns(group)] * (~self.relu[group] | (z[group] > 0))
            slope += self.weights[group].T @ passed
        return float(row @ u), slope[: self.pixels]

    def margin(self, c: np.ndarray, d: float = 0.0) -> tuple[np.ndarray, float]:
        """`-(c . logits + d)` as (coefficients on `u` [n + m], constant)."""
        read = np.flatnonzero(c)
        row = -c[read] @ self.logit_weights[read].toarray()
        return row, -(float(c[read] @ self.logit_offset[read]) + d)


def with_intervals(r: Restriction, relus: bool = True) -> Restriction:
    """The restriction with its units' bounds cut to what intervals give in it.

    Args:
      r: the restriction.
      relus: whether those of ReLUs are cut; else those of pre-activations with names of their own
        alone, which have no others.
    """
    lower, upper = r.lower.copy(), r.upper.copy()
    low, high = (np.concatenate([end, np.zeros(r.units)]) for end in (r.low, r.high))
    for group in r.groups:
        rows = r.weights[group]
        centre = rows @ (0.5 * (low + high)) + r.offset[group]
        reach = abs(rows) @ (0.5 * (high - low))
        # A hair wider than the arithmetic: what was rounded must still be inside.
        reach += SLACK * (abs(rows) @ np.maximum(abs(low), abs(high)) + abs(r.offset[group]))
        if relus or not r.relu[group].any():
            lower[group] = np.maximum(lower[group], centre - reach)
            upper[group] = np.minimum(upper[group], centre + reach)
        for end, bound in ((low, lower), (high, upper)):
            cut = np.where(r.relu[group], np.maximum(bound[group], 0.0), bound[group])
            end[r.columns(group)] = cut
    return dataclasses.replace(r, lower=lower, upper=upper)


def normalised(r: Restriction) -> Restriction:
    """The same network with every unit in units of its own, so that its bounds are of about one.

    What is compared with a fixed tolerance, by a linear solver above all, then means the same in
    networks of small and of large numbers. Powers of two round nothing.
    """
    exponent = np.frexp(np.maximum(abs(r.lower), abs(r.upper)))[1]
    scale = np.ldexp(1.0, np.clip(exponent, -_EXPONENT, _EXPONENT))
    columns = sp.diags_array(np.concatenate([np.ones(r.pixels), scale]))
    return dataclasses.replace(
        r,
        weights=sp.csr_array(sp.diags_array(1.0 / scale) @ r.weights @ columns),
        offset=r.offset / scale,
        logit_weights=sp.csr_array(r.logit_weights @ columns),
        lower=r.lower / scale,
        upper=r.upper / scale,
        scale=r.scale * scale,
    )
