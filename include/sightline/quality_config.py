"""The `quality:` block of a dataset file: from which score on an image is called dark, blurry, a copy, ...

Scores are 0 to 1, lower is worse; an image below the threshold has the issue. The defaults are those of
cleanvision; `null` looks for no such issue.
"""

from typing import Annotated

from pydantic import Field

from sightline.source_config import Section

Threshold = Annotated[float, Field(ge=0, le=1)] | None


class QualitySpec(Section):
    """Thresholds of what is listed in the table of issues; nothing is left out of training by them."""

    dark: Threshold = 0.32  # the brightness that 99 % of the pixels do not exceed
    light: Threshold = 0.05  # how far the brightness that 5 % do not exceed is from white
    blurry: Threshold = 0.29  # how much sharper than nothing, at 64 pixels
    low_information: Threshold = 0.3  # a tenth of the entropy in bits
    odd_aspect_ratio: Threshold = 0.35  # the shorter side to the longer
    odd_size: Annotated[float, Field(gt=0)] | None = (
        3.0  # interquartile ranges beyond the middle half
    )
    greyscale: bool = True
    # Hash bits, of 128, in which copies may differ. What is grouped for the splits has a bound of its own.
    near_duplicate: Annotated[int, Field(ge=0, le=24)] | None = 14
