"""The exact least margin of a tiny network: one linear programme for each activation pattern.

Nothing here shares code with `robustra_tf.exact`: matrices are dense, every piece of the network is
an affine function with the half-spaces where it holds, and SciPy's HiGHS minimises on each.
"""

import itertools

import numpy as np
from scipy.optimize import linprog


class TooManyPiecesError(Exception):
    """More activation patterns than the caller wants to pay for."""


def pieces(net, low, high, most):
    """The affine pieces of `net` on a box: (logit matrix, logit offset, rows, right sides) each.

    A piece holds where `rows x <= right sides`; pieces may be empty.
    """
    found = []
    start = (np.eye(net.size), np.zeros(net.size))
    _grow(net, [start], (np.zeros((0, net.size)), np.zeros(0)), low, high, found, most)
    return found


def _grow(net, values, region, low, high, found, most):
    if len(values) == len(net.nodes):
        found.append((*values[-1], *region))
        if len(found) > most:
            raise TooManyPiecesError
        return
    kind, sources, matrix, bias = net.nodes[len(values)]
    inputs = [values[k] for k in sources]
    if kind == "affine":
        value = (matrix @ inputs[0][0], matrix @ inputs[0][1] + bias)
        _grow(net, [*values, value], region, low, high, found, most)
    elif kind == "add":
        value = tuple(sum(parts) for parts in zip(*inputs, strict=True))
        _grow(net, [*values, value], region, low, high, found, most)
    else:
        slope, offset = inputs[0]
        least = np.minimum(slope * low, slope * high).sum(1) + offset
        most_of = np.maximum(slope * low, slope * high).sum(1) + offset
        open_ = np.flatnonzero((least < 0) & (most_of > 0))
        if 2 ** len(open_) > most:
            raise TooManyPiecesError
        for on in itertools.product((False, True), repeat=len(open_)):
            active = least >= 0
            active[open_] = on
            sign = np.where(on, -1.0, 1.0)
            rows = np.concatenate([region[0], sign[:, None] * slope[open_]])
            ends = np.concatenate([region[1], -sign * offset[open_]])
            value = (slope * active[:, None], offset * active)
            _grow(net, [*values, value], (rows, ends), low, high, found, most)


def least_margin(net, x, label, low, high, l1_radius=None, most=64, targets=None):
    """`min_x' min_t f_label - f_t` over the box, and the l_1 ball where its radius is given.

    All other classes are targets unless they are named. On a piece the margin is affine: its least
    value over the whole box says which pieces cannot hold a smaller one than was found.
    """
    waiting = []
    for matrix, offset, rows, ends in pieces(net, low, high, most):
        if np.any(_least(rows, low, high) > ends):
            continue  # nowhere in the box
        for target in range(len(offset)) if targets is None else targets:
            if target != label:
                cost, constant = matrix[label] - matrix[target], offset[label] - offset[target]
                waiting.append((_least(cost, low, high) + constant, cost, constant, rows, ends))
    best = np.inf
    for below, cost, constant, rows, ends in sorted(waiting, key=lambda piece: piece[0]):
        if below >= best:
            break
        best = min(best, _minimum(cost, rows, ends, x, low, high, l1_radius) + constant)
    return best


def _least(rows, low, high):
    """The least value of each row over the box, whatever else holds."""
    return np.minimum(rows * low, rows * high).sum(-1)


def _minimum(cost, rows, ends, x, low, high, l1_radius):
    """The least `cost x'` where `rows x' <= ends` in the ball; infinite where nothing is."""
    n, bounds = len(cost), list(zip(low, high, strict=True))
    if l1_radius is not None:
        one = np.eye(n)
        rows = np.block(
            [
                [rows, np.zeros((len(rows), n))],
                [one, -one],
                [-one, -one],
                [np.zeros((1, n)), np.ones((1, n))],
            ]
        )
        ends = np.concatenate([ends, x, -x, [l1_radius]])
        bounds += [(0, None)] * n
        cost = np.concatenate([cost, np.zeros(n)])
    given = (rows, ends) if len(rows) else (None, None)
    solved = linprog(cost, *given, bounds=bounds, method="highs")
    if solved.status == 2:
        return np.inf
    if solved.status != 0:
        raise RuntimeError(f"HiGHS: {solved.message}")
    return solved.fun


def least_of_greatest(net, x, rows, offset, low, high, l1_radius=None, most=64):
    """`min_x' max_i -(c_i . f + d_i)` over the box, and the l_1 ball where its radius is given.

    One linear programme a piece, with one more column `t` that is at least each of them.
    """
    best, n = np.inf, net.size
    for matrix, shift, region, ends in pieces(net, low, high, most):
        costs, constants = -rows @ matrix, -(rows @ shift + offset)
        above = np.c_[costs, -np.ones(len(costs))]
        inside = np.c_[region, np.zeros(len(region))]
        blocks, sides = [above, inside], [-constants, ends]
        bounds = [*zip(low, high, strict=True), (None, None)]
        count = n + 1
        if l1_radius is not None:
            one = np.c_[np.eye(n), np.zeros((n, 1))]
            blocks = [np.c_[block, np.zeros((len(block), n))] for block in blocks]
            blocks += [np.c_[one, -np.eye(n)], np.c_[-one, -np.eye(n)]]
            blocks += [np.r_[np.zeros(count), np.ones(n)][None]]
            sides += [x, -x, [l1_radius]]
            bounds += [(0, None)] * n
        cost = np.zeros(len(bounds))
        cost[n] = 1.0
        solved = linprog(cost, np.concatenate(blocks), np.concatenate(sides), bounds=bounds)
        if solved.status not in (0, 2):
            raise RuntimeError(f"HiGHS: {solved.message}")
        best = min(best, solved.fun) if solved.status == 0 else best
    return best
