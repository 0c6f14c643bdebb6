"""Gurobi, an optional extra: `gurobipy` is imported when it is asked for."""

from __future__ import annotations

import importlib

import numpy as np

from robustra_tf.exact.solver import Answer, Question, judge, undecided


class Gurobi:
    """Answers by Gurobi on the exact programme, as `Highs` does by HiGHS."""

    name = "gurobi"

    def __init__(self, threads: int = 1):
        """Imports gurobipy.

        Raises:
          ImportError: it is not installed.
        """
        try:
            self._gurobi = importlib.import_module("gurobipy")
        except ImportError as error:
            raise ImportError(
                "solver: expected the package gurobipy to be installed for 'gurobi', got none; "
                "'branch' and 'highs' need nothing more"
            ) from error
        self._threads = threads

    def decide(self, question: Question, seconds: float) -> Answer:
        """See `Solver`."""
        try:
            return self._decide(question, seconds)
        except (self._gurobi.GurobiError, AttributeError, RuntimeError, ValueError) as error:
            return undecided(f"Gurobi failed: {error}")

    def _decide(self, question: Question, seconds: float) -> Answer:
        gurobi, encoding = self._gurobi, question.encoding
        programme = encoding.mixed()
        with gurobi.Env(empty=True) as environment:
            environment.setParam("OutputFlag", 0)
            environment.start()
            with gurobi.Model(env=environment) as model:
                kinds = np.where(programme.integer, gurobi.GRB.BINARY, gurobi.GRB.CONTINUOUS)
                columns = model.addMVar(
                    len(programme.lower), programme.lower, programme.upper, vtype=kinds
                )
                for end, sense in ((programme.row_lower, ">"), (programme.row_upper, "<")):
                    rows = np.flatnonzero(np.isfinite(end))
                    model.addMConstr(programme.matrix.tocsr()[rows], columns, sense, end[rows])
                own = question.cost
                cost = np.r_[own, np.zeros(len(programme.lower) - len(own))]
                model.setObjective(cost @ columns + question.shift, gurobi.GRB.MINIMIZE)
                model.setParam("Threads", self._threads)
                model.setParam("TimeLimit", max(seconds, 0.0))
                model.setParam("BestBdStop", question.tolerance)
                model.setParam("BestObjStop", -question.tolerance)
                if question.start is not None:
                    start = encoding.assignment(question.start)
                    on = start[encoding.column(encoding.unstable)] > 0
                    columns.Start = np.r_[start, on]
                model.optimize()
                stopped = (
                    gurobi.GRB.OPTIMAL,
                    gurobi.GRB.TIME_LIMIT,
                    gurobi.GRB.USER_OBJ_LIMIT,
                )
                # Any other status, "infeasible" too, says nothing: the clean image is feasible.
                bound = model.ObjBound if model.Status in stopped else -np.inf
                point = encoding.image(np.asarray(columns.X)) if model.SolCount else None
                reason = f"Gurobi: status {model.Status}"
                return judge(question, bound, point, int(model.NodeCount), 1, reason)
