"""Trials of a sweep, by Optuna: which are made, ended early, gone on with, and the best of them.

A file of SQLite keeps them; processes that share it draw from what all of them found. Optuna ends
no trial early where there are several objectives, so that this is done here.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from robustra_tf.cli.settings import SettingError
from robustra_tf.cli.stopping import Stop, Stopped
from robustra_tf.training.history import Row
from robustra_tf.training.means import NotFiniteError

from . import trial as trials
from .settings import Task

_NAME, _EARLY, _WHY = "sweep", "early_error", "ended"
#: Fewer trials than these are no measure for one that may be ended.
_ENOUGH = 4
#: Seconds that a process waits for another one to write.
_PATIENCE = 120
_DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def objectives(task: Task) -> tuple[str, ...]:
    """What is minimised, by the names of `trial.Outcome`."""
    return ("clean_error", "certified_error", *(("cost",) if task.sweep.cost else ()))


def opened(task: Task, seed: int = 0) -> optuna.Study:
    """The study of a sweep's folder, made where there is none."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = task.sweep.root.resolve() / "study.db"
    waits = {"connect_args": {"timeout": _PATIENCE}}
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs=waits)
    return optuna.create_study(
        storage=storage,
        study_name=_NAME,
        directions=[StudyDirection.MINIMIZE] * len(objectives(task)),
        sampler=optuna.samplers.TPESampler(seed=seed),
        load_if_exists=True,
    )


def take_up(study: optuna.Study) -> int:
    """Queues again what a process was at when it ended; returns how many trials that are.

    No other process may work on the study.
    """
    left = study.get_trials(states=(TrialState.RUNNING,))
    for one in left:
        study.tell(one.number, state=TrialState.FAIL)
        again(study, one)
    return len(left)


def again(study: optuna.Study, one: FrozenTrial | optuna.Trial) -> None:
    """Queues a trial that broke off, which does not count as one."""
    study.enqueue_trial(one.params)


def made(study: optuna.Study) -> int:
    """How many trials are done, those that broke off left out."""
    broken = [t for t in study.get_trials(states=_DONE) if _broke_off(t)]
    return len(study.get_trials(states=_DONE)) - len(broken)


def _broke_off(one: FrozenTrial) -> bool:
    return one.state is TrialState.FAIL and _WHY not in one.user_attrs


def work(task: Task, count: int, seed: int, stop: Stop) -> None:
    """Makes `count` trials in this process.

    Raises:
      Stopped: it was asked to; the trial under way is queued again.
    """
    study = opened(task, seed)

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        try:
            return _outcome(task, study, trial, stop)
        except Stopped:
            again(study, trial)
            raise

    study.optimize(objective, n_trials=count, catch=(NotFiniteError,))


def _outcome(task: Task, study: optuna.Study, trial: optuna.Trial, stop: Stop) -> tuple[float, ...]:
    drawn = {dimension.name: dimension.draw(trial) for dimension in task.sweep.space}
    try:
        config = task.config(trial.number, drawn)
    except SettingError as error:
        trial.set_user_attr(_WHY, str(error))
        raise optuna.TrialPruned(str(error)) from error
    last = math.ceil(task.sweep.prune_at * config.epochs)

    def judge(row: Row) -> None:
        _look(stop)
        if row.epoch == last < config.epochs:
            error = next(v for k, v in row.values.items() if _certified(k))
            _prune(task, study, trial, error)

    try:
        model = trials.trained(config, judge)
    except NotFiniteError as error:
        trial.set_user_attr(_WHY, str(error))
        raise
    held = trials.held_out(config, task.sweep.judged)
    ball = {"eps": config.eps, "norm": config.norm}
    found = trials.judged(model, held, task.sweep.unstable_by, **ball)._asdict()
    for name, value in found.items():
        trial.set_user_attr(name, value)
    return tuple(found[name] for name in objectives(task))


def _certified(name: str) -> bool:
    return name in ("validation_interval_error", "validation_lp_error")


def _look(stop: Stop) -> None:
    parent = multiprocessing.parent_process()
    if stop.requested or (parent is not None and not parent.is_alive()):
        raise Stopped


def _prune(task: Task, study: optuna.Study, trial: optuna.Trial, error: float) -> None:
    """Ends a trial whose certified error is not among the lowest at its epoch."""
    others = [
        one.user_attrs[_EARLY]
        for one in study.get_trials(deepcopy=False)
        if one.number != trial.number and _EARLY in one.user_attrs and not _broke_off(one)
    ]
    trial.set_user_attr(_EARLY, error)
    if len(others) >= _ENOUGH and error > (least := float(np.quantile(others, task.sweep.keep))):
        why = f"certified error {error:.4f} early, others {least:.4f}"
        trial.set_user_attr(_WHY, why)
        raise optuna.TrialPruned(why)


def rows(task: Task, study: optuna.Study) -> list[dict[str, Any]]:
    """A row for each trial: number, state, what it came to, and what was drawn for it."""
    best, found = {one.number for one in study.best_trials}, []
    for one in study.get_trials(deepcopy=False):
        if _broke_off(one) or one.state is TrialState.WAITING:
            continue
        values: Mapping[str, Any] = one.user_attrs
        row = {"trial": one.number, "state": one.state.name.lower(), "best": one.number in best}
        names = (*trials.Outcome._fields, _EARLY, _WHY)
        row |= {name: values.get(name) for name in names}
        found.append(row | {d.name: one.params.get(d.name) for d in task.sweep.space})
    return found
