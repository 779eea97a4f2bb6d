"""Near-duplicates among images: pairs whose view hashes differ in few bits, and groups of them.

A pair is a picture and a copy: recompressed, resized, mirrored, or cropped by about a twentieth. The hash
of the one is then close to that of a view of the other. Pairs are found without comparing all with all: the
key, 64 bits, is cut into three bands, and keys that differ in at most five bits agree in one of the bands
but for one bit (Norouzi et al. 2012, multi-index hashing). The whole hash then decides.

Memory: 200 bytes an image of what is searched in or for, and a chunk of candidates.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from sightline.view_hashes import BITS, MIRRORED

Array = np.ndarray[Any, Any]

BOUND = 14  # bits of BITS in which copies may differ
KEY_BOUND = 5  # bits of the key: found for certain
BANDS = ((0, 22), (22, 21), (43, 21))  # of the key: first bit, bits
CHUNK_ROWS = 65_536
CHUNK_CANDIDATES = 4_000_000


class Pairs(NamedTuple):
    """Rows of the one and of the other side, and the bits in which they differ."""

    rows: Array
    others: Array
    bits: Array


class Hashed:
    """Images by their view hashes, uint64 (n, views, 2); the first view is the whole picture."""

    def __init__(self, views: Array) -> None:
        self.views = views
        self.whole = np.ascontiguousarray(views[:, 0])

    def __len__(self) -> int:
        return len(self.views)

    @cached_property
    def bands(self) -> list["Band"]:
        """The index over the keys of the whole pictures."""
        return [Band(self.whole[:, 0], first, width) for first, width in BANDS]


class Band:
    """Which images have which value in one band of their keys."""

    def __init__(self, keys: Array, first: int, width: int) -> None:
        self.first, self.width = np.uint64(first), width
        values = self.values(keys)
        self.rows = np.argsort(values, kind="stable").astype(np.int32)
        self.starts = np.zeros(2**width + 1, np.int32)
        np.cumsum(np.bincount(values, minlength=2**width), out=self.starts[1:])

    def values(self, keys: Array) -> Array:
        """The band's part of keys."""
        return ((keys >> self.first) & np.uint64(2**self.width - 1)).astype(np.int64)

    def candidates(self, values: Array) -> Iterator[tuple[Array, Array]]:
        """Places in `values`, and the rows that have that value, some millions at a time."""
        starts, counts = self.starts[values], self.starts[values + 1] - self.starts[values]
        places = np.flatnonzero(counts)
        ends = np.cumsum(counts[places], dtype=np.int64)
        while len(places):
            taken = max(1, int(np.searchsorted(ends, CHUNK_CANDIDATES, "right")))
            some, many = places[:taken], counts[places[:taken]]
            within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
            yield np.repeat(some, many), self.rows[np.repeat(starts[some], many) + within]
            places, ends = places[taken:], ends[taken:] - ends[taken - 1]


def pairs_among(images: Hashed, bound: int = BOUND) -> Iterator[Pairs]:
    """Pairs of near-duplicates among images; one may come more than once.

    Of equal hashes, however many, the first is compared with others and stands for all.
    """
    _, first, equal_to = np.unique(images.whole, axis=0, return_index=True, return_inverse=True)
    stands_for = first[equal_to.reshape(-1)]
    copies = np.flatnonzero(stands_for != np.arange(len(images)))
    if len(copies):
        yield Pairs(copies, stands_for[copies], np.zeros(len(copies), np.int64))
    searched = Hashed(images.views[first])
    for rows, others, bits in _search(searched, images.views, bound):
        is_other = rows != first[others]
        if is_other.any():
            yield Pairs(rows[is_other], first[others][is_other], bits[is_other])


def pairs_between(images: Hashed, others: Hashed, bound: int = BOUND) -> Iterator[Pairs]:
    """Pairs of an image and another; one may come twice: a copy of the one, or the other of it."""
    yield from _search(others, images.views, bound)
    for rows, found, bits in _search(images, others.views, bound):
        yield Pairs(found, rows, bits)


def _search(searched: Hashed, views: Array, bound: int) -> Iterator[Pairs]:
    """Rows of `views` of which a view, mirrored or not, is close to a whole picture."""
    for start in range(0, len(views), CHUNK_ROWS):
        chunk = views[start : start + CHUNK_ROWS]
        for number in range(chunk.shape[1]):
            for turned in (chunk[:, number], chunk[:, number] ^ MIRRORED):
                for rows, others, bits in _close(searched, np.ascontiguousarray(turned), bound):
                    yield Pairs(rows + start, others, bits)


def _close(searched: Hashed, hashes: Array, bound: int) -> Iterator[Pairs]:
    for band in searched.bands:
        values = band.values(hashes[:, 0])
        for flipped in (0, *(1 << bit for bit in range(band.width))):
            for rows, others in band.candidates(values ^ flipped):
                differing = np.bitwise_count(hashes[rows, 0] ^ searched.whole[others, 0])
                near = differing <= KEY_BOUND
                rows, others, bits = rows[near], others[near], differing[near].astype(np.int64)
                bits += np.bitwise_count(hashes[rows, 1] ^ searched.whole[others, 1])
                if (close := bits <= bound).any():
                    yield Pairs(rows[close], others[close], bits[close])


class Groups:
    """Groups that grow together (union-find); a group is named by its smallest member."""

    def __init__(self, size: int) -> None:
        self._above = list(range(size))

    def add(self) -> int:
        """One more member, on its own."""
        self._above.append(len(self._above))
        return len(self._above) - 1

    def join(self, ones: Iterable[int], others: Iterable[int]) -> None:
        """Join pairs of members."""
        for one, other in zip(ones, others, strict=True):
            low, high = sorted((self.name(one), self.name(other)))
            self._above[high] = low

    def name(self, member: int) -> int:
        """The smallest member of a member's group."""
        above = self._above
        while above[member] != member:
            above[member] = member = above[above[member]]
        return member


def score_of(bits: Array | int) -> Any:
    """A number of differing bits as a score: 0 for equal hashes, 1 for opposite ones."""
    return bits / BITS
