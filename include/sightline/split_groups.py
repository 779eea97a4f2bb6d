"""Which images must share a split: near-duplicates, and on request those of an owner or of a burst.

Newcomers are held, with 400 bytes each; images that have their split pass by in batches.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sightline.config import SplitSpec
from sightline.near_duplicates import Array, Groups, Hashed, pairs_among, pairs_between
from sightline.view_hashes import unpack_views

NEAR_DUPLICATE, OWNER, BURST = "near_duplicate", "owner", "burst"  # split.group_by


@dataclass(frozen=True)
class Older:
    """A group that has its split, or its splits, where the source tears it apart."""

    group_id: str
    split: str


class Newcomers:
    """Images without a split: columns image_id, split_hint, phash, view_hashes, author, uploaded_at."""

    def __init__(self, images: pa.Table, shares: SplitSpec) -> None:
        self.images = images.combine_chunks()
        self.shares = shares
        self.groups = Groups(len(images))
        self.older: dict[int, Older] = {}  # by their member of `groups`
        self._member: dict[Older, int] = {}
        self._hashed_rows, self._hashed = hashed(self.images)
        self._join_among()

    def meet(self, older: pa.Table) -> None:
        """Join a batch of images that have a split: the columns above, and group_id and split."""
        for rows, others in self._pairs_with(older.combine_chunks()):
            names = zip(
                older["group_id"].take(pa.array(others)).to_pylist(),
                older["split"].take(pa.array(others)).to_pylist(),
                strict=True,
            )
            self.groups.join(rows.tolist(), [self._member_of(Older(*name)) for name in names])

    def __iter__(self) -> Iterator[tuple[list[int], list[Older]]]:
        """The newcomers by group, as rows, and the older groups that each belongs to."""
        rows: defaultdict[int, list[int]] = defaultdict(list)
        older: defaultdict[int, list[Older]] = defaultdict(list)
        for row in range(len(self.images)):
            rows[self.groups.name(row)].append(row)
        for member, group in self.older.items():
            older[self.groups.name(member)].append(group)
        yield from ((members, older[name]) for name, members in rows.items())

    def _member_of(self, older: Older) -> int:
        if older not in self._member:
            self._member[older] = self.groups.add()
            self.older[self._member[older]] = older
        return self._member[older]

    def _join_among(self) -> None:
        for column in ("phash", *(["author"] if self.shares.group_by == OWNER else [])):
            self._join(*equal_pairs(self.images[column]))
        if self.shares.group_by == BURST:
            self._join(*burst_pairs(self.images, self.shares.burst_minutes))
        for pairs in pairs_among(self._hashed):
            self._join(self._hashed_rows[pairs.rows], self._hashed_rows[pairs.others])

    def _join(self, ones: Array, others: Array) -> None:
        self.groups.join(ones.tolist(), others.tolist())

    def _pairs_with(self, older: pa.Table) -> Iterator[tuple[Array, Array]]:
        """Rows of newcomers and of a batch that belong together."""
        for column in ("phash", *(["author"] if self.shares.group_by == OWNER else [])):
            yield pairs_of_equals(self.images[column], older[column])
        if self.shares.group_by == BURST:
            yield from self._bursts_with(older)
        older_rows, older_hashed = hashed(older)
        for pairs in pairs_between(self._hashed, older_hashed):
            yield self._hashed_rows[pairs.rows], older_rows[pairs.others]

    def _bursts_with(self, older: pa.Table) -> Iterator[tuple[Array, Array]]:
        """Newcomers that follow on an older image, or are followed by one."""
        columns = ["author", "uploaded_at"]
        count = len(self.images)
        both = pa.concat_tables([self.images.select(columns), older.select(columns)])
        ones, others = burst_pairs(both, self.shares.burst_minutes)
        low, high = np.minimum(ones, others), np.maximum(ones, others)
        across = (low < count) & (high >= count)
        yield low[across], high[across] - count


def hashed(images: pa.Table) -> tuple[Array, Hashed]:
    """The rows that have view hashes, and those."""
    column = images["view_hashes"]
    rows = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
    return rows, Hashed(unpack_views(b"".join(column.drop_null().to_pylist())))


def equal_pairs(column: pa.ChunkedArray) -> tuple[Array, Array]:
    """Each row with the first that has its value; a null equals none."""
    rows = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
    values = column.drop_null().combine_chunks().dictionary_encode()
    codes = np.asarray(values.indices)
    _, first = np.unique(codes, return_index=True)
    return rows, rows[first[codes]] if len(rows) else rows


def pairs_of_equals(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> tuple[Array, Array]:
    """Each of their rows with our first row of that value; a null equals none."""
    known = ours.drop_null().combine_chunks().unique()
    first_row = np.asarray(pc.index_in(known, value_set=ours.combine_chunks()))
    place = pc.index_in(theirs, value_set=known).combine_chunks()
    rows = np.flatnonzero(pc.is_valid(place).to_numpy(zero_copy_only=False))
    return first_row[np.asarray(place.drop_null())].astype(np.int64), rows


def burst_pairs(images: pa.Table, minutes: float) -> tuple[Array, Array]:
    """Each row with the one that its author uploaded next, where that is within so many minutes."""
    known = pc.and_(pc.is_valid(images["author"]), pc.is_valid(images["uploaded_at"]))
    rows = np.flatnonzero(known.to_numpy(zero_copy_only=False))
    some = images.select(["author", "uploaded_at"]).take(pa.array(rows)).combine_chunks()
    authors = np.asarray(some["author"].combine_chunks().dictionary_encode().indices)
    seconds = np.asarray(some["uploaded_at"].cast(pa.int64())) / 1e6
    order = np.lexsort((seconds, authors))
    is_near = np.diff(seconds[order]) <= 60 * minutes
    together = np.flatnonzero(is_near & (np.diff(authors[order]) == 0))
    return rows[order[together]], rows[order[together + 1]]


def as_tables(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches as tables of plain strings."""
    return (plain(pa.Table.from_batches([batch])) for batch in batches)


def plain(images: pa.Table) -> pa.Table:
    """The same columns without string views and dictionaries, which few functions take."""
    types = {"view_hashes": pa.binary(), "uploaded_at": pa.timestamp("us", tz="UTC")}
    fields = [pa.field(name, types.get(name, pa.string())) for name in images.column_names]
    return images.cast(pa.schema(fields))
