"""What a champion is asked about a photo, and what it says: plain values that travel between processes."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Question:
    """What is wanted of a photo."""

    dataset: str
    top: int = 5  # classes, likeliest first
    # With test-time augmentation, where the model has it; None: as the model is evaluated and published.
    augmented: bool | None = None
    neighbours: int = 0  # training photos that are most alike
    with_pictures: bool = False  # of what the network sees, and of the neighbours


@dataclass(frozen=True)
class Likely:
    """A class and its probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Neighbour:
    """A training photo that is like the one asked about."""

    image_id: str
    label: str
    similarity: float  # cosine of the embeddings, at most 1
    picture: str | None = None  # a data URI


@dataclass(frozen=True)
class Answer:
    """What the champion says of a photo."""

    dataset: str
    version: str  # of the model
    kind: str  # head or fine_tuned
    top: list[Likely]
    classes: int  # that it knows
    views: int  # of the photo that were averaged; more than one with test-time augmentation
    has_augmentation: bool  # whether the model can look at several views
    format: str
    width: int  # pixels, of the file
    height: int
    seconds: float  # decoding, preparing, inferring
    seen: str | None  # the prepared crop as a data URI: what the photo looked like to the model
    neighbours: list[Neighbour]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Back from what `asdict` made."""
        top = [Likely(**one) for one in value["top"]]
        return cls(
            **{**value, "top": top, "neighbours": [Neighbour(**one) for one in value["neighbours"]]}
        )
