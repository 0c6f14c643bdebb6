"""An independent float64 implementation of the bounds: NumPy and matrices, one example at a time.

Nothing here shares code with `robustra_tf`. A network is a list of nodes whose affine maps are
explicit matrices (dense arrays, or SciPy sparse ones where a convolution is large), and every bound
is Equation 8 as it is written: no convolutions, no midpoints, no tangent form. The oracle itself is
held against the values of the authors' implementation in `test_oracles.py`.

Notation, for one row `c` over the outputs: `nuhat` is the coefficient of a pre-activation, `nu`
that of the post-activation behind it, `d = u / (u - l)` the slope of an unstable ReLU with bounds
`l < 0 < u`.
"""

from dataclasses import dataclass, field

import numpy as np
import scipy.optimize
import scipy.sparse

NO_TRANSITION = 1e-7  # |qhat| up to here has no transition (math of section 5.4)


@dataclass
class Net:
    """A network as matrices: node 0 is the input, the last node holds the logits.

    `nodes[k]` is `(kind, inputs, matrix, bias)`, kind one of input, affine, relu, add.
    """

    size: int
    nodes: list = field(default_factory=list)

    def __post_init__(self):
        self.nodes.append(("input", (), None, None))

    def affine(self, matrix, bias, source=None) -> int:
        return self._append("affine", (source,), matrix, bias)

    def relu(self, source=None) -> int:
        return self._append("relu", (source,))

    def add(self, *sources) -> int:
        return self._append("add", sources)

    def _append(self, kind, sources, matrix=None, bias=None) -> int:
        previous = len(self.nodes) - 1
        sources = tuple(previous if source is None else source for source in sources)
        self.nodes.append((kind, sources, matrix, bias))
        return len(self.nodes) - 1

    @property
    def relus(self) -> list[int]:
        return [k for k, node in enumerate(self.nodes) if node[0] == "relu"]

    def values(self, x) -> list[np.ndarray]:
        """Every node's value at `x [n, size]` (or `[size]`)."""
        x = np.asarray(x, np.float64)
        values = []
        for kind, inputs, matrix, bias in self.nodes:
            if kind == "input":
                values.append(x)
            elif kind == "affine":
                values.append(values[inputs[0]] @ matrix.T + bias)
            elif kind == "relu":
                values.append(np.maximum(values[inputs[0]], 0.0))
            else:
                values.append(sum(values[k] for k in inputs))
        return values

    def logits(self, x) -> np.ndarray:
        return self.values(x)[-1]

    def gradient(self, x, rows, node=-1) -> np.ndarray:
        """The gradient of `row . value(node)` at each of `x [n, size]`, each with its row."""
        values = self.values(x)
        slopes = {k: (values[self.nodes[k][1][0]] > 0).astype(float) for k in self.relus}
        lower = {k: np.zeros(slope.shape[-1]) for k, slope in slopes.items()}
        return _backward(self, rows, range(len(self.nodes))[node], slopes, lower)[0]

    def magnitudes(self, x) -> list[np.ndarray]:
        """Sums of absolute values where `values` has sums, at `|x| [size]`: rounding scales by it.

        No value of any point up to `|x|` is larger, nor is a term in any order of summation.
        """
        found = []
        for kind, inputs, matrix, bias in self.nodes:
            if kind == "input":
                found.append(np.abs(np.asarray(x, np.float64)))
            elif kind == "affine":
                found.append(abs(matrix) @ found[inputs[0]] + np.abs(bias))
            else:
                found.append(sum(found[k] for k in inputs))
        return found


def convolution(kernel, bias, shape, stride=1, padding=0):
    """The matrix and bias of a convolution, channels last: `[out, h * w * in]` and `[out]`.

    Args:
      kernel: `[kh, kw, in, out]`.
      bias: `[out]`.
      shape: `(h, w, in)` of the input.
      stride: of both axes.
      padding: zeros at each of the four sides.
    """
    kh, kw, channels, filters = kernel.shape
    height, width, _ = shape
    rows = (height + 2 * padding - kh) // stride + 1
    columns = (width + 2 * padding - kw) // stride + 1
    index = np.arange(height * width * channels).reshape(shape)
    out_index = np.arange(rows * columns * filters).reshape(rows, columns, filters)
    entries, targets, sources = [], [], []
    for row in range(rows):
        for column in range(columns):
            for a in range(kh):
                for b in range(kw):
                    y, x = row * stride - padding + a, column * stride - padding + b
                    if 0 <= y < height and 0 <= x < width:
                        entries.append(kernel[a, b].T.ravel())
                        targets.append(np.repeat(out_index[row, column], channels))
                        sources.append(np.tile(index[y, x], filters))
    matrix = scipy.sparse.csr_array(
        (np.concatenate(entries), (np.concatenate(targets), np.concatenate(sources))),
        shape=(out_index.size, index.size),
    ).astype(np.float64)
    return matrix, np.tile(np.asarray(bias, np.float64).ravel(), rows * columns)


def flattened(weight, shape):
    """A dense matrix whose inputs come in channel, row, column order, for row, column, channel."""
    order = np.arange(np.prod(shape)).reshape(shape[2], shape[0], shape[1]).transpose(1, 2, 0)
    return np.asarray(weight, np.float64)[order.ravel()].T


def assert_close(ours, reference, digits):
    """Equal within `digits` of the mean size of the reference values."""
    ours, reference = np.asarray(ours), np.asarray(reference)
    scale = np.abs(reference).mean()
    np.testing.assert_allclose(ours.ravel(), reference.ravel(), rtol=0, atol=digits * scale)


# The ball


def support(rows, x, eps, norm="linf", box=None) -> np.ndarray:
    """`max rows.x'` over the ball around `x`; the box cuts the l_inf ball only."""
    if box is not None:
        if norm != "linf":
            raise ValueError("the closed form with a box is that of the l_inf ball")
        lo, hi = np.maximum(x - eps, box[0]), np.minimum(x + eps, box[1])
        return np.maximum(rows * lo, rows * hi).sum(-1)
    order = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    return rows @ x + eps * np.linalg.norm(rows, order, axis=-1)


# Wong and Kolter's bounds


def relaxation(lower, upper) -> tuple[np.ndarray, np.ndarray]:
    """Slope `d` and the `l` of the unstable ReLUs (0 where the ReLU is stable)."""
    unstable = (lower < 0) & (upper > 0)
    span = np.where(unstable, upper - lower, 1.0)
    slope = np.where(unstable, upper / span, (lower >= 0).astype(float))
    return slope, np.where(unstable, lower, 0.0)


def _backward(net, rows, node, slopes, lowers) -> tuple[np.ndarray, np.ndarray]:
    """Equation 9 from `node` to the input: `nuhat_1 [rows, size]` and `R [rows]`.

    `R = sum nu_{i+1}.b_i - sum l [nu]_+` over the unstable ReLUs.
    """
    coefficients = {node: np.asarray(rows, np.float64)}
    constant = np.zeros(len(rows))
    for k in range(node, 0, -1):
        if k not in coefficients:
            continue
        kind, inputs, matrix, bias = net.nodes[k]
        coefficient = coefficients.pop(k)
        if kind == "affine":
            constant = constant + coefficient @ bias
            coefficient = coefficient @ matrix
        elif kind == "relu":
            coefficient = slopes[k] * coefficient
            constant = constant - np.maximum(coefficient, 0.0) @ lowers[k]
        for source in inputs:
            coefficients[source] = coefficients.get(source, 0.0) + coefficient
    return coefficients[0], constant


@dataclass
class Enclosure:
    """One example's pre-activation bounds: `lower[k], upper[k]` of the k-th ReLU, and its ball."""

    net: Net
    x: np.ndarray
    eps: float
    norm: str
    box: tuple | None
    lower: list
    upper: list

    def backward(self, rows):
        """`nuhat_1 [rows, size]` and `R [rows]` of rows over the logits."""
        relaxed = [relaxation(low, up) for low, up in zip(self.lower, self.upper, strict=True)]
        slopes = {k: d for k, (d, _) in zip(self.net.relus, relaxed, strict=True)}
        lowers = {k: low for k, (_, low) in zip(self.net.relus, relaxed, strict=True)}
        return _backward(self.net, rows, len(self.net.nodes) - 1, slopes, lowers)

    def upper_bound(self, rows) -> np.ndarray:
        """`U(c)` of Equation 8 without a reference: at least `max c.f` over the ball."""
        nuhat, constant = self.backward(rows)
        return support(nuhat, self.x, self.eps, self.norm, self.box) + constant


def enclose(net, x, eps, norm="linf", box=None) -> Enclosure:
    """Layer-by-layer bounds: the formula with `c = +e_j` and `c = -e_j` for every neuron."""
    x = np.asarray(x, np.float64).ravel()
    slopes, lowers, result = {}, {}, Enclosure(net, x, float(eps), norm, box, [], [])
    for k in net.relus:
        source = net.nodes[k][1][0]
        rows = np.eye(net.values(x)[source].size)
        bounds = []
        for sign in (-1.0, 1.0):
            nuhat, constant = _backward(net, sign * rows, source, slopes, lowers)
            bounds.append(sign * (support(nuhat, x, eps, norm, box) + constant))
        slopes[k], lowers[k] = relaxation(*bounds)
        result.lower.append(bounds[0])
        result.upper.append(bounds[1])
    return result


def target_rows(y, classes=10) -> np.ndarray:
    """`c = e_t - e_y` for every target `t`; the row of `y` itself is 0."""
    rows = np.eye(classes)
    rows[:, y] -= 1.0
    return rows


def margins(net, x, y, eps, norm="linf", box=None) -> np.ndarray:
    """Lower bounds of `f_y - f_t` for every target `t`, `-U_f(e_t - e_y)`."""
    found = enclose(net, x, eps, norm, box)
    return -found.upper_bound(target_rows(y, net.logits(found.x).size))


# Robustra


def transitions(nuhat, qhat) -> np.ndarray:
    """Positive `eta` at which a coordinate of `nuhat + eta qhat` changes its sign, sorted."""
    movable = np.abs(qhat) > NO_TRANSITION
    found = -nuhat[movable] / qhat[movable]
    return np.sort(found[found > 0])


def literal(nuhat, qhat, R_f, R_g, x, eps, eta, t, norm="linf", box=None) -> float:
    """`h_c(eta)` of Equation 8 for any `eta >= 0` and `t`."""
    row = nuhat + eta * qhat
    return float(support(row[None], x, eps, norm, box)[0] + R_f + eta * R_g - eta * t)


def median_eta(nuhat, qhat) -> float:
    """`eta_med`: the lower median of the positive transitions, 0 where there is none."""
    found = transitions(nuhat, qhat)
    return float(found[(len(found) - 1) // 2]) if len(found) else 0.0


@dataclass
class Pair:
    """Robustra's quantities of one example, a vector over the targets each; entry `y` is 0."""

    eta: np.ndarray
    t0: np.ndarray
    h: np.ndarray
    wk: np.ndarray
    positive: np.ndarray
    grad_left: np.ndarray
    grad_right: np.ndarray
    nuhat: np.ndarray
    qhat: np.ndarray
    R_f: np.ndarray
    R_g: np.ndarray
    gamma: np.ndarray

    def literal(self, target, eta, t, x, eps, norm="linf", box=None) -> float:
        k = target
        args = (self.nuhat[k], self.qhat[k], self.R_f[k], self.R_g[k])
        return literal(*args, np.ravel(x), eps, eta, t, norm, box)


def pair(f, g, x, y, eps) -> Pair:
    """`eta_med`, `t0`, the literal `h` and the tightness of section 5.4, for the l_inf ball."""
    x = np.asarray(x, np.float64).ravel()
    rows = target_rows(y, f.logits(x).size)
    nuhat, R_f = enclose(f, x, eps).backward(rows)
    qhat, R_g = enclose(g, x, eps).backward(rows)
    found = {name: np.zeros(len(rows)) for name in Pair.__dataclass_fields__}
    found |= {"nuhat": nuhat, "qhat": qhat, "R_f": R_f, "R_g": R_g}
    found["wk"] = support(nuhat, x, eps) + R_f
    for k in range(len(rows)):
        if k == y:
            continue
        eta = median_eta(nuhat[k], qhat[k])
        signs = np.sign(nuhat[k] + eta * qhat[k])
        if eta > 0:  # at the transition the sign is 0; rounding must not say otherwise
            movable = np.abs(qhat[k]) > NO_TRANSITION
            ratio = np.full(len(x), np.inf)
            np.divide(-nuhat[k], qhat[k], out=ratio, where=movable)
            signs[ratio == eta] = 0.0
        constant = x @ qhat[k] + R_g[k]
        at_zero = np.where(nuhat[k] != 0, np.sign(nuhat[k]) * qhat[k], np.abs(qhat[k])).sum()
        found["gamma"][k] = signs @ qhat[k]
        found["eta"][k] = eta
        found["t0"][k] = eps * found["gamma"][k] + constant
        found["h"][k] = literal(nuhat[k], qhat[k], R_f[k], R_g[k], x, eps, eta, found["t0"][k])
        found["positive"][k] = len(transitions(nuhat[k], qhat[k]))
        found["grad_left"][k] = eps * at_zero + constant
        found["grad_right"][k] = eps * np.abs(qhat[k]).sum() + constant
    return Pair(**found)
