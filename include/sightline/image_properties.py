"""What a small grey picture tells of an image: how bright, sharp and varied it is.

The words are those of cleanvision, whose thresholds the dataset file's defaults are; it looks at colours
and at all pixels, which costs as much as decoding.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

SHARPNESS_SIDE = 64  # pixels of the longer side, at which sharpness is measured


@dataclass(frozen=True)
class Properties:
    """Columns of the images table; brightness is 0 (black) to 1 (white)."""

    brightness_p5: float  # which 5 % of the pixels do not exceed
    brightness_p99: float
    entropy: float  # bits, of the grey levels: 0 to 8
    laplacian_variance: float  # of 64 pixels on the longer side: low where nothing is sharp
    histogram_deviation: float  # of the pixels a grey level: high where few levels hold most


def measure_properties(grey: Image.Image, width: int, height: int) -> Properties:
    """Properties of a grey picture, squashed as it may be, of an image of this shape."""
    counts = np.array(grey.histogram())
    shares = np.cumsum(counts) / counts.sum()
    held = counts[counts > 0] / counts.sum()
    small = _at_sharpness_side(grey, width, height)
    edges = np.asarray(small.filter(ImageFilter.FIND_EDGES))
    if min(edges.shape) > 2:
        edges = edges[1:-1, 1:-1]  # Pillow leaves the border as it is: no edges, and no blur there
    return Properties(
        brightness_p5=float(np.searchsorted(shares, 0.05)) / 255,
        brightness_p99=float(np.searchsorted(shares, 0.99)) / 255,
        entropy=float(-(held * np.log2(held)).sum()),
        laplacian_variance=float(edges.var()),
        histogram_deviation=float(np.array(small.histogram()).std()),
    )


def _at_sharpness_side(grey: Image.Image, width: int, height: int) -> Image.Image:
    shrink = min(1.0, SHARPNESS_SIDE / max(width, height))
    size = (max(1, int(width * shrink)), max(1, int(height * shrink)))
    return grey if size == grey.size else grey.resize(size)
