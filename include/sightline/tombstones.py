"""Tombstones: what was taken down, remembered by hashes alone, so that no ingest brings it back.

A hash is of the dataset's name, of what it is of, and of the text: an image id, a uri, an author. It tells
nothing to whom does not know the text already.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from sightline import tables
from sightline.catalog import Catalog
from sightline.schemas import TOMBSTONES
from sightline.tables import Writer

IMAGE, URI, AUTHOR = "image_id", "uri", "author"
Mark = tuple[str, str]  # a kind and a text


@dataclass(frozen=True)
class Why:
    """Who has taken something down, when, and for what reason; `request` names the take-down."""

    request: str
    reason: str
    by: str
    at: datetime


@dataclass(frozen=True)
class Tombstones:
    """Those of a dataset as they stood when they were read."""

    dataset: str
    version: int | None  # of their table
    digests: frozenset[str]

    def bar(self, kind: str, text: str | None) -> bool:
        """Whether this image, uri or author was taken down."""
        if text is None or not self.digests:
            return False
        return digest(self.dataset, kind, text) in self.digests


def digest(dataset: str, kind: str, text: str) -> str:
    """The hash by which a text is remembered, in hexadecimal."""
    return hashlib.sha256(f"{dataset}/{kind}/{text}".encode()).hexdigest()


def read(catalog: Catalog) -> Tombstones:
    """All tombstones of a dataset."""
    version = tables.current_version(catalog.tombstones)
    batches = tables.read_batches(catalog.tombstones, ["digest"], version)
    digests = frozenset(one for batch in batches for one in batch["digest"].to_pylist())
    return Tombstones(catalog.dataset, version, digests)


def barred_images(catalog: Catalog, image_ids: list[str]) -> set[str]:
    """Which of these images were taken down, as the table stands now."""
    by_digest = {digest(catalog.dataset, IMAGE, one): one for one in image_ids}
    found = tables.held_values(catalog.tombstones, "digest", list(by_digest))
    return {by_digest[one] for one in found}


def lay(catalog: Catalog, marks: Iterable[Mark], why: Why) -> None:
    """Remember these; what is remembered already keeps its first reason."""
    rows = [
        {
            "digest": digest(catalog.dataset, kind, text),
            "kind": kind,
            "request": why.request,
            "reason": why.reason,
            "taken_down_by": why.by,
            "taken_down_at": why.at,
        }
        for kind, text in marks
    ]
    table = catalog.tombstones
    urls = tables.write_batches(table, [pa.RecordBatch.from_pylist(rows, schema=TOMBSTONES)])
    tables.append_new(table, urls, None, Writer(f"take_down:{why.request}"), key="digest")
