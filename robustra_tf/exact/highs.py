"""HiGHS: linear programmes one after the other, and mixed-integer ones."""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast

import highspy
import numpy as np

from robustra_tf.exact.encoding import Programme
from robustra_tf.exact.solver import Answer, Question, judge, undecided

_STATUS = highspy.HighsModelStatus


class Solved(NamedTuple):
    """What HiGHS leaves of a linear programme.

    Attributes:
      status: HiGHS's word for it.
      values: [columns], or None; feasible only where the status is "Optimal".
      duals: [rows] of the objective, or None.
      ray: [rows] that shows infeasibility, up to its sign, or None.
    """

    status: str
    values: np.ndarray | None
    duals: np.ndarray | None
    ray: np.ndarray | None


class _Rays(Protocol):
    """What HiGHS has and its declarations leave out."""

    def getDualRay(self) -> tuple[highspy.HighsStatus, bool, np.ndarray]:  # noqa: N802, its name
        """Whether there is one, and the ray [rows]."""
        ...


class LinearProgrammes:
    """One programme solved again and again by the dual simplex method, each time from the last.

    Only the columns' bounds and the cost change, so a solve takes few iterations.
    """

    def __init__(self, programme: Programme, threads: int = 1):
        """Hands the programme to HiGHS, without integrality."""
        self._highs = _loaded(programme, threads, integer=False)
        # Presolve would throw away the basis that the next solve starts from.
        _option(self._highs, "presolve", "off")
        _option(self._highs, "solver", "simplex")
        self._rows = len(programme.row_lower)
        self._columns = np.arange(len(programme.lower), dtype=np.int32)

    def aim(self, cost: np.ndarray, stop_above: float = np.inf) -> None:
        """The cost [columns] to minimise, and the bound at which a solve may stop."""
        self._highs.changeColsCost(len(cost), self._columns, cost)
        _option(self._highs, "objective_bound", stop_above)

    def solve(self, lower: np.ndarray, upper: np.ndarray, seconds: float) -> Solved:
        """Minimises with the columns in [lower, upper], in about `seconds` at most.

        Of no column at all, as where every unit is dead, HiGHS says that the model is empty.
        """
        if not len(lower):
            return Solved("Optimal", np.zeros(0), np.zeros(self._rows), None)
        highs = self._highs
        highs.changeColsBounds(len(self._columns), self._columns, lower, upper)
        for attempt in range(2):
            if attempt:
                highs.clearSolver()
            # HiGHS counts the time of all its runs together.
            _option(highs, "time_limit", highs.getRunTime() + max(seconds, 0.0))
            highs.run()
            status = highs.getModelStatus()
            if status in (_STATUS.kOptimal, _STATUS.kObjectiveBound):
                found = highs.getSolution()
                values, duals = np.array(found.col_value), np.array(found.row_dual)
                if len(values) == len(lower) and len(duals) == self._rows:
                    return Solved(status.name[1:], values, duals, None)
            elif status == _STATUS.kInfeasible:
                _, has, ray = cast(_Rays, highs).getDualRay()
                return Solved("Infeasible", None, None, np.array(ray) if has else None)
            elif status == _STATUS.kTimeLimit:
                break
        return Solved(status.name[1:], None, None, None)


class Highs:
    """Answers by HiGHS's mixed-integer solver on the exact programme.

    The margin is minimised until its dual bound is above the question's tolerance or a point is
    well below zero. The clean image is feasible, so "infeasible" is an error here and no proof.
    """

    name = "highs"

    def __init__(self, threads: int = 1):
        """Takes the number of threads a solve may use."""
        self._threads = threads

    def decide(self, question: Question, seconds: float) -> Answer:
        """See `Solver`."""
        try:
            return self._decide(question, seconds)
        except (RuntimeError, ValueError, TypeError) as error:
            return undecided(f"HiGHS failed: {error}")

    def _decide(self, question: Question, seconds: float) -> Answer:
        encoding = question.encoding
        programme = encoding.mixed()
        cost = np.zeros(len(programme.lower))
        own = question.cost
        cost[: len(own)] = own
        highs = _loaded(programme, self._threads, integer=True)
        highs.changeColsCost(len(cost), np.arange(len(cost), dtype=np.int32), cost)
        _option(highs, "time_limit", seconds)
        _option(highs, "objective_target", -question.shift - question.tolerance)
        enough = question.tolerance - question.shift

        def stop(event: highspy.HighsCallbackEvent) -> None:
            if event.data_out.mip_dual_bound > enough:
                event.interrupt()

        highs.cbMipInterrupt.subscribe(stop)
        if question.start is not None:
            highs.setSolution(_solution(encoding, question.start, len(cost)))
        highs.run()
        info, status = highs.getInfo(), highs.getModelStatus().name[1:]
        bound = -np.inf
        if status == "ModelEmpty":
            bound = question.shift
        elif status in ("Optimal", "TimeLimit", "Interrupt", "ObjectiveTarget"):
            bound = info.mip_dual_bound + question.shift
        # An infinite bound comes of an infeasible programme, which this one cannot be.
        bound = bound if np.isfinite(bound) else -np.inf
        values = np.array(highs.getSolution().col_value)
        point = encoding.image(values) if len(values) and np.isfinite(values).all() else None
        return judge(question, bound, point, max(info.mip_node_count, 0), 1, f"HiGHS: {status}")


class _Silent(highspy.Highs):
    """HiGHS that prints nothing: its banner comes while callbacks are set up, before any option."""

    def enableCallbacks(self) -> None:  # noqa: N802
        """Switches the output off first."""
        self.silent()
        super().enableCallbacks()


def _solution(encoding, start: np.ndarray, columns: int) -> highspy.HighsSolution:
    """The values of all columns at an input; the binary of a unit says whether `h` is on."""
    values = encoding.assignment(start)
    binaries = values[encoding.column(encoding.unstable)] > 0
    solution = highspy.HighsSolution()
    solution.col_value = np.r_[values, binaries].tolist()
    return solution


def _loaded(programme: Programme, threads: int, integer: bool) -> highspy.Highs:
    highs = _Silent()
    _option(highs, "threads", threads)
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = programme.matrix.shape
    model.col_cost_ = np.zeros(len(programme.lower))
    model.col_lower_, model.col_upper_ = programme.lower, programme.upper
    model.row_lower_, model.row_upper_ = programme.row_lower, programme.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = programme.matrix.indptr
    model.a_matrix_.index_ = programme.matrix.indices
    model.a_matrix_.value_ = programme.matrix.data
    if integer:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        model.integrality_ = [kinds[flag] for flag in programme.integer.astype(int)]
    if highs.passModel(model) == highspy.HighsStatus.kError:
        raise RuntimeError("HiGHS refused the programme")
    return highs


def _option(highs: highspy.Highs, name: str, value) -> None:
    if highs.setOptionValue(name, value) == highspy.HighsStatus.kError:
        raise RuntimeError(f"HiGHS refused the option {name} = {value!r}")
