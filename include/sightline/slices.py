"""Slices of the test images: how right a model is by image size, by source, by licence.

A slice is a line in SLICES: a function from what is known of an image to the name of its slice.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

SIDES = (64, 128, 256, 512, 1024)  # pixels of the shorter side, where one bin of size ends
MOST = 50  # slices of a kind; the images of the smaller ones count as those of OTHERS
OTHERS = "others"


def size_of(image: dict[str, Any]) -> str:
    """The image's bin of size, by its shorter side."""
    side = min(image["height"], image["width"])
    if side < SIDES[0]:
        return f"under {SIDES[0]} px"
    low = max(bound for bound in SIDES if bound <= side)
    return f"{low} px and more" if low == SIDES[-1] else f"{low} to {2 * low - 1} px"


def source_of(image: dict[str, Any]) -> str:
    """The host or bucket that the image came from; `files` for those of a disk."""
    address = str(image["uri"]).rsplit("::", 1)[-1]
    found = re.match(r"\w+://(?:[^/?#]*@)?([^/?#:]+)", address)
    return found[1].lower() if found else "files"


def licence_of(image: dict[str, Any]) -> str:
    """The licence that the source gives."""
    return image["licence"] or "not given"


SLICES: dict[str, Callable[[dict[str, Any]], str]] = {
    "size": size_of,
    "source": source_of,
    "licence": licence_of,
}


class SliceCounts:
    """Images and right predictions of each slice: memory grows with the slices only."""

    def __init__(self) -> None:
        self._images: dict[str, Counter[str]] = {kind: Counter() for kind in SLICES}
        self._right: dict[str, Counter[str]] = {kind: Counter() for kind in SLICES}

    def add(self, images: Iterable[dict[str, Any]]) -> None:
        """Count images: height, width, uri, licence and is_right."""
        for image in images:
            for kind, name_slice in SLICES.items():
                name = name_slice(image)
                self._images[kind][name] += 1
                self._right[kind][name] += image["is_right"]

    def metric_rows(self) -> list[dict[str, Any]]:
        """Images and accuracy of each slice, the largest slices first."""
        rows = []
        for kind in SLICES:
            for name, images, right in self._largest(kind):
                for number, value in (("images", images), ("accuracy", right / images)):
                    row = {"name": f"slice:{kind}:{number}", "label": name, "value": float(value)}
                    rows.append(row)
        return rows

    def _largest(self, kind: str) -> list[tuple[str, int, int]]:
        """The largest slices of a kind and, together, the others."""
        by_size = self._images[kind].most_common()
        found = [(name, images, self._right[kind][name]) for name, images in by_size]
        rest = found[MOST:]
        if not rest:
            return found
        others = (OTHERS, sum(one[1] for one in rest), sum(one[2] for one in rest))
        return [*found[:MOST], others]
