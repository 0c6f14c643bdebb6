"""Sums that are maxima, by the dense matrices of a network: `b + relu(a - b)`."""

import numpy as np


def ends(net, add, found):
    """The interval of the maximum that the sum of node `add` is, from those of all nodes before it.

    None where it is none that two selections of one node, or two nodes, are seen in.
    """
    _, sources, *_ = net.nodes[add]
    for relu, base in (sources, sources[::-1]) if len(sources) == 2 else ():
        if net.nodes[relu][0] != "relu":
            continue
        pair = _selections(net, net.nodes[relu][1][0], base) or _nodes(net, relu, base)
        if pair is not None:
            lows, highs = zip(
                *(
                    tuple(end if rows is None else rows @ end for end in found[node])
                    for node, rows in pair
                ),
                strict=True,
            )
            return np.maximum(*lows), np.maximum(*highs)
    return None


def _selects(matrix):
    return set(np.unique(matrix)) <= {0.0, 1.0} and (matrix.sum(1) == 1).all()


def _selections(net, difference, base):
    """Both affine in one node, by matrices `A - B` and `B` that each take one entry a row."""
    (kind, sources, one, offset), (other, others, second, shift) = (
        net.nodes[difference],
        net.nodes[base],
    )
    if not (kind == other == "affine" and sources == others and not offset.any()):
        return None
    second = np.asarray(second)
    first = np.asarray(one) + second
    if shift.any() or not (_selects(first) and _selects(second)):
        return None
    return (sources[0], first), (sources[0], second)


def _nodes(net, relu, base):
    """`a - b` as the sum of `a` and `-1 b`."""
    kind, sources, *_ = net.nodes[net.nodes[relu][1][0]]
    if kind != "add" or len(sources) != 2:
        return None
    for first, negative in (sources, sources[::-1]):
        kind, read, matrix, shift = net.nodes[negative]
        affine = kind == "affine" and read == (base,) and not shift.any()
        if affine and np.array_equal(np.asarray(matrix), -np.eye(len(shift))):
            return (first, None), (base, None)
    return None
