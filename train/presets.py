"""Settings that stand where none are given: of data sets, of methods, and recipes by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustra_tf.data import INFO as DATASETS

DEFAULT_DATASET = "digits"
#: How the paper trains on MNIST (sections 5.5 and 6), all of it.
_PAPER = {
    "method": "robustra",
    "schedule": "alternating",
    "norm": "linf",
    "eps_start": 0.01,
    "eps_warmup_epochs": 20,
    "epochs": 100,
    "batch_size": 50,
    "optimizer": "adam",
    "lr": 1e-3,
    "lr_schedule": "halving",
    "momentum": 0.9,
    "weight_decay": 0.0,
    "clip_norm": 0.0,
    "shift": 0,
    "mirror": False,
}
#: What a data set's own settings are, beside the defaults of `Config`.
OF_DATASET: dict[str, dict[str, Any]] = {
    "digits": {
        "model": "digits_small",
        "eps": 0.1,
        "eps_start": 0.01,
        "eps_warmup_epochs": 6,
        "epochs": 14,
        "lr": 4e-3,  # few and small epochs: an example of about two minutes, not the paper's
        "optimizer": "adam",
        "limit_test": DATASETS["digits"].splits["test"],
    },
    "mnist": _PAPER | {"model": "mnist_small", "eps": 0.1, "limit_test": 1000},
    "cifar10": _PAPER
    | {
        "model": "cifar10_small",
        "eps": 2 / 255,
        # The authors' 0.01 is of images divided by 0.225.
        "eps_start": 0.00225,
        "optimizer": "sgd",
        "weight_decay": 5e-4,
        "clip_norm": 1.0,
        # The paper's crops of images with a border of 4 pixels.
        "shift": 4,
        "mirror": True,
        "limit_test": 1000,
    },
}


def of_data(dataset: str, models: Sequence[str]) -> dict[str, Any]:
    """The settings of a data set; of one that has none of its own the paper's, without a radius.

    Args:
      dataset: its name.
      models: the architectures for its images, the smallest first.
    """
    other = _PAPER | {"model": models[0] if models else None, "limit_test": 1000}
    return dict(OF_DATASET.get(dataset, other))


#: What the methods on intervals take instead where nothing is given (Shi et al. 2021).
BY_INTERVALS = {
    "ramp": "step",
    "init": "interval",
    "regulariser": 0.5,
    "lr_schedule": "cosine",
    "batch_size": 100,
    "eps_start": 0.0,
}
#: The paper's networks by dataset; it estimates the inner layers of the larger ones by so many
#: random vectors.
_PROJECTIONS = {
    "mnist": {"mnist_small": 0, "mnist_large": 50},
    "cifar10": {"cifar10_small": 0, "cifar10_large": 50, "cifar10_resnet": 50},
}
_RADII = {"mnist": {"0.1": 0.1, "0.3": 0.3}, "cifar10": {"2_255": 2 / 255, "8_255": 8 / 255}}


def _paper(dataset: str, model: str, eps: float) -> dict[str, Any]:
    """A row of Table 2 (sections 6 and 5.5): the dataset's settings, spelt out for the model.

    Where bounds are estimated in training, exact ones of a thousand images take longer than the
    epoch before them: they are left to the evaluation of the finished networks.
    """
    settings = OF_DATASET[dataset] | {"model": model, "eps": eps}
    projection = _PROJECTIONS[dataset][model]
    estimated = {"limit_test": 0} if projection else {}
    return {"dataset": dataset, **settings, "projection": projection, **estimated}


#: The rows of Table 2.
PAPER: dict[str, dict[str, Any]] = {
    f"{model}_{text}": _paper(dataset, model, eps)
    for dataset, names in _PROJECTIONS.items()
    for model in names
    for text, eps in _RADII[dataset].items()
}
# Batch normalisation and plain gradients: what the paper's recipes have instead is for its dual.
_CIFAR10 = {
    "dataset": "cifar10",
    "model": "cifar10_small",
    "batch_norm": True,
    "shift": 4,
    "mirror": True,
    "optimizer": "adam",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "clip_norm": 0.0,
    "limit_test": 1000,
}
#: Recipes by name: the rows of Table 2, and what fits an hour on two cores. `docs/results.md` says
#: what these came to.
NAMED: dict[str, dict[str, Any]] = PAPER | {
    "mnist_0.1_best": {
        "dataset": "mnist",
        "model": "mnist_small",
        "method": "wong",
        "pair": False,
        "attack_share": 0.75,
        "attack_steps": 4,
        "shift": 1,
        "eps": 0.1,
        "eps_train_ratio": 1.1,
        "ramp": "step",
        "eps_warmup_epochs": 5,
        "epochs": 28,
        "batch_size": 50,
        "lr": 1e-3,
        "lr_schedule": "cosine",
        "limit_test": 1000,
    },
    "mnist_0.3_best": {
        "dataset": "mnist",
        "model": "mnist_medium",
        "method": "ibp",
        "batch_norm": True,
        "eps": 0.3,
        "eps_train_ratio": 1.1,
        "clean_share": 0.5,
        "eps_warmup_epochs": 15,
        "epochs": 50,
        "lr": 1e-3,
        "limit_test": 1000,
    },
    "cifar10_2_best": _CIFAR10
    | {
        "method": "mtl_ibp",
        "share": 0.01,
        "attack_steps": 4,
        "eps": 2 / 255,
        "eps_warmup_epochs": 30,
        "epochs": 80,
    },
    "cifar10_8_best": _CIFAR10
    | {
        "method": "ibp",
        "eps": 8 / 255,
        "eps_warmup_epochs": 80,
        "epochs": 160,
    },
}


def listing() -> str:
    """The recipes as text: a line for each, its settings as flags."""
    return "\n".join(
        f"{name}: {' '.join(f'--{key}={value}' for key, value in recipe.items())}"
        for name, recipe in NAMED.items()
    )
