"""The `labels:` and `drift:` blocks of a dataset file: which labels are believed, and which data are new."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sightline.source_config import Section

# A drift below what chance gives is none, whatever the thresholds say.
Threshold = Annotated[float, Field(gt=0)] | None


class ExcludeSpec(Section):
    """Which of the suspicious labels are not trained on: the worst of the train split by one of three."""

    worst: int | None = Field(None, ge=1)  # so many
    share: float | None = Field(None, gt=0, lt=0.5)  # of the labelled train images
    below: float | None = Field(None, gt=0, lt=1)  # those of a lower score

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(value is not None for value in (self.worst, self.share, self.below)) != 1:
            raise ValueError("give one of worst, share and below")
        return self


class LabelsSpec(Section):
    """What is done where labels are in doubt.

    conflicts: the same bytes under two labels. `drop` neither trains nor tests on the image; `keep_first`
    believes the label that came first.
    """

    conflicts: Literal["drop", "keep_first"] = "drop"
    exclude_suspicious: ExcludeSpec | None = None


class ThresholdSpec(Section):
    """From which value on a number of drift warns, and from which it stops the run; null: never."""

    warn: Threshold = None
    stop: Threshold = None

    @model_validator(mode="after")
    def _warns_before_it_stops(self) -> Self:
        if self.warn is not None and self.stop is not None and self.warn > self.stop:
            raise ValueError(f"warn {self.warn:g} is above stop {self.stop:g}")
        return self


class DriftSpec(Section):
    """How far a partition may be from what was trained on. Classes and properties are stability indices
    (0.1 is some, 0.25 is much), embeddings the share of pairs told apart (0.5 is none, 1 is all).
    """

    classes: ThresholdSpec = ThresholdSpec(warn=0.25)
    properties: ThresholdSpec = ThresholdSpec(warn=0.25)  # each of them
    embeddings: ThresholdSpec = ThresholdSpec(warn=0.8)
    least_images: int = Field(100, ge=20)  # of a partition, and of what it is compared with
