"""From upright pixels to what a network takes: as its weights require, on whole numbers while it can.

Nearly all weights want the same: the shorter side resized, the centre cropped, colours normalised. That
is done on uint8 pixels (within two levels of 255 of the preset on Pillow's pictures, and nearly all
within one); what has a form of its own goes through its own preset.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from sightline.images import Pixels

if TYPE_CHECKING:
    import torch

REVISION = "uint8-1"  # part of a backbone's id: another one where the pixels would differ
USUAL_STEPS = ("Resize", "CenterCrop", "MaybeToTensor", "Normalize")
Transform = Callable[[Image.Image], "torch.Tensor"]


@dataclass(frozen=True)
class Geometry:
    """Pixels of the shorter side and of the crop (height, width), torch's interpolation, colours."""

    resize: int
    crop: tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width with the shorter side as wanted, rounded as torchvision does."""
        longer = int(self.resize * max(height, width) / min(height, width))
        return (self.resize, longer) if height <= width else (longer, self.resize)


@dataclass(frozen=True)
class Preprocessing:
    """`transform` is the reference, a picture to float32 (3, h, w); `geometry` what it does, if plain."""

    transform: Transform
    geometry: Geometry | None

    def prepare(self, pixels: Pixels) -> "torch.Tensor":
        """Upright pixels (height, width, 3) to uint8 (3, h, w), or to float32 where not plain."""
        import torch

        if self.geometry is None:
            return self.transform(Image.fromarray(pixels))
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # channels last: the quick way
        size = self.geometry.resized(*pixels.shape[:2])
        mode = self.geometry.interpolation
        picture = torch.nn.functional.interpolate(picture, size, mode=mode, antialias=True)[0]
        top, left = (
            round((have - want) / 2) for have, want in zip(size, self.geometry.crop, strict=True)
        )
        return picture[:, top : top + self.geometry.crop[0], left : left + self.geometry.crop[1]]

    def normalise(self, batch: "torch.Tensor") -> "torch.Tensor":
        """A batch (n, 3, h, w) of what `prepare` gives to float32, on the device that it is on."""
        import torch

        if self.geometry is None:
            return batch
        mean, std = (
            255 * torch.tensor(values, dtype=torch.float32, device=batch.device)[:, None, None]
            for values in (self.geometry.mean, self.geometry.std)
        )
        return batch.to(torch.float32).sub_(mean).div_(std)

    @property
    def least_side(self) -> int | None:
        """Pixels of the shorter side below which a decoded picture would have to be blown up."""
        return None if self.geometry is None else self.geometry.resize


def plain_geometry(transform: Any) -> Geometry | None:
    """What torchvision's classification preset, or a timm transform of the usual four steps, does; None
    where it does something else.
    """
    from torchvision.transforms._presets import ImageClassification

    if isinstance(transform, ImageClassification):
        size, crop, colours = transform.resize_size, transform.crop_size, transform
        interpolation = transform.interpolation
    else:
        steps = getattr(transform, "transforms", [])
        if [type(step).__name__ for step in steps] != list(USUAL_STEPS):
            return None
        size, crop, colours = [steps[0].size], steps[1].size, steps[3]
        interpolation = steps[0].interpolation
    height, width = crop if len(crop) == 2 else (crop[0], crop[0])
    is_plain = isinstance(size[0], int) and len(size) == 1 and size[0] >= max(height, width)
    if not is_plain or interpolation.value not in ("bilinear", "bicubic"):
        return None
    mean, std = (tuple(map(float, values)) for values in (colours.mean, colours.std))
    return Geometry(size[0], (height, width), interpolation.value, mean, std)
