"""The relaxed networks as a linear programme, solved by SciPy's HiGHS.

Variables: the perturbed input and every node's value. An unstable ReLU `z -> v` with bounds
`l < 0 < u` and slope `d = u / (u - l)` is the strip `d z <= v <= d (z - l)`, whose dual is
Equation 8: both have the same optimum, by a route with no backward pass in it. Other slopes of the
lower line give CROWN's relaxation; all of them at once, with the bounds kept, the triangle
`max(0, z) <= v <= d (z - l)`, which is the least convex set that holds a ReLU between its bounds.
"""

import numpy as np
from scipy.optimize import linprog

from tests.oracles import Enclosure, relaxation


class Programme:
    """`max sum_k rows_k.f_k(x')` over the ball and the relaxations of one or two networks."""

    def __init__(
        self,
        first: Enclosure,
        second: Enclosure | None = None,
        lower_slopes=None,
        triangle: bool = False,
    ):
        """Both networks read the same input; their ball is that of `first`.

        `lower_slopes` holds one array per ReLU where the lower lines are not parallel to the upper;
        `triangle` takes every neuron's triangle instead.
        """
        self._lower_slopes, self._triangle = lower_slopes, triangle
        self._columns = 0
        self._equal: list = []  # (coefficients {column: value}, right-hand side)
        self._at_most: list = []
        self._bounds: list = []
        inputs = self._ball(first)
        self.logits = [
            self._network(enclosure, inputs) for enclosure in (first, second) if enclosure
        ]

    def _variables(self, count, lower=None, upper=None) -> np.ndarray:
        lower = np.full(count, -np.inf) if lower is None else lower
        upper = np.full(count, np.inf) if upper is None else upper
        self._bounds += list(zip(lower, upper, strict=True))
        self._columns += count
        return np.arange(self._columns - count, self._columns)

    def _ball(self, ball: Enclosure) -> np.ndarray:
        low, high = ball.x - ball.eps, ball.x + ball.eps
        if ball.box is not None:
            low, high = np.maximum(low, ball.box[0]), np.minimum(high, ball.box[1])
        inputs = self._variables(ball.x.size, low, high)
        if ball.norm == "l1":
            sizes = self._variables(ball.x.size, np.zeros(ball.x.size))
            for column, size, value in zip(inputs, sizes, ball.x, strict=True):
                self._at_most.append(({column: 1.0, size: -1.0}, value))
                self._at_most.append(({column: -1.0, size: -1.0}, -value))
            self._at_most.append((dict.fromkeys(sizes, 1.0), ball.eps))
        elif ball.norm != "linf":
            raise ValueError(f"a linear programme holds l_inf and l1 balls, not {ball.norm}")
        return inputs

    def _network(self, found: Enclosure, inputs) -> np.ndarray:
        columns, relu = [inputs], 0
        for kind, sources, matrix, bias in found.net.nodes[1:]:
            before = columns[sources[0]]
            if kind == "affine":
                matrix = np.asarray(matrix.todense()) if hasattr(matrix, "todense") else matrix
                after = self._variables(len(bias))
                for row, column, constant in zip(matrix, after, bias, strict=True):
                    terms = {k: -value for k, value in zip(before, row, strict=True) if value}
                    self._equal.append((terms | {column: 1.0}, constant))
            elif kind == "add":
                after = self._variables(len(before))
                for k, column in enumerate(after):
                    terms = {columns[source][k]: -1.0 for source in sources}
                    self._equal.append((terms | {column: 1.0}, 0.0))
            else:
                after = self._variables(len(before))
                slopes, lows = relaxation(found.lower[relu], found.upper[relu])
                below = slopes if self._lower_slopes is None else self._lower_slopes[relu]
                self._relu(before, after, slopes, lows, below)
                if self._triangle:
                    self._keep(before, after, found.lower[relu], found.upper[relu])
                relu += 1
            columns.append(after)
        return columns[-1]

    def _relu(self, before, after, slopes, lowers, below):
        for z, v, slope, low, flat in zip(before, after, slopes, lowers, below, strict=True):
            if low == 0.0:  # stable: the identity or zero
                self._equal.append(({v: 1.0, z: -slope}, 0.0))
            else:
                self._at_most.append(({v: -1.0, z: flat}, 0.0))
                self._at_most.append(({v: 1.0, z: -slope}, -slope * low))

    def _keep(self, before, after, lowers, uppers):
        """Every neuron within its bounds, and its ReLU above 0 and above the neuron."""
        for z, v, low, high in zip(before, after, lowers, uppers, strict=True):
            self._bounds[z] = (low, high)
            self._at_most.append(({v: -1.0}, 0.0))
            self._at_most.append(({v: -1.0, z: 1.0}, 0.0))

    def _dense(self, constraints) -> tuple[np.ndarray, np.ndarray]:
        matrix = np.zeros((len(constraints), self._columns))
        for k, (terms, _) in enumerate(constraints):
            matrix[k, list(terms)] = list(terms.values())
        return matrix, np.array([right for _, right in constraints])

    def maximum(self, row, network=0, reference=None) -> float:
        """`max row.f` over the programme; -inf where it is infeasible.

        Args:
          row: over the logits of `network`.
          network: 0 or 1, whose logits `row` weighs.
          reference: `(row, t)`, the further constraint `row.g >= t` on network 1.
        """
        objective = np.zeros(self._columns)
        objective[self.logits[network]] = row
        at_most = list(self._at_most)
        if reference is not None:
            weights = dict(zip(self.logits[1], -np.asarray(reference[0]), strict=True))
            at_most.append((weights, -reference[1]))
        left, right = self._dense(at_most) if at_most else (None, None)
        equal, constants = self._dense(self._equal)
        found = linprog(
            -objective, left, right, equal, constants, bounds=self._bounds, method="highs"
        )
        if found.status == 2:
            return -np.inf
        if found.status != 0:
            raise RuntimeError(f"HiGHS: {found.message}")
        return -found.fun

    def agreement(self, row) -> float:
        """`max min(row.f, row.g)` over the programme of two networks: how far both can prefer."""
        count, objective = self._columns + 1, np.zeros(self._columns + 1)
        objective[-1] = 1.0
        left = np.zeros((len(self._at_most) + 2, count))
        right = np.zeros(len(left))
        if self._at_most:
            left[:-2, :-1], right[:-2] = self._dense(self._at_most)
        for at, logits in zip((-2, -1), self.logits, strict=True):
            left[at, logits], left[at, -1] = -np.asarray(row), 1.0
        equal, constants = self._dense(self._equal)
        equal = np.pad(equal, ((0, 0), (0, 1)))
        bounds = [*self._bounds, (None, None)]
        found = linprog(-objective, left, right, equal, constants, bounds=bounds, method="highs")
        if found.status != 0:
            raise RuntimeError(f"HiGHS: {found.message}")
        return -found.fun
