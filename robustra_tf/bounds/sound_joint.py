"""Joint bounds of two networks with every rounding error subtracted.

`bounds.sound` has of each network `c . f(x') <= base + rows . (x' - centre)`, for the network in
real numbers and for its float32 forward pass. Of two such bounds any mix with weights at least 0
bounds the mix of the margins, whatever the weights are: only the sums of the mix round anew. A
float32 pass of both networks that prefers the target in both has both margins at least 0, and so
every mix.
"""

from __future__ import annotations

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.joint import JointMargins, chosen
from robustra_tf.bounds.mix import Affine, best_share, reach
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.rounding import TINY, UNIT64
from robustra_tf.bounds.sound import SoundRows, sound_interval_margins, sound_margins
from robustra_tf.graph.graph import Network

#: Relative, of a handful of float64 roundings.
_FEW = 16 * UNIT64


def sound_joint_margins(
    f: Network, g: Network, region: Ball, y: tf.Tensor, method: str, options: BoundOptions
) -> JointMargins:
    """As `joint_margins`, for the networks in real numbers and for their float32 forward passes.

    Args:
      f, g: with float64 tensors of their float32 weights.
      region: as `outward_ball` gives it, without intervals beside an `l2` or `l1` ball.
      y: labels, integers [n].
      method: `dual` or `interval`.
      options: how rows are computed.
    """
    if method == "interval":
        proofs = [sound_interval_margins(network, region, y) for network in (f, g)]
    else:
        proofs = [sound_margins(network, region, y, options) for network in (f, g)]
    of_f, of_g = (proof.rows for proof in proofs)
    mixed = None
    if of_f is not None and of_g is not None:
        mixed = _mixed(of_f, of_g, region)
    bands: list[list] = []
    for network, proof in zip((f, g), proofs, strict=True):
        own = [proof.bands[k] for k in network.structure.relus]
        bands.append([(each.lower, each.upper) if mixed is None else tuple(each) for each in own])
    return chosen(-proofs[0].lower, -proofs[1].lower, bands, mixed)


def _mixed(f: SoundRows, g: SoundRows, region: Ball) -> tuple[tf.Tensor, tf.Tensor]:
    """An upper bound of the best mix, rounded outward, and the share of f in it."""
    share = best_share(Affine(f.base, f.rows), Affine(g.base, g.rows), region)
    rest = 1.0 - share
    base = share * f.base, rest * g.base
    rows = share[..., None] * f.rows + rest[..., None] * g.rows
    # A coefficient of the mix is off by a few units of what it was added up from.
    most = max(f.share, g.share)
    reached = reach(rows, region) * most
    reached += (most - 1.0) * (share * reach(f.rows, region) + rest * reach(g.rows, region))
    room = _FEW * (tf.abs(base[0]) + tf.abs(base[1]) + reached) + TINY
    return base[0] + base[1] + reached + room, share
