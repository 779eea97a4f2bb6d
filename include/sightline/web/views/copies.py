"""Images beside those that they are copies of: the same bytes, or almost the same picture."""

from dataclasses import dataclass

from sightline import tables
from sightline.catalog import Catalog
from sightline.rejection import HOLDER
from sightline.reporting.pictures import jpeg_source

PAGE_PAIRS = 30
NEAR, EXACT = "near", "exact"


@dataclass(frozen=True)
class Side:
    """An image of a pair; one that is not held has a picture inside the page, or none."""

    uri: str
    label: str | None
    image_id: str | None
    split: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Pair:
    """A copy and what it is a copy of."""

    copy: Side
    original: Side
    note: str  # what they differ in: a label, a split
    score: float | None  # of a near-duplicate: 0 is the same picture


@dataclass(frozen=True)
class Pairs:
    """A page of them."""

    kind: str
    shown: list[Pair]
    counts: dict[str, int]  # of both kinds
    pages: int


IS_NEAR = "x.issue = 'near_duplicate' AND x.other_image_id IS NOT NULL"
IS_EXACT = "r.reason IN ('duplicate', 'conflict')"


def read_pairs(catalog: Catalog, kind: str, number: int) -> Pairs:
    """A page, from 1, of near-duplicates (most alike first) or of the same bytes under two addresses."""
    with tables.query(issues=catalog.issues, rejects=catalog.rejects) as sql:
        near = sql(f"SELECT count(*) AS n FROM issues x WHERE {IS_NEAR}")["n"][0].as_py()
        exact = sql(f"SELECT count(*) AS n FROM rejects r WHERE {IS_EXACT}")["n"][0].as_py()
    counts = {NEAR: near, EXACT: exact}
    shown = (_near if kind == NEAR else _exact)(catalog, (number - 1) * PAGE_PAIRS)
    return Pairs(kind, shown, counts, -(-counts[kind] // PAGE_PAIRS))


def _near(catalog: Catalog, offset: int) -> list[Pair]:
    names = ("issues", "images", "splits", "label_overrides")
    with tables.query(**{name: getattr(catalog, name) for name in names}) as sql:
        rows = sql(f"""
            SELECT x.score, a.uri, coalesce(o.label, a.label) AS label, x.image_id, s.split,
                b.uri AS other_uri, coalesce(p.label, b.label) AS other_label,
                x.other_image_id, t.split AS other_split
            FROM (
                SELECT image_id, other_image_id, score FROM issues x WHERE {IS_NEAR}
                ORDER BY score, image_id LIMIT {PAGE_PAIRS} OFFSET {offset}
            ) x
            JOIN images a ON a.image_id = x.image_id JOIN images b ON b.image_id = x.other_image_id
            LEFT JOIN splits s ON s.image_id = x.image_id
            LEFT JOIN splits t ON t.image_id = x.other_image_id
            LEFT JOIN label_overrides o ON o.image_id = x.image_id
            LEFT JOIN label_overrides p ON p.image_id = x.other_image_id
            ORDER BY x.score, x.image_id
        """).to_pylist()
    sides = [
        (
            Side(row["uri"], row["label"], row["image_id"], row["split"]),
            Side(row["other_uri"], row["other_label"], row["other_image_id"], row["other_split"]),
            row["score"],
        )
        for row in rows
    ]
    return [Pair(copy, original, _note(copy, original), score) for copy, original, score in sides]


def _exact(catalog: Catalog, offset: int) -> list[Pair]:
    names = ("rejects", "images")
    with tables.query(**{name: getattr(catalog, name) for name in names}) as sql:
        rows = sql(f"""
            SELECT r.uri, r.label, r.thumbnail, r.holder, i.image_id, i.label AS other_label
            FROM (
                SELECT r.uri, r.label, r.thumbnail, {HOLDER} AS holder FROM rejects r
                WHERE {IS_EXACT} ORDER BY r.uri LIMIT {PAGE_PAIRS} OFFSET {offset}
            ) r LEFT JOIN images i ON i.uri = r.holder ORDER BY r.uri
        """).to_pylist()
    pairs = []
    for row in rows:
        source = jpeg_source(row["thumbnail"], row["uri"]) if row["thumbnail"] else ""
        copy = Side(row["uri"], row["label"], None, source=source)
        original = Side(row["holder"], row["other_label"], row["image_id"])
        pairs.append(Pair(copy, original, _note(copy, original), None))
    return pairs


def _note(copy: Side, original: Side) -> str:
    differ = []
    if copy.label != original.label:
        differ.append("other label")
    if copy.split and original.split and copy.split != original.split:
        differ.append(f"{copy.split} beside {original.split}")
    return ", ".join(differ)
