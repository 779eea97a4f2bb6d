"""Search over training settings before the training itself: short trials, the best one's settings taken.

Optuna proposes (its tree-structured Parzen estimator, seeded); what the trials found is kept after each,
so that another try of the task repeats none.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from sightline import storage
from sightline.config import BackboneSpec
from sightline.fine_tune_config import FineTuneSpec, SearchSpec
from sightline.fine_tuning.checkpoints import Epoch

log = logging.getLogger(__name__)

# Trains with these settings for so many epochs, in a folder of its own; returns the history.
Train = Callable[[FineTuneSpec, BackboneSpec, str], list[Epoch]]


@dataclass(frozen=True)
class Trial:
    """One setting and what came of it."""

    settings: dict[str, Any]
    validation_accuracy: float
    validation_loss: float
    seconds: float


@dataclass(frozen=True)
class Found:
    """The settings to train with, and all trials in their order."""

    fine_tune: FineTuneSpec
    backbone: BackboneSpec
    trials: list[Trial]


def search(
    asked: SearchSpec, fine_tune: FineTuneSpec, backbone: BackboneSpec, folder: str, train: Train
) -> Found:
    """Try settings within the budget of trials and minutes; the most accurate on the validation wins."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # we say it in our own words
    space = _space(asked)
    kept_url = storage.join(folder, "search.json")
    trials = [Trial(**row) for row in storage.read_json(kept_url) or []]
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=fine_tune.seed)
    )
    for trial in trials:
        study.add_trial(_as_optunas(trial, space))
    while len(trials) < asked.trials and not _is_spent(asked, trials):
        proposed = study.ask(space)
        trials.append(_try(proposed.params, asked, fine_tune, backbone, folder, train, len(trials)))
        study.tell(proposed, trials[-1].validation_accuracy)
        storage.write_json(kept_url, [asdict(trial) for trial in trials])
        log.info("search: trial %d of %d: %s: validation accuracy %.4f", len(trials), asked.trials,
                 _shown(trials[-1].settings), trials[-1].validation_accuracy)  # fmt: skip
    best = max(trials, key=lambda trial: trial.validation_accuracy)
    log.info("search: taken is %s", _shown(best.settings))
    return Found(*apply(best.settings, fine_tune, backbone), trials)


def apply(
    settings: dict[str, Any], fine_tune: FineTuneSpec, backbone: BackboneSpec
) -> tuple[FineTuneSpec, BackboneSpec]:
    """The training with these settings; the phases' rates keep their proportions."""
    chosen = dict(settings)
    size = chosen.pop("image_size", None)
    if size is not None:
        backbone = backbone.model_copy(update={"image_size": size})
    if "learning_rate" in chosen:
        factor = chosen["learning_rate"] / fine_tune.learning_rate
        chosen["phases"] = tuple(
            phase.model_copy(update={"learning_rate": phase.learning_rate * factor})
            for phase in fine_tune.phases
        )
    return fine_tune.model_copy(update=chosen), backbone


def _try(
    settings: dict[str, Any],
    asked: SearchSpec,
    fine_tune: FineTuneSpec,
    backbone: BackboneSpec,
    folder: str,
    train: Train,
    number: int,
) -> Trial:
    chosen, sized = apply(settings, fine_tune, backbone)
    short = chosen.model_copy(update={"epochs": asked.epochs, "phases": (), "search": None})
    place = storage.join(folder, f"trial-{number:03d}")
    began = time.monotonic()
    last = train(short, sized, place)[-1]
    storage.remove_tree(place)
    seconds = time.monotonic() - began
    return Trial(settings, last.validation_accuracy, last.validation_loss, seconds)


def _space(asked: SearchSpec) -> dict[str, BaseDistribution]:
    space: dict[str, BaseDistribution] = {}
    if asked.learning_rate is not None:
        space["learning_rate"] = FloatDistribution(*asked.learning_rate, log=True)
    for name in ("optimizer", "loss", "image_size", "batch_size"):
        values = getattr(asked, name)
        if values:
            space[name] = CategoricalDistribution(values)
    return space


def _as_optunas(trial: Trial, space: dict[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        params=trial.settings, distributions=space, value=trial.validation_accuracy
    )


def _is_spent(asked: SearchSpec, trials: list[Trial]) -> bool:
    spent_minutes = sum(trial.seconds for trial in trials) / 60
    return asked.minutes is not None and spent_minutes >= asked.minutes and bool(trials)


def _shown(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.2g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in settings.items()
    )
