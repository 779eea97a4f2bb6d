"""Losses, optimisers and learning-rate schedules by the names that a dataset file gives them.

A schedule is a function of how far a phase has come and what the validation has said so far, without a
state of its own: a resumed training has nothing to restore.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional

from sightline.fine_tune_config import FineTuneSpec

# Logits (n, classes), target shares (n, classes), weights (classes,) or None, to a mean loss.
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
WARM_UP = 0.3  # of a one-cycle phase, in which the rate rises
LEAST = 1e-3  # of the highest rate: where one cycle begins and falling schedules end


def cross_entropy(smoothing: float = 0.0) -> Loss:
    """Cross-entropy; with `smoothing`, that share of each target is spread over all classes."""

    def loss(
        logits: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        return functional.cross_entropy(logits, shares, weights, label_smoothing=smoothing)

    return loss


def focal(gamma: float) -> Loss:
    """Focal loss (Lin et al. 2017): what is known well already counts less."""

    def loss(
        logits: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        logs = functional.log_softmax(logits, dim=1)
        each = -((1 - logs.exp()) ** gamma) * logs * shares
        return (each if weights is None else each * weights).sum(dim=1).mean()

    return loss


LOSSES: dict[str, Callable[[FineTuneSpec], Loss]] = {
    "cross_entropy": lambda _: cross_entropy(),
    "label_smoothing": lambda spec: cross_entropy(spec.label_smoothing),
    "focal": lambda spec: focal(spec.focal_gamma),
}

Parameters = Iterable[nn.Parameter]
OPTIMIZERS: dict[str, Callable[[Parameters, FineTuneSpec], torch.optim.Optimizer]] = {
    "sgd": lambda learning, spec: torch.optim.SGD(
        learning, momentum=spec.momentum, weight_decay=spec.weight_decay, nesterov=spec.momentum > 0
    ),
    "adamw": lambda learning, spec: torch.optim.AdamW(learning, weight_decay=spec.weight_decay),
    "adam": lambda learning, spec: torch.optim.Adam(learning, weight_decay=spec.weight_decay),
    "rmsprop": lambda learning, spec: torch.optim.RMSprop(
        learning, momentum=spec.momentum, weight_decay=spec.weight_decay
    ),
}


def one_cycle(done: float) -> float:
    """Up along a cosine for the first third, down along another (Smith & Topin 2018)."""
    if done < WARM_UP:
        return _between(1 / 25, 1.0, done / WARM_UP)
    return _between(1.0, LEAST, (done - WARM_UP) / (1 - WARM_UP))


def cosine(done: float) -> float:
    """Down along a cosine."""
    return _between(1.0, LEAST, done)


def constant(done: float) -> float:
    """Always the same."""
    return 1.0


# The share of the highest rate, when a share `done` of the phase is over.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "one_cycle": one_cycle,
    "cosine": cosine,
    "plateau": constant,  # between the steps that `plateau_factor` says
    "constant": constant,
}


def plateau_factor(losses: Sequence[float], patience_epochs: int) -> float:
    """A tenth for each time that so many epochs in a row have not lowered the validation's loss."""
    best, waited, factor = math.inf, 0, 1.0
    for loss in losses:
        if loss < best:
            best, waited = loss, 0
            continue
        waited += 1
        if waited == patience_epochs:
            factor, waited = factor / 10, 0
    return factor


def epochs_without_better(losses: Sequence[float]) -> int:
    """Epochs since the lowest loss."""
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
