"""Pictures varied: at random while training, and in fixed views for test-time augmentation.

The presets are torchvision's transforms; a dataset file may name transforms of Albumentations instead.
"""

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from sightline.backbones.preprocessing import Preprocessing
from sightline.errors import ConfigError
from sightline.images import Pixels

# Upright pixels (height, width, 3) to what the network takes (3, h, w).
Prepare = Callable[[Pixels], torch.Tensor]
Mixing = Callable[[torch.Tensor, torch.Tensor], Any]

PRESETS: dict[str, tuple[v2.Transform, ...]] = {
    "none": (),
    "flips": (v2.RandomHorizontalFlip(),),
    "crops": (v2.RandomHorizontalFlip(),),
    "imagenet": (v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3)),
    "randaugment": (v2.RandomHorizontalFlip(), v2.RandAugment()),
}
# Of the picture's area, what a random crop shows; the presets that are not here show all of it.
CROPPED: dict[str, tuple[float, float]] = {
    "crops": (0.35, 1.0),
    "imagenet": (0.08, 1.0),
    "randaugment": (0.25, 1.0),
}


def make_augmentation(
    wanted: str | tuple[dict[str, dict[str, Any]], ...], preprocessing: Preprocessing, seed: int
) -> Prepare:
    """What a dataset file asks for, drawn from torch's random state or, of Albumentations, the seed."""
    if not isinstance(wanted, str):
        vary = make_albumentations(wanted, seed)
        return lambda pixels: preprocessing.prepare(vary(pixels))
    steps = v2.Compose(PRESETS[wanted] or [torch.nn.Identity()])
    fit = _random_crop(preprocessing, CROPPED[wanted]) if wanted in CROPPED else None
    return lambda pixels: steps((fit or preprocessing.prepare)(pixels))


def make_albumentations(
    wanted: Iterable[dict[str, dict[str, Any]]], seed: int
) -> Callable[[Pixels], Pixels]:
    """A pipeline of Albumentations: {name: settings} for each transform.

    ConfigError names a transform or a setting that there is not.
    """
    os.environ.setdefault(
        "NO_ALBUMENTATIONS_UPDATE", "1"
    )  # it would ask the web for news of itself
    import albumentations

    steps = []
    for entry in wanted:
        for name, settings in entry.items():
            kind = getattr(albumentations, name, None)
            if not isinstance(kind, type) or not issubclass(kind, albumentations.BasicTransform):
                raise ConfigError(
                    f"fine_tune.augmentation: Albumentations has no transform {name!r}; its "
                    "documentation lists them, in words such as HorizontalFlip."
                )
            steps.append(_make(kind, settings))
    pipeline = albumentations.Compose(steps, seed=seed)
    return lambda pixels: pipeline(image=pixels)["image"]


def _make(kind: type, settings: dict[str, Any]) -> Any:
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            made = kind(**settings)
        unknown = [str(one.message) for one in told if "not valid" in str(one.message)]
        if unknown:  # Albumentations would go on without the setting
            raise ValueError(unknown[0])
    except (TypeError, ValueError) as error:
        problem = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"fine_tune.augmentation: {kind.__name__}: {problem}.") from error
    return made


def make_mixing(mixup: float, cutmix: float, classes: int) -> Mixing | None:
    """MixUp, CutMix or one of both at random: pictures and numbers of classes to pictures and shares."""
    kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
    chosen = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]
    return v2.RandomChoice(chosen) if chosen else None


def _random_crop(preprocessing: Preprocessing, scale: tuple[float, float]) -> Prepare:
    geometry = preprocessing.geometry
    if geometry is None:  # a preset of its own kind: it is given a part of the picture
        crop = v2.RandomResizedCrop(1, scale)

        def prepare_part(pixels: Pixels) -> torch.Tensor:
            box = crop.make_params([torch.from_numpy(pixels).permute(2, 0, 1)])
            top, left, height, width = (box[name] for name in ("top", "left", "height", "width"))
            return preprocessing.prepare(pixels[top : top + height, left : left + width])

        return prepare_part
    interpolation = InterpolationMode(geometry.interpolation)
    resize = v2.RandomResizedCrop(list(geometry.crop), scale, interpolation=interpolation)
    return lambda pixels: resize(torch.from_numpy(pixels).permute(2, 0, 1))


@dataclass(frozen=True)
class View:
    """A part of a picture, in shares of its height and width, and whether it is mirrored."""

    top: float = 0.0
    left: float = 0.0
    size: float = 1.0
    is_mirrored: bool = False

    def of(self, pixels: Pixels) -> Pixels:
        """The pixels that this view shows."""
        height, width = pixels.shape[:2]
        top, left = round(self.top * height), round(self.left * width)
        shown = pixels[
            top : max(top + round(self.size * height), top + 1),
            left : max(left + round(self.size * width), left + 1),
        ]
        mirrored = shown[:, ::-1] if self.is_mirrored else shown
        return mirrored.copy()  # torch reads no backward strides


CORNERS = tuple(View(top, left, 0.85) for top in (0.0, 0.15) for left in (0.0, 0.15))
SCALES = tuple(View((1 - size) / 2, (1 - size) / 2, size) for size in (0.85, 0.7))


def views(names: Iterable[str]) -> list[View]:
    """The views of test-time augmentation: the whole picture first."""
    wanted = set(names)
    chosen = [View()]
    chosen += CORNERS if "crops" in wanted else ()
    chosen += SCALES if "scales" in wanted else ()
    if "flips" in wanted:
        chosen += [View(one.top, one.left, one.size, True) for one in chosen]
    return chosen
