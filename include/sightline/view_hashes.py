"""Perceptual hashes of a picture and of ten crops of it: what recompressed, resized, cropped and mirrored
copies share with their original.

A hash is the signs of the 128 lowest frequencies of a cosine transform. A crop of a picture looks like one
of the crops that were hashed of its original, and mirroring a picture turns the signs of its odd columns.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SIDE_PIXELS = 32  # of the grey picture that is hashed
BITS = 128
KEY_BITS = 64  # the lowest frequencies, the first word of a hash
BANDS = 3  # that the key is dealt out to, so that each has low and high ones
FREQUENCIES = 12  # in each direction, of which BITS are taken
CLASSIC = 8  # frequencies in each direction of the classic hash
NO_SIGN = 1e-6  # a frequency that the picture lacks, but for rounding

# What is hashed, as shares of the sides: top, bottom, left, right. The whole comes first.
WINDOWS = (
    (0.0, 1.0, 0.0, 1.0),
    *((edge, 1 - edge, edge, 1 - edge) for edge in (0.025, 0.05)),  # less on every side
    *((top, top + 0.95, left, left + 0.95) for top in (0.0, 0.05) for left in (0.0, 0.05)),
    *((top, top + 0.95, 0.0, 1.0) for top in (0.0, 0.05)),
    *((0.0, 1.0, left, left + 0.95) for left in (0.0, 0.05)),
)
HASH_BYTES = BITS // 8
VIEWS_BYTES = len(WINDOWS) * HASH_BYTES


def hash_picture(pixels: Array) -> tuple[str, bytes]:
    """Two hashes of a grey picture (SIDE_PIXELS, SIDE_PIXELS): the classic one of 64 bits, in hexadecimal
    as imagehash.phash has it, and those of the views, VIEWS_BYTES in all.
    """
    spectra = _DOWN @ pixels.astype(np.float64) @ _ACROSS
    signs = spectra[:, _CHOSEN[:, 0], _CHOSEN[:, 1]] > NO_SIGN
    views = np.packbits(signs, axis=1, bitorder="little").tobytes()
    lowest = spectra[0, :CLASSIC, :CLASSIC].round(6).ravel()
    middle = np.sort(lowest)[len(lowest) // 2 - 1 : len(lowest) // 2 + 1].mean()  # the median
    return np.packbits(lowest > middle).tobytes().hex(), views


def unpack_views(content: bytes | memoryview) -> Array:
    """Hashes of n pictures as words, uint64 (n, windows, 2); the first word is the key."""
    return np.frombuffer(content, "<u8").reshape(-1, len(WINDOWS), HASH_BYTES // 8)


def _chosen_frequencies() -> Array:
    """(row, column) of each bit: the lowest first, those of the key dealt out to its bands."""
    every = [(row, column) for row in range(FREQUENCIES) for column in range(FREQUENCIES)]
    lowest = sorted(every, key=lambda one: (max(one), one))[1 : BITS + 1]  # without the mean
    key = [lowest[place] for band in range(BANDS) for place in range(band, KEY_BITS, BANDS)]
    return np.array(key + lowest[KEY_BITS:])


def _transform(start: float, end: float) -> Array:
    """(FREQUENCIES, SIDE_PIXELS): the cosine transform of a stretch of a side, sampled linearly."""
    side = SIDE_PIXELS
    steps = (np.arange(side) + 0.5) / side
    places = np.clip((start + steps * (end - start)) * side - 0.5, 0, side - 1)
    left = np.minimum(places.astype(int), side - 2)
    sampling = np.zeros((side, side))
    sampling[np.arange(side), left] = 1 - (places - left)
    sampling[np.arange(side), left + 1] = places - left
    return np.cos(np.pi * np.outer(np.arange(FREQUENCIES), steps)) @ sampling


_CHOSEN = _chosen_frequencies()
_DOWN = np.stack([_transform(top, bottom) for top, bottom, _, _ in WINDOWS])
_ACROSS = np.stack([_transform(left, right).T for _, _, left, right in WINDOWS])
MIRRORED: Array = np.packbits(_CHOSEN[:, 1] % 2 == 1, bitorder="little").view("<u8")  # (2,)
