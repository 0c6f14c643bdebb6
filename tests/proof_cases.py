"""Small proofs, found and written by NumPy alone: for tests of what checks them.

A prover of the plainest kind: every tree splits the unit whose triangle is largest, until random
slopes and multipliers close its leaves. It picks multipliers by the bounds that the checker
derives; that these hold is tested against points, fractions and other relaxations.
"""

import hashlib
import itertools
import json

import numpy as np

from eval.checker.knowledge import Knowledge, Subject
from eval.checker.network import Network
from eval.checker.sets import Region, ball
from eval.checker.slopes import CROWN, Given, Slopes
from eval.checker.steps import Asked, Step, follow, margins, weighed_margins

CLASSES = 3


def _normal(rng, *shape):
    fan_in = int(np.prod(shape[:-1])) if len(shape) > 1 else 1
    scale = 1.5 / np.sqrt(fan_in) if len(shape) > 1 else 0.3
    return (scale * rng.normal(size=shape)).astype(np.float32)


def dense(seed=0, sizes=(4, 6, 5, CLASSES)):
    """Operations and weights of a network of dense layers."""
    rng = np.random.default_rng(seed)
    operations, weights = [{"op": "input", "shape": [sizes[0]]}], []
    for a, b in itertools.pairwise(sizes):
        k = len(weights)
        if k:
            operations.append({"op": "relu", "inputs": [len(operations) - 1], "weights": []})
        layer = {"op": "dense", "inputs": [len(operations) - 1], "weights": [k, k + 1]}
        operations.append(layer)
        weights += [_normal(rng, a, b), _normal(rng, b)]
    return operations, weights


def conv(seed=1):
    """A padded convolution with strides, and a dense head."""
    rng = np.random.default_rng(seed)
    window = {"strides": [2, 2], "padding": [[1, 1], [1, 1]]}
    operations = [
        {"op": "input", "shape": [4, 4, 1]},
        {"op": "conv", "inputs": [0], "weights": [0, 1], **window},
        {"op": "relu", "inputs": [1], "weights": []},
        {"op": "reshape", "inputs": [2], "weights": [], "shape": [8]},
        {"op": "dense", "inputs": [3], "weights": [2, 3]},
        {"op": "relu", "inputs": [4], "weights": []},
        {"op": "dense", "inputs": [5], "weights": [4]},
    ]
    shapes = [(3, 3, 1, 2), (2,), (8, 4), (4,), (4, CLASSES)]
    return operations, [_normal(rng, *shape) for shape in shapes]


def residual(seed=2):
    """Two dense branches from one ReLU, added up; inputs scaled first."""
    rng = np.random.default_rng(seed)
    relu = {"op": "relu", "weights": []}
    operations = [
        {"op": "input", "shape": [4]},
        {"op": "scale", "inputs": [0], "weights": [], "scale": [2, 1, 3, 0.5], "shift": 0.1},
        {"op": "dense", "inputs": [1], "weights": [0, 1]},
        {**relu, "inputs": [2]},
        {"op": "dense", "inputs": [3], "weights": [2]},
        {**relu, "inputs": [4]},
        {"op": "dense", "inputs": [5], "weights": [3, 4]},
        {"op": "add", "inputs": [3, 6, 2], "weights": []},
        {**relu, "inputs": [7]},
        {"op": "dense", "inputs": [8], "weights": [5]},
    ]
    shapes = [(4, 5), (5,), (5, 4), (4, 5), (5,), (5, CLASSES)]
    return operations, [_normal(rng, *shape) for shape in shapes]


NETWORKS = {"dense": dense, "conv": conv, "residual": residual}


def sha256(operations, weights):
    """The hash of a network, by the format's description."""
    inner = hashlib.sha256()
    for weight in weights:
        inner.update(f"{weight.dtype.str}{list(weight.shape)}".encode() + weight.tobytes())
    text = json.dumps(operations, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256((text + inner.hexdigest()).encode()).hexdigest()


def evaluate(nodes, x):
    """Outputs [n, classes] at points, in float64."""
    values = [np.asarray(x, np.float64)]
    for node in nodes[1:]:
        inputs = [values[i] for i in node.inputs]
        relu = node.op == "relu"
        values.append(np.maximum(inputs[0], 0.0) if relu else node.op.forward(*inputs))
    return values[-1]


def pair_sets(label):
    """The conditions of a label."""
    others = np.delete(np.arange(CLASSES), label)
    rows = np.eye(CLASSES)[others]
    rows[:, label] -= 1.0
    return Asked(rows, np.zeros(len(others))), others


class Tree:
    """A tree of phases for one condition, found depth first."""

    def __init__(self, known, asked, rng, most=40):
        self.known, self.asked, self.rng, self.most = known, asked, rng, most
        self.split, self.leaves, self.unit = [], [], np.arange(known.subject.starts[-1])
        self.closed = self._grow([])

    def _grow(self, path):
        if len(self.leaves) > self.most:
            return False
        alpha, beta, bound = self._best(path)
        if bound > 1e-6:
            self.split.append(-1)
            self.leaves.append((path, alpha, beta))
            return True
        scores = self._scores(path)
        unit = int(scores.argmax())
        if scores[unit] <= 0:
            return False
        self.split.append(unit)
        return self._grow([*path, (unit, 1)]) and self._grow([*path, (unit, -1)])

    def _scores(self, path):
        ends = [np.concatenate([b[k].ravel() for b in self.known.bounds]) for k in (0, 1)]
        scores = np.where((ends[0] < 0) & (ends[1] > 0), np.minimum(-ends[0], ends[1]), -1.0)
        scores[[unit for unit, _ in path]] = -1.0
        return scores

    def bound(self, path, alpha, beta):
        """What multipliers give."""
        row = np.zeros(len(path), np.int64)
        units, signs = (np.array([p[k] for p in path], np.int64) for k in (0, 1))
        given = Given(self.unit, alpha[None], row, units, signs, beta).take(0, 1)
        slopes = Slopes(self.known, CROWN, given)
        return float(weighed_margins(self.known, self.asked, np.ones((1, 1)), slopes)[0, 0])

    def _best(self, path, trials=25):
        alpha = self.rng.uniform(size=len(self.unit)).astype(np.float32)
        best = alpha, np.zeros(len(path), np.float32), -np.inf
        for trial in range(trials):
            alpha, beta = (part.copy() for part in best[:2])
            if trial:
                change = self.rng.random(len(alpha)) < 0.3
                alpha[change] = self.rng.uniform(size=change.sum())
                change = self.rng.random(len(beta)) < 0.4
                beta[change] = self.rng.exponential(0.3, change.sum())
            bound = self.bound(path, alpha, beta)
            if bound > best[2]:
                best = alpha, beta, bound
        return best

    def arrays(self):
        """As the format has them, without a name."""
        paths = [path for path, _, _ in self.leaves]
        return {
            "split": np.array(self.split, np.int32),
            "unit": self.unit.astype(np.int32),
            "alpha": np.stack([alpha for _, alpha, _ in self.leaves]),
            "beta": np.concatenate([beta for _, _, beta in self.leaves]).astype(np.float32),
            "weight": np.ones((len(paths), 1), np.float32),
        }


def steps(relus, rule="crown"):
    """Bounds of all ReLUs by intervals, and by rows behind the first."""
    found = [[0, "interval"]]
    for k in range(1, relus):
        found += [[k, "interval"], [k, rule]]
    return found


class Case:
    """An example of a network: its set and label, and what steps make known."""

    def __init__(self, name="dense", seed=0, eps=0.1, norm="linf", box=(0.0, 1.0), rule="crown"):
        self.name, self.seed = name, seed
        self.operations, self.weights = NETWORKS[name](seed)
        self.nodes = Network(self.operations, self.weights).nodes
        self.subject = Subject(self.nodes)
        self.rng = np.random.default_rng(seed)
        shape = self.operations[0]["shape"]
        self.x = self.rng.uniform(0.1, 0.9, size=shape).astype(np.float32)
        self.label = int(evaluate(self.nodes, self.x[None]).argmax())
        walls = None if box is None else tuple(np.full((1, *shape), end) for end in box)
        radius = np.full((1, *shape) if norm == "linf" else (1,), eps)
        x = self.x[None].astype(np.float64)
        self.region = ball(norm, x, radius, walls, self.subject.rounding)
        self.bounds = steps(len(self.subject.relus), rule)
        self.asked, self.groups = pair_sets(self.label)
        self.text = {
            "position": None,
            "verdict": "verified",
            "stage": "test",
            "norm": norm,
            "eps": eps,
            "box": None if box is None else list(box),
            "label": self.label,
            "bounds": self.bounds,
            "margins": ["crown"],
            "trees": [],
        }
        self.arrays = {"0/x": self.x}

    def known(self, region=None):
        """What the steps make known of a set."""
        known = Knowledge(self.subject, region or self.region)
        follow(known, [Step(k, rule, None) for k, rule in self.bounds])
        return known

    def file(self):
        """Header and arrays of a file that holds the network."""
        return file(self.operations, self.weights, [self.text], self.arrays)


def by_phases(name="dense", seed=0, eps=0.1, **options):
    """A proof by rows, and trees of phases where they do not do; None where none is found."""
    case = Case(name, seed, eps, **options)
    known = case.known()
    open_ = margins(known, case.asked, CROWN)[0] <= 1e-6
    for group in case.groups[open_]:
        tree = Tree(known, case.asked.take(case.groups == group), case.rng)
        if not tree.closed:
            return None
        own = f"0/t{len(case.text['trees'])}/"
        case.arrays |= {own + key: value for key, value in tree.arrays().items()}
        case.text["trees"].append({"kind": "phases", "group": int(group), "bounds": []})
    return case.file()


def by_rows(name="dense", seed=0, eps=0.1):
    """A proof whose bounds have slopes of their own, in bytes; None where it does not close."""
    case = Case(name, seed, eps)
    last = len(case.subject.relus) - 1
    size, units = case.subject.sizes[last], case.subject.starts[last]
    neuron = np.repeat(np.arange(size, dtype=np.int32), 2)
    alpha = case.rng.integers(0, 256, (len(neuron), units)).astype(np.uint8)
    end = np.tile(np.int8([1, -1]), size)
    unit = np.arange(units, dtype=np.int32)
    rows = {"neuron": neuron, "end": end, "unit": unit, "alpha": alpha}
    case.arrays |= {f"0/r0/{key}": value for key, value in rows.items()}
    if (margins(case.known(), case.asked, CROWN)[0] <= 1e-6).any():
        return None
    case.text["bounds"] = [*case.bounds, [last, "rows", 0]]
    return case.file()


def by_boxes(seed=0, eps=0.2, most=60):
    """A proof by boxes, of a network of few inputs; None where it takes too many."""
    case = Case("dense", seed, eps)
    split, at, closes = [], [], []
    pending = [(case.region.low[0], case.region.high[0])]
    while pending:
        low, high = pending.pop()
        least = margins(case.known(whole(low, high)), case.asked, CROWN)[0]
        done = bool((least > 1e-6).all())
        closes.append([done] * len(case.groups))
        if done:
            split.append(-1)
            continue
        if len(split) > most:
            return None
        entry = int((high - low).argmax())
        split.append(entry)
        at.append(float(np.float32(low[entry] + high[entry]) / 2))
        above, below = low.copy(), high.copy()
        above[entry] = below[entry] = at[-1]
        pending += [(low, below), (above, high)]
    tree = {"kind": "boxes", "groups": case.groups.tolist()}
    case.text["trees"] = [tree | {"bounds": case.bounds, "margins": ["crown"]}]
    case.text |= {"bounds": [], "margins": []}
    own = {"split": np.int32(split), "at": np.float64(at), "closes": np.uint8(closes)}
    case.arrays |= {f"0/t0/{key}": value for key, value in own.items()}
    return case.file()


def falsified(name="dense", seed=0, eps=0.3):
    """A counterexample among corners; None where there is none."""
    case = Case(name, seed, eps)
    signs = case.rng.choice([-1, 1], (2000, *case.x.shape))
    points = np.clip(case.x + signs * (eps - 1e-6), 0, 1).astype(np.float32)
    margin = evaluate(case.nodes, points)
    gap = margin.max(1) - margin[:, case.label]
    if gap.max() < 1e-3:
        return None
    case.text |= {"verdict": "falsified", "bounds": [], "margins": []}
    case.arrays["0/point"] = points[int(gap.argmax())]
    return case.file()


def by_property(seed=0, eps=0.1):
    """Two groups of two conditions each, of which weights mix one tree's; None where it fails."""
    case = Case("dense", seed, eps)
    known, rng = case.known(), case.rng
    rows = rng.normal(size=(4, CLASSES))
    values = evaluate(case.nodes, case.x[None])[0]
    # In each group one condition is far from holding.
    offset = -(rows @ values) + np.where(np.arange(4) % 2, 0.1, -1.5)
    asked, group = Asked(rows, offset), np.int32([0, 0, 1, 1])
    weight, unit = np.float32([[1.0, 0.05]]), np.arange(case.subject.starts[-1])
    nothing = np.zeros(0, np.int64)
    case.text |= {"label": None, "eps": None, "box": "given", "margins": [], "trees": []}
    shape = case.x.shape
    case.arrays |= {"0/radius": np.full(shape, eps), "0/low": np.zeros(shape)}
    case.arrays |= {"0/high": np.ones(shape), "0/rows": rows, "0/offset": offset, "0/group": group}
    for k in range(2):
        alpha = rng.uniform(size=(1, len(unit))).astype(np.float32)
        given = Given(unit, alpha, nothing, nothing, nothing, np.zeros(0)).take(0, 1)
        slopes = Slopes(known, CROWN, given)
        if weighed_margins(known, asked.take(group == k), weight, slopes)[0, 0] <= 1e-6:
            return None
        tree = {"split": np.int32([-1]), "unit": unit.astype(np.int32), "alpha": alpha}
        tree |= {"beta": np.zeros(0, np.float32), "weight": weight}
        case.arrays |= {f"0/t{k}/{key}": value for key, value in tree.items()}
        case.text["trees"].append({"kind": "phases", "group": k, "bounds": []})
    return case.file()


def several():
    """One proof of every kind, by name."""
    asked = {
        "margins": lambda: by_phases("conv", 1),
        "wk": lambda: by_phases("conv", 2, 0.05, rule="wk"),
        "phases": lambda: by_phases("dense", 10, 0.3),
        "phases l1": lambda: by_phases("conv", 10, 0.5, norm="l1"),
        "phases l2": lambda: by_phases("dense", 10, 0.3, norm="l2"),
        "phases residual": lambda: by_phases("residual", 8, 0.2),
        "rows": lambda: by_rows("dense", 0),
        "boxes": lambda: by_boxes(0, 0.3),
        "falsified": lambda: falsified("dense", 2),
        "property": lambda: by_property(1),
    }
    return {name: make() for name, make in asked.items()}


def file(operations, weights, examples, arrays):
    """Header and arrays of a file that holds its network."""
    header = {
        "format": "robustra_tf proof",
        "version": 1,
        "network": operations,
        "network_sha256": sha256(operations, weights),
        "examples": examples,
    }
    return header, {f"weight_{k}": w for k, w in enumerate(weights)} | arrays


def written(path, header, arrays):
    """The file; its path."""
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez_compressed(path, header=text, **arrays)
    return path


def whole(low, high):
    """A box as a region of one set."""
    return Region(np.asarray(low, np.float64)[None], np.asarray(high, np.float64)[None])
