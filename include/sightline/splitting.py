"""Train, val and test, for good: by a hash of the near-duplicate group, so no image ever moves.

A group is the images that are copies of each other, as near_duplicates finds them; `split.group_by` adds
those of an owner or of a burst. Its split depends on nothing but the group, the dataset's name and the
shares when its first images came, so new images and other shares move no old image. Newcomers join an
older group's split. One that would tie groups of different splits together is set aside: no training and
no test ever sees it. An official split of the source is kept instead where there is one; what it tears
apart is counted. Images that the source wants predicted, and does not label, have no split.
"""

from collections import Counter

import pyarrow as pa

from sightline import batches, split_balance, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, SplitSpec
from sightline.errors import TrainingError
from sightline.hashing import place_of
from sightline.ledger import Record, TaskRun
from sightline.schemas import SPLITS
from sightline.split_groups import NEAR_DUPLICATE, Newcomers, Older, as_tables, plain

SET_ASIDE = "set_aside"
OLDER_ROWS = 262_144  # that are compared with the newcomers at a time

COLUMNS = "i.image_id, i.split_hint, i.phash, i.view_hashes, {owner}"
OWNER = "m.author, m.uploaded_at"
NO_OWNER = "CAST(NULL AS varchar) AS author, CAST(NULL AS timestamp) AS uploaded_at"
# A uri can stand in the manifest of several partitions.
JOINED = """
    LEFT JOIN (
        SELECT uri, max(author) AS author, max(uploaded_at) AS uploaded_at FROM manifest GROUP BY uri
    ) m ON m.uri = i.uri
"""
NEWCOMERS = """
    SELECT {columns} FROM images i {joined} LEFT ANTI JOIN splits s ON s.image_id = i.image_id
    WHERE coalesce(i.split_hint, '') <> 'predict'
"""
OLDER = """
    SELECT {columns}, s.group_id, s.split FROM images i {joined}
    JOIN splits s ON s.image_id = i.image_id
"""
COUNTS = "SELECT split, count(*) AS images FROM splits GROUP BY split"
GROUPS = """
    SELECT count(*) AS groups, max(images) AS largest,
        sum(CASE WHEN images > 1 THEN 1 ELSE 0 END) AS of_several,
        sum(CASE WHEN least <> most THEN 1 ELSE 0 END) AS straddling
    FROM (
        SELECT count(*) AS images, min(split) AS least, max(split) AS most FROM splits
        WHERE split <> 'set_aside' GROUP BY group_id
    ) g
"""
LEAKED = """
    SELECT count(*) AS images FROM splits s
    LEFT SEMI JOIN (SELECT group_id FROM splits WHERE split = 'train') t ON t.group_id = s.group_id
    WHERE s.split = 'test'
"""


def split_images(spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record) -> None:
    """Give every image that has no split yet its split; those that have one keep it.

    TrainingError, and no split is given, where train or test would stay empty.
    """
    record.read(catalog.images)
    if spec.split.group_by != NEAR_DUPLICATE:
        record.read(catalog.manifest)  # who has uploaded what
    rows = _assign(spec, _newcomers(spec, catalog))
    new = Counter(row["split"] for row in rows)
    _refuse_empty(spec, _counts(catalog) + new)
    new_rows = [pa.RecordBatch.from_pylist(rows, schema=SPLITS)]
    tables.append_new(
        catalog.splits, tables.write_batches(catalog.splits, new_rows), None, task.writer
    )
    record.counts = {**_count_all(catalog), "new": new.total()}
    record.counts["uneven"] = split_balance.uneven_classes(spec, catalog)
    record.wrote(catalog.splits, rows=new.total())


def choose_split(dataset: str, group_id: str, shares: SplitSpec) -> str:
    """The split of a group: the same for ever, whatever other images there are."""
    place = place_of(f"{shares.seed}/{dataset}/{group_id}")
    if place < shares.test:
        return "test"
    return "val" if place < shares.test + shares.val else "train"


def _newcomers(spec: DatasetSpec, catalog: Catalog) -> Newcomers:
    """The images without a split, with all that they belong to."""
    by_owner = spec.split.group_by != NEAR_DUPLICATE
    parts = {
        "columns": COLUMNS.format(owner=OWNER if by_owner else NO_OWNER),
        "joined": JOINED if by_owner else "",
    }
    read = {"images": catalog.images, "splits": catalog.splits, "manifest": catalog.manifest}
    with tables.stream_query(**read) as sql:
        found = Newcomers(plain(pa.table(sql(NEWCOMERS.format(**parts)).read_all())), spec.split)
        if len(found.images):
            for older in as_tables(batches.joined(sql(OLDER.format(**parts)), OLDER_ROWS)):
                found.meet(older)
    return found


def _assign(spec: DatasetSpec, newcomers: Newcomers) -> list[dict[str, str]]:
    """Rows of the splits table."""
    image_ids = newcomers.images["image_id"].to_pylist()
    hints = newcomers.images["split_hint"].to_pylist()
    phashes = newcomers.images["phash"].to_pylist()
    rows = []
    for members, older in newcomers:
        given = {group.split for group in older} | {hints[row] for row in members if hints[row]}
        own_id = min(phashes[row] for row in members)
        for row in members:
            split = hints[row] or _follow(given) or choose_split(spec.name, own_id, spec.split)
            group_id = _group_id(older, split) or own_id
            rows.append({"image_id": image_ids[row], "group_id": group_id, "split": split})
    return rows


def _follow(given: set[str]) -> str | None:
    """The split that a group has already; none where it is new."""
    if len(given) > 1:
        return SET_ASIDE
    return next(iter(given), None)


def _group_id(older: list[Older], split: str) -> str | None:
    """The older group to belong to; of several one in another split, so that the leak is counted."""
    chosen = min(older, key=lambda group: (group.split == split, group.group_id), default=None)
    return None if chosen is None else chosen.group_id


def _count_all(catalog: Catalog) -> dict[str, int]:
    counts = _counts(catalog)
    with tables.query(splits=catalog.splits) as sql:
        groups = sql(GROUPS).to_pylist()[0]
        leaked = sql(LEAKED)["images"][0].as_py()
    return {
        "images": counts.total(),
        **{name: counts[name] for name in ("train", "val", "test", SET_ASIDE)},
        "groups": groups["groups"],
        "groups_of_several": groups["of_several"] or 0,
        "largest_group": groups["largest"] or 0,
        "straddling": groups["straddling"] or 0,
        "leaked_test_images": leaked,
    }


def _counts(catalog: Catalog) -> Counter[str]:
    with tables.query(splits=catalog.splits) as sql:
        return Counter({row["split"]: row["images"] for row in sql(COUNTS).to_pylist()})


def _refuse_empty(spec: DatasetSpec, counts: Counter[str]) -> None:
    if not counts["train"] or not counts["test"]:
        raise TrainingError(
            f"Dataset {spec.name}: {counts['train']} train and {counts['test']} test images; both are "
            "needed, so add images or change split.test."
        )
