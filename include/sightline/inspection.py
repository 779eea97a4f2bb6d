"""What may be wrong with the images of a partition: a row in the table of issues for each finding.

Nothing is left out of training by it. Copies of the same bytes are no images of ours: they are rejects with
the reason `duplicate`.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from sightline import batches, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.issue_scores import COLUMNS, UsualSizes, find_issues
from sightline.ledger import Record, TaskRun
from sightline.near_duplicates import Hashed, Pairs, pairs_among, pairs_between, score_of
from sightline.schemas import ISSUES
from sightline.view_hashes import BITS, unpack_views

OTHER_ROWS = 262_144  # that are compared with the partition's at a time
QUARTILES = """
    SELECT approx_percentile_cont(sqrt(CAST(height AS double) * width), 0.25) AS lower,
        approx_percentile_cont(sqrt(CAST(height AS double) * width), 0.75) AS upper
    FROM images
"""
HASHES = """
    SELECT image_id, view_hashes FROM images
    WHERE view_hashes IS NOT NULL AND partition {is_ours} {partition}
"""


def inspect_images(spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record) -> None:
    """Write the issues of the partition's images, replacing what was found before."""
    record.read(catalog.images, catalog.rejects)
    held = tables.claim(catalog.issues, task.writer)
    counted: Counter[str] = Counter()

    def found() -> Iterator[pa.RecordBatch]:
        for batch in _issues(spec, catalog, task.partition):
            counted.update(batch["issue"].to_pylist())
            yield batch

    urls = tables.write_batches(catalog.issues, found())
    tables.replace_partition(catalog.issues, urls, task.partition, held)
    images = tables.count_rows(catalog.images, partition=task.partition)
    record.counts = {"images": images, "issues": counted.total(), **counted}
    record.counts["exact_duplicate"] = _count_copies(catalog, task.partition)
    record.wrote(catalog.issues, rows=record.counts["issues"])


def _issues(spec: DatasetSpec, catalog: Catalog, partition: str) -> Iterator[pa.RecordBatch]:
    usual = _usual_sizes(catalog)
    for batch in tables.read_batches(catalog.images, list(COLUMNS), partition=partition):
        for name, rows, scores, threshold in find_issues(batch, spec.quality, usual):
            ids = batch["image_id"].take(pa.array(rows))
            yield _issue_batch(name, ids, scores, threshold, partition)
    if spec.quality.near_duplicate is not None:
        yield from _near_duplicates(catalog, partition, spec.quality.near_duplicate)


def _usual_sizes(catalog: Catalog) -> UsualSizes:
    with tables.query(images=catalog.images) as sql:
        found = sql(QUARTILES).to_pylist()[0]
    return UsualSizes(found["lower"] or 0.0, found["upper"] or 0.0)


def _near_duplicates(catalog: Catalog, partition: str, bound: int) -> Iterator[pa.RecordBatch]:
    """Each image of the partition that has a near-duplicate, with the one that is most alike."""
    ours, others = (
        HASHES.format(is_ours=sign, partition=tables.literal(partition)) for sign in ("=", "<>")
    )
    with tables.stream_query(images=catalog.images) as sql:
        ids, hashed = _read_hashes(pa.table(sql(ours).read_all()))
        if not len(hashed):
            return
        nearest = Nearest(ids)
        for pairs in pairs_among(hashed, bound):
            nearest.take(pairs, ids)
            nearest.take(Pairs(pairs.others, pairs.rows, pairs.bits), ids)
        for batch in batches.joined(sql(others), OTHER_ROWS):
            other_ids, other_hashed = _read_hashes(pa.Table.from_batches([batch]))
            for pairs in pairs_between(hashed, other_hashed, bound):
                nearest.take(pairs, other_ids)
    yield nearest.as_batch(bound, partition)


def _read_hashes(images: pa.Table) -> tuple[pa.Array, Hashed]:
    content = b"".join(images["view_hashes"].to_pylist())
    ids = images["image_id"].cast(pa.string()).combine_chunks()
    return ids, Hashed(unpack_views(content))


class Nearest:
    """The image that each of ours is most alike, as far as it is alike one."""

    def __init__(self, ids: pa.Array) -> None:
        self.ids = ids
        self.bits = np.full(len(ids), BITS + 1, np.int16)
        self.other: dict[int, str] = {}

    def take(self, pairs: Pairs, other_ids: pa.Array) -> None:
        """Note pairs of ours and others."""
        for row, other, bits in zip(*(part.tolist() for part in pairs), strict=True):
            if bits < self.bits[row]:
                self.bits[row] = bits
                self.other[row] = other_ids[other].as_py()

    def as_batch(self, bound: int, partition: str) -> pa.RecordBatch:
        """Rows of the table of issues."""
        rows = sorted(self.other)
        others = pa.array([self.other[row] for row in rows], pa.string())
        scores, threshold = score_of(self.bits[rows]), score_of(bound + 1)
        ids = self.ids.take(pa.array(rows, pa.int64()))
        return _issue_batch("near_duplicate", ids, scores, threshold, partition, others)


def _issue_batch(
    name: str,
    ids: pa.Array,
    scores: batches.Array,
    threshold: float,
    partition: str,
    others: pa.Array | None = None,
) -> pa.RecordBatch:
    count = len(ids)
    columns = {
        "image_id": ids,
        "issue": pa.array([name] * count, pa.string()),
        "score": pa.array(scores, pa.float32()),
        "threshold": pa.array([threshold] * count, pa.float32()),
        "other_image_id": pa.nulls(count, pa.string()) if others is None else others,
        "partition": pa.array([partition] * count, pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns, schema=ISSUES)


def _count_copies(catalog: Catalog, partition: str) -> int:
    reasons = tables.read_batches(catalog.rejects, ["reason"], partition=partition)
    return sum(batch["reason"].to_pylist().count("duplicate") for batch in reasons)
