"""The pieces that recipes add to a method, one table: their settings, papers and deviations.

Names of settings are those of `TrainingPlan.of` and of the flags of `robustra train`.
"""

from __future__ import annotations

import dataclasses

_SHI = "Shi et al., Fast Certified Robust Training with Short Warmup, NeurIPS 2021"
_DE_PALMA = (
    "De Palma et al., Expressive Losses for Verified Robustness via Convex Combinations, ICLR 2024"
)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of a recipe.

    Attributes:
      text: what it is.
      settings: what it is said by.
      source: the paper.
      deviations: what is otherwise here than there, in words; empty for nothing that we know of.
    """

    text: str
    settings: tuple[str, ...]
    source: str
    deviations: str = ""


#: In the order in which they are listed to users.
PIECES = (
    Piece(
        "initial weights that keep the width of intervals",
        ("init",),
        _SHI,
        "the last layer has it too",
    ),
    Piece(
        "batch normalisation behind hidden layers, by the statistics of the clean images",
        ("batch_norm",),
        _SHI,
        "evaluation has the running statistics of training",
    ),
    Piece(
        "a ramp of the radius",
        ("eps_start", "eps_warmup_epochs", "ramp"),
        "Gowal et al., On the Effectiveness of Interval Bound Propagation, 2018",
        "linear, where Shi et al. 2021 begin it smoothly",
    ),
    Piece("regularisers of bounds during the ramp", ("regulariser",), _SHI),
    Piece(
        "a share of the clean loss, which falls along the ramp",
        ("clean_share",),
        "Gowal et al., On the Effectiveness of Interval Bound Propagation, 2018",
    ),
    Piece(
        "a penalty on the sizes of weights",
        ("l1",),
        _DE_PALMA,
        "kernels alone are charged: neither biases nor what normalises",
    ),
    Piece("attacks of another radius than bounds", ("attack_ratio",), _DE_PALMA),
    Piece(
        "training at a larger radius than the one that is evaluated",
        ("eps_train_ratio",),
        "Gowal et al., On the Effectiveness of Interval Bound Propagation, 2018",
    ),
    Piece(
        "rectified Adam",
        ("optimizer",),
        "Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020",
        "a small number beside the root, as Adam has it",
    ),
    Piece(
        "Adam with decoupled decay",
        ("optimizer", "weight_decay"),
        "Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019",
        "Keras's, which shrinks all trained weights",
    ),
    Piece(
        "late drops of the learning rate",
        ("lr_schedule", "lr_drops", "lr_factor"),
        _SHI,
    ),
    Piece(
        "an average of the weights, which is tested and exported",
        ("ema",),
        "Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992",
        "exponential, as Keras's optimizers keep it; batch normalisations take new statistics, as "
        "in Izmailov et al. 2018",
    ),
    Piece(
        "gradients cut to a global norm",
        ("clip_norm",),
        "Pascanu et al., On the Difficulty of Training Recurrent Neural Networks, ICML 2013",
    ),
    Piece(
        "order and augmentation of the data, each by a seed of its own",
        ("shift", "mirror", "order_seed", "augmentation_seed"),
        "no paper: what two runs differ in can be told apart",
    ),
)
