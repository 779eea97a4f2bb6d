"""The `fine_tune:` block of a dataset file: how the dataset's backbone is trained on its images."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sightline.source_config import Section

TRAINABLE = re.compile(r"(head|all|half|head\+bn(\+last_[1-9]\d*_convs)?)")


def _known_trainable(name: str) -> str:
    if not TRAINABLE.fullmatch(name):
        raise ValueError(
            f"{name!r} is none of head, head+bn, head+bn+last_2_convs (or another number), half, all"
        )
    return name


# Which layers learn; the others stay as they are, their batch norms' statistics too.
Trainable = Annotated[str, AfterValidator(_known_trainable)]


class TunedHeadSpec(Section):
    """What stands on the backbone's features: optional layers, then one output a class."""

    batch_norm: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    hidden: int | None = Field(None, ge=1)  # width of a layer between


class PhaseSpec(Section):
    """Some epochs of staged unfreezing, with an optimiser of their own."""

    trainable: Trainable
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


Optimizer = Literal["sgd", "adamw", "adam", "rmsprop"]
Loss = Literal["cross_entropy", "label_smoothing", "focal"]


class SearchSpec(Section):
    """Values to try before the training itself, each with a few epochs; the best ones are taken."""

    trials: int = Field(8, ge=2)
    epochs: int = Field(1, ge=1)  # of each trial
    minutes: float | None = Field(None, gt=0)  # after which no trial begins
    # from, to; drawn on a logarithmic scale
    learning_rate: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    optimizer: tuple[Optimizer, ...] = ()
    loss: tuple[Loss, ...] = ()
    image_size: tuple[Annotated[int, Field(ge=16, le=2048)], ...] = ()
    batch_size: tuple[Annotated[int, Field(ge=2)], ...] = ()

    @model_validator(mode="after")
    def _searches_something(self) -> Self:
        values = (self.learning_rate, self.optimizer, self.loss, self.image_size, self.batch_size)
        if not any(values):
            raise ValueError(
                "name what to try: learning_rate, optimizer, loss, image_size or batch_size"
            )
        if self.learning_rate is not None and self.learning_rate[0] >= self.learning_rate[1]:
            raise ValueError(
                f"learning_rate must rise, but is {self.learning_rate[0]} to {self.learning_rate[1]}"
            )
        return self


class FineTuneSpec(Section):
    """A network trained on the images themselves.

    phases: staged unfreezing; takes the place of trainable, epochs and learning_rate.
    augmentation: a preset, or transforms of Albumentations by name with their settings.
    """

    trainable: Trainable = "head+bn+last_2_convs"
    epochs: int = Field(5, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    phases: tuple[PhaseSpec, ...] = ()
    batch_size: int = Field(32, ge=2)  # of all processes together
    head: TunedHeadSpec = TunedHeadSpec()
    loss: Loss = "cross_entropy"
    label_smoothing: float = Field(0.1, gt=0, lt=1)  # of the loss of that name
    focal_gamma: float = Field(2.0, gt=0)  # of the focal loss
    class_weights: Literal["none", "balanced"] = "none"
    optimizer: Optimizer = "adamw"
    weight_decay: float = Field(1e-2, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)  # of sgd and rmsprop
    schedule: Literal["one_cycle", "cosine", "plateau", "constant"] = "one_cycle"
    plateau_epochs: int = Field(2, ge=1)  # without a better loss, before the rate is divided by ten
    clip_norm: float | None = Field(None, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    augmentation: (
        Literal["none", "flips", "crops", "imagenet", "randaugment"]
        | tuple[dict[str, dict[str, Any]], ...]
    ) = "crops"
    mixup: float = Field(0.0, ge=0)  # alpha of the mixing; 0: none
    cutmix: float = Field(0.0, ge=0)
    validation_share: float = Field(0.1, gt=0, lt=0.5)  # of the train split, where split.val is 0
    keep: Literal["best", "last"] = "best"  # epoch, by the validation's loss
    early_stop_epochs: int | None = Field(None, ge=1)  # without a better loss
    test_time_augmentation: tuple[Literal["flips", "crops", "scales"], ...] = ()
    processes: int = Field(1, ge=1)
    search: SearchSpec | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _divides(self) -> Self:
        sizes = [self.batch_size, *(self.search.batch_size if self.search else ())]
        unequal = [size for size in sizes if size % self.processes or size < 2 * self.processes]
        if unequal:
            raise ValueError(
                f"batch_size {unequal[0]} gives {self.processes} processes no equal shares of two "
                "images or more"
            )
        return self

    @property
    def all_phases(self) -> tuple[PhaseSpec, ...]:
        """The phases, where none are given the one of trainable, epochs and learning_rate."""
        one = PhaseSpec(
            trainable=self.trainable, epochs=self.epochs, learning_rate=self.learning_rate
        )
        return self.phases or (one,)
