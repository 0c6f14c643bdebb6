"""A property of few inputs, decided by splitting their box until every part of it is closed.

A part is closed by a float64 bound above the tolerance of `Probe.scale`, for each group of
conditions. What is left of it is cut to the half spaces that the bounds leave, and halved; the
halves keep one of these, in which their ReLUs are bounded: on the hardest property of ACAS Xu that
takes less than a tenth of the parts that it takes without. Which input is halved: the one whose
width costs the bounds most, by the slope of the margins and by the share that the input has in the
ranges of the ReLUs, weighted by what their lines may be off. On ACAS Xu that takes a third of the
parts that slope times width takes.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from robustra_tf.bounds.boxes import Bounded
from robustra_tf.bounds.clips import Clip
from robustra_tf.evidence.steps import CROWN
from robustra_tf.exact.boxtree import BoxRecord
from robustra_tf.exact.boxwork import BoxWork, box_rules, box_work, ruled_work, widest_relu
from robustra_tf.exact.case import Case
from robustra_tf.exact.grouped import Grouped
from robustra_tf.exact.halfspaces import HalfSpaces, closes
from robustra_tf.exact.probe import Probe
from robustra_tf.exact.regions import Cuts, Pool, Regions
from robustra_tf.exact.verdict import Status, Verdict

#: Inputs that move, up to which their box is split where nothing else is asked for.
FEW_INPUTS = 16
#: ReLUs of a network up to which their phases are searched instead.
FEW_RELUS = 64
# Boxes of a batch, points of it that descent moves, and points that are replayed by the model.
_MOST, _MOVED, _REPLAYED = 4096, 64, 2
# What looseness of the ReLUs counts beside slope times width.
_LOOSENESS = 0.25
# How far the same value may be off by another way to compute it, of the values added up.
_ROUNDING = 1e-9


def moving(case: Case) -> np.ndarray:
    """The places of the flattened input that are not fixed, [k]."""
    low, high = case.inputs.intervals(case.flat)
    return np.flatnonzero(low < high)


def splits(case: Case) -> bool:
    """Whether this case is decided by splitting: as its task says, else by the two numbers.

    Rules of boxes know no maxima: where there are some, a proof is one of phases.
    """
    if case.task.split is not None:
        return case.task.split
    structure = case.task.network.structure
    if case.proof is not None and structure.maxima:
        return False
    relus = sum(math.prod(structure.nodes[i].op.out_shape) for i in structure.relus)
    few = len(moving(case)) <= FEW_INPUTS
    return case.inputs.norm == "linf" and few and relus > FEW_RELUS


def split(case: Case, probe: Probe) -> Verdict:
    """The verdict; its seconds are left to the caller.

    Raises:
      ValueError: a norm other than `linf`; or what is bounded is not the network: see `Probe`.
    """
    if case.inputs.norm != "linf":
        raise ValueError(f"solver: split needs norm linf, got {case.inputs.norm!r}")
    return _Split(case, probe).run()


class _Split:
    """The search of one case."""

    def __init__(self, case: Case, probe: Probe):
        self.case, self.probe = case, probe
        self.conditions = Grouped.of(case, probe)
        low, high = case.inputs.intervals(case.flat)
        places = moving(case)
        still = np.where(low < high, 0.0, low).reshape(case.image.shape)
        self.network = (
            case.task.network.weights,
            tf.constant(still, tf.float64),
            tf.constant(places, tf.int32),
        )
        self.still, self.places = still.ravel(), places
        structure, proven = case.task.network.structure, case.proof is not None
        self.work: BoxWork = (ruled_work if proven else box_work)(structure, len(places))
        groups = len(self.conditions.numbers)
        self.record = BoxRecord(groups) if proven else None
        # What any rules may leave on either side counts where none may go without a row.
        self.least_crossing = widest_relu(structure) if proven else 0
        whole = Regions.whole(low[places], high[places], groups, self.least_crossing)
        self.pool = Pool(whole)
        self.nodes = self.atoms = self.unstable = 0
        self.root: np.ndarray | None = None

    def run(self) -> Verdict:
        """Until the pool is empty, a point is found or the time is up."""
        while len(self.pool):
            if time.monotonic() >= self.case.deadline:
                return self._verdict(Status.TIMEOUT, "time limit")
            falsified = self._batch()
            if falsified is not None:
                return falsified
            if self.atoms and self.case.task.split is None:
                break
        if self.atoms:
            text = f"{self.atoms} boxes as small as float32's numbers are left"
            return self._verdict(Status.UNKNOWN, text)
        if self.case.proof is not None and self.record is not None:
            steps = box_rules(self.case.task.network.structure)
            groups = tuple(self.conditions.numbers)
            self.case.proof.boxes(self.record.tree(groups, steps, (CROWN,)))
        return self._verdict(Status.VERIFIED, "")

    def _verdict(self, status: Status, reason: str) -> Verdict:
        """What all of it came to."""
        worst, margin = None, None
        if self.root is not None:
            found = np.where(np.isfinite(self.root), self.root, -np.inf)
            place = int(found.argmin())
            worst, margin = self.conditions.numbers[place], float(found[place])
            if status is Status.VERIFIED:
                # Each part of each group is above the tolerance of one of its conditions.
                margin = max(margin, float(self.conditions.least.min()))
            margin = margin if np.isfinite(margin) else None
        verdict = Verdict(status, margin, worst, None, 0.0, reason=reason)
        return self._with_work(verdict)

    def _batch(self) -> Verdict | None:
        """Bounds some boxes, closes what they close, puts back halves of the others."""
        conditions, rows = self.conditions, len(self.conditions.distinct)
        batch = self.pool.next(_MOST, self.work.rows // 2, rows)
        ends, clip = (batch.low, batch.high), Clip(*map(tf.constant, batch.half_space))
        found = self.work.bound(
            *self.network, *map(tf.constant, ends), clip, tf.constant(conditions.distinct)
        )
        slope = -found.slope.numpy()[:, conditions.which] * batch.radius[:, None]
        value = -found.constant.numpy()[:, conditions.which] - conditions.offset
        spaces = HalfSpaces(value - conditions.least, slope, conditions.groups)
        if self.root is None:
            self._check_root(found, spaces)
        self.nodes += batch.boxes
        falsified = self._attacked(batch, spaces)
        if falsified is not None:
            return falsified
        if self.record is None:
            taken = self._cut(batch, spaces)
        else:
            bounds = self._certain(found, spaces)
            self.record.close(batch.node, batch.open & closes(bounds))
            left = batch.open & ~closes(bounds)
            taken = batch._replace(open=left, bound=np.where(left, bounds, np.inf).min(1))
        crossing = np.maximum(2.0 * found.crossing.numpy(), self.least_crossing)
        taken = taken._replace(crossing=crossing)
        loose = found.loose.numpy()[:, conditions.which]
        score = self._score(taken.open, np.abs(slope) + _LOOSENESS * loose)
        self._halve(taken, score)
        return None

    def _cut(self, batch: Regions, spaces: HalfSpaces) -> Regions:
        """What of the boxes is left, with the best row that says so for their halves."""
        index, middle, radius = np.arange(batch.boxes), batch.middle, batch.radius
        with np.errstate(invalid="ignore", over="ignore"):
            bounds, cut = spaces.left(batch.open, batch.half_space)
            row = spaces.best(cut.open.argmax(1))
            value, slope = spaces.value[index, row], spaces.slope[index, row]
            normal = np.divide(slope, radius, out=np.zeros_like(slope), where=radius > 0)
            offset = value - (normal * middle).sum(1)
            largest = np.maximum(np.abs(batch.low), np.abs(batch.high))
            size = np.abs(offset) + (np.abs(normal) * largest).sum(1)
        # What is unsafe lies deeper in it than rounding reaches, or it does not count.
        holds = (cut.open.sum(1) == 1) & (_ROUNDING * size < self.conditions.least[row])
        return batch._replace(
            low=np.maximum(middle + radius * cut.low, batch.low),
            high=np.minimum(middle + radius * cut.high, batch.high),
            open=cut.open,
            bound=np.where(cut.open, bounds, np.inf).min(1),
            offset=np.where(holds, offset, 0.0),
            normal=np.where(holds[:, None], normal, 0.0),
        )

    def _certain(self, found: Bounded, spaces: HalfSpaces) -> np.ndarray:
        """What the best row of each group says, [n, g]; nothing where that hangs on rounding."""
        best = self.conditions.groups.join(np.maximum, spaces.least)
        return np.where(found.ties.numpy()[:, None] > 0, -np.inf, best)

    def _halve(self, regions: Regions, score: np.ndarray) -> None:
        """Puts back halves of what is open."""
        kept = np.any(regions.open, 1)
        regions = regions.take(kept)
        cuts = regions.cuts(score[kept])
        whole = cuts.entry >= 0
        self.atoms += int((~whole).sum())
        regions, cuts = regions.take(whole), Cuts(*(part[whole] for part in cuts))
        if not regions.boxes:
            return
        nodes = np.zeros(2 * regions.boxes, int)
        if self.record is not None:
            nodes = self.record.split(regions.node, self.places[cuts.entry], cuts.at)
        self.pool.put(regions.halves(cuts, nodes))

    def _score(self, open_groups: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The mean over the rows [n, r, k] of what is open; 0 for what is no number."""
        weight = self.conditions.groups.each(open_groups.astype(np.float64))[..., None]
        return np.nan_to_num((values * weight).sum(1), nan=0.0, posinf=0.0, neginf=0.0)

    def _check_root(self, found: Bounded, spaces: HalfSpaces) -> None:
        """Refuses bounds of the whole box that the network's own values are outside of."""
        conditions, structure = self.conditions, self.case.task.network.structure
        ends = [tuple(end.numpy()[0].ravel() for end in both) for both in found.ends]
        self.probe.check_bounds(dict(zip(structure.relus, ends, strict=True)))
        least = spaces.least[0] + conditions.least
        self.probe.check_margins(conditions.rows, least + conditions.offset)
        self.unstable = int(found.crossing.numpy()[0])
        self.root = conditions.groups.join(np.maximum, least[None])[0]

    def _attacked(self, batch: Regions, spaces: HalfSpaces) -> Verdict | None:
        """Falsified by a point of the batch: middles, corners by the slopes, descent from these."""
        conditions, index = self.conditions, np.arange(batch.boxes)
        groups = conditions.groups
        # The group that is the most open, and the row of it that keeps it out best.
        best = groups.join(np.maximum, np.nan_to_num(spaces.least, nan=-np.inf))
        group = np.where(batch.open, best, np.inf).argmin(1)
        own, row = groups.owned(group), spaces.best(group)
        corner = np.where(spaces.slope[index, row] > 0, batch.low, batch.high)
        points = np.concatenate([batch.middle, corner])
        margins = self._margins(points)
        self._check(margins, spaces, batch, corner)
        far = np.where(np.tile(own, (2, 1)), margins, -np.inf).max(1)
        order = np.argsort(far)[:_MOVED]
        box = order % batch.boxes
        unsafe = (conditions.rows, conditions.offset, np.where(own[box], 0.0, np.inf))
        ends = tuple(map(tf.constant, (batch.low[box], batch.high[box])))
        given = (tf.constant(points[order]), ends, tuple(map(tf.constant, unsafe)))
        moved = self.work.descend(*self.network, *given).numpy()
        candidates = np.concatenate([points[order], moved])
        found = groups.join(np.maximum, np.concatenate([margins[order], self._margins(moved)]))
        worst = found.min(1)
        order = np.argsort(worst)[:_REPLAYED]
        falsified = self.case.replayed(self._images(candidates[order[worst[order] <= 0]]))
        if falsified is None:
            return None
        return self._with_work(falsified)

    def _with_work(self, verdict: Verdict) -> Verdict:
        """The verdict with what it took."""
        return dataclasses.replace(
            verdict, unstable=self.unstable, nodes=self.nodes, search="split"
        )

    def _margins(self, points: np.ndarray) -> np.ndarray:
        outputs = self.work.outputs(*self.network, tf.constant(points)).numpy()
        return self.conditions.margins(outputs)

    def _check(
        self, margins: np.ndarray, spaces: HalfSpaces, batch: Regions, corner: np.ndarray
    ) -> None:
        """Refuses bounds above the margins [2 n, r] in the middles and in the corners.

        In those that count for their boxes, that is.
        """
        at = (corner - batch.middle) / np.maximum(batch.radius, np.finfo(float).tiny)
        value, slope = batch.half_space
        counts = np.concatenate([value <= 0, value + (slope * at).sum(1) <= 0])
        bound = np.concatenate(
            [spaces.value, spaces.value + np.einsum("nrk,nk->nr", spaces.slope, at)]
        )
        above = bound + self.conditions.least - margins
        size = np.maximum(np.abs(self.conditions.rows).sum(1), 1.0) * self.probe.sizes[-1]
        if (above > _ROUNDING * size)[counts].any():
            raise ValueError(
                "boxes: expected bounds at most the network's own values, got a margin "
                f"{np.nanmax(above[counts]):.3g} below its bound: a fault of the verifier, not a "
                "verdict"
            )

    def _images(self, points: np.ndarray) -> Iterable[np.ndarray]:
        """Whole inputs [n] of what moves."""
        for point in points:
            image = self.still.copy()
            image[self.places] = point
            yield image
