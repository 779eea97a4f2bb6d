"""The gallery: a dataset's images page by page, newest partition first, with filters.

A page begins behind the last image of the one before it, so a late page costs no more than the first. Of the
partitions no more are read than fill the page.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

from sightline import delta, models, tables
from sightline.catalog import Catalog
from sightline.reporting.formats import natural_order
from sightline.tables import literal
from sightline.web.recent import Recent
from sightline.web.views.newest import files_by_partition

PAGE_IMAGES = 60
UNLABELLED = "(no label)"
UNKNOWN = "(unknown)"

Rows = list[dict[str, Any]]
_counts: Recent[int] = Recent(512)
_choices: Recent["Choices"] = Recent(64)


@dataclass(frozen=True)
class Filters:
    """Which images are wanted; an empty text, all of them."""

    label: str = ""
    split: str = ""
    partition: str = ""
    licence: str = ""
    issue: str = ""
    predicted: str = ""  # by the champion, of a test image
    wrong: bool = False  # predicted wrong by the champion

    @property
    def chosen(self) -> dict[str, str]:
        """Those that are set, as an address has them."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: "1" if value is True else value for name, value in held.items() if value}


@dataclass(frozen=True)
class Cursor:
    """The image behind which a page begins."""

    partition: str
    uri: str
    image_id: str


@dataclass(frozen=True)
class Tile:
    """An image of a page."""

    image_id: str
    uri: str
    label: str | None
    given_label: str | None  # the source's; another one where a person has corrected it
    partition: str
    is_tiny: bool
    split: str | None = None
    predicted: str | None = None  # by the champion


@dataclass(frozen=True)
class GalleryPage:
    """A page; `after` is where the next one begins, None on the last."""

    tiles: list[Tile]
    matching: int  # images of all pages
    after: Cursor | None


@dataclass(frozen=True)
class Choices:
    """What can be filtered for, each with its images."""

    labels: dict[str, int]
    splits: dict[str, int]
    partitions: dict[str, int]
    licences: dict[str, int]
    issues: dict[str, int]


def read_page(catalog: Catalog, filters: Filters, after: Cursor | None) -> GalleryPage:
    """The images behind a cursor, or the first ones."""
    champion = _champion(catalog)
    rows = list(islice(_find(catalog, filters, after, champion), PAGE_IMAGES + 1))
    shown = _completed(catalog, [_tile(row) for row in rows[:PAGE_IMAGES]], champion)
    last = shown[-1] if len(rows) > PAGE_IMAGES else None
    return GalleryPage(
        shown,
        _count(catalog, filters, champion),
        Cursor(last.partition, last.uri, last.image_id) if last else None,
    )


def read_choices(catalog: Catalog) -> Choices:
    """What there is to filter for."""
    names = ("images", "splits", "manifest", "issues", "label_overrides")
    key = (catalog.root, *(tables.current_version(getattr(catalog, name)) for name in names))
    return _choices.get(key, lambda: _read_choices(catalog))


def partitions_of(catalog: Catalog) -> dict[str, int]:
    """Images of each partition, the newest first; from the log alone."""
    names = sorted(filter(None, delta.urls_by_partition(catalog.images)), reverse=True)
    return {name: tables.count_rows(catalog.images, partition=name) for name in names}


def _find(
    catalog: Catalog, filters: Filters, after: Cursor | None, champion: str | None
) -> Iterator[dict[str, Any]]:
    """Rows of a page and those behind it, as far as they are asked for."""
    held = sorted(filter(None, files_by_partition(catalog.images)), reverse=True)
    wanted = [name for name in held if filters.partition in ("", name)]
    wanted = [name for name in wanted if after is None or name <= after.partition]
    condition = _condition(filters, champion)
    behind = ""
    if after is not None:
        place, uri, image_id = map(literal, (after.partition, after.uri, after.image_id))
        later = f"i.uri > {uri} OR (i.uri = {uri} AND i.image_id > {image_id})"
        behind = f" AND (i.partition < {place} OR {later})"
    with tables.query(**_tables(catalog, filters, champion)) as sql:
        for some in _groups(wanted):
            yield from sql(
                "SELECT i.image_id, i.uri, coalesce(o.label, i.label) AS label, i.label AS given_label, "
                "i.partition, i.width, i.height FROM images i "
                "LEFT JOIN label_overrides o ON o.image_id = i.image_id "
                f"WHERE i.partition IN ({', '.join(map(literal, some))}) AND {condition}{behind} "
                f"ORDER BY i.partition DESC, i.uri, i.image_id LIMIT {PAGE_IMAGES + 1}"
            ).to_pylist()


def _groups(partitions: list[str]) -> Iterator[list[str]]:
    """One partition, then two, four, ...: a page is mostly filled by the first, a rare class by many."""
    size, start = 1, 0
    while start < len(partitions):
        yield partitions[start : start + size]
        start, size = start + size, 2 * size


def _tables(catalog: Catalog, filters: Filters, champion: str | None) -> dict[str, tables.Table]:
    """Those that a condition asks."""
    names = ["images", "label_overrides"]
    names += ["splits"] if filters.split else []
    names += ["manifest"] if filters.licence else []
    names += ["issues"] if filters.issue else []
    names += ["predictions"] if (filters.wrong or filters.predicted) and champion else []
    return {name: getattr(catalog, name) for name in names}


def _condition(filters: Filters, champion: str | None) -> str:
    """The SQL condition for an image i with the decision o on its label."""
    parts = ["true"]
    if filters.label == UNLABELLED:
        parts.append("coalesce(o.label, i.label) IS NULL")
    elif filters.label:
        parts.append(f"coalesce(o.label, i.label) = {literal(filters.label)}")
    if filters.partition:
        parts.append(f"i.partition = {literal(filters.partition)}")
    if filters.split:
        parts.append(_among("splits", f"split = {literal(filters.split)}"))
    if filters.issue:
        parts.append(_among("issues", f"issue = {literal(filters.issue)}"))
    if filters.licence:
        is_ours = f"licence = {literal(filters.licence)}"
        is_ours = "licence IS NULL" if filters.licence == UNKNOWN else is_ours
        parts.append(f"i.uri IN (SELECT uri FROM manifest WHERE {is_ours})")
    if filters.wrong or filters.predicted:
        parts.append(_predicted(filters, champion))
    return " AND ".join(parts)


def _among(table: str, condition: str) -> str:
    return f"i.image_id IN (SELECT image_id FROM {table} WHERE {condition})"


def _predicted(filters: Filters, champion: str | None) -> str:
    """Of the champion's test images those with a prediction that is asked for; none without a champion."""
    if champion is None:
        return "false"
    conditions = [f"p.model_version = {literal(champion)}"]
    if filters.predicted:
        conditions.append(f"p.predicted = {literal(filters.predicted)}")
    if filters.wrong:
        conditions.append("coalesce(d.label, p.label) <> p.predicted")
    return (
        "i.image_id IN (SELECT p.image_id FROM predictions p LEFT JOIN label_overrides d "
        f"ON d.image_id = p.image_id WHERE {' AND '.join(conditions)})"
    )


def _count(catalog: Catalog, filters: Filters, champion: str | None) -> int:
    if not filters.chosen:
        return tables.count_rows(catalog.images)
    read = _tables(catalog, filters, champion)
    key = (filters, champion, catalog.root, *map(tables.current_version, read.values()))
    return _counts.get(key, lambda: _count_again(read, _condition(filters, champion)))


def _count_again(read: dict[str, tables.Table], condition: str) -> int:
    with tables.query(**read) as sql:
        found = sql(
            "SELECT count(*) AS n FROM images i LEFT JOIN label_overrides o ON o.image_id = i.image_id "
            f"WHERE {condition}"
        )
    return int(found["n"][0].as_py())


def _tile(row: dict[str, Any]) -> Tile:
    own = {name: row[name] for name in ("image_id", "uri", "label", "given_label", "partition")}
    return Tile(**own, is_tiny=max(row["width"], row["height"]) <= 96)


def _completed(catalog: Catalog, tiles: list[Tile], champion: str | None) -> list[Tile]:
    """With split and prediction."""
    ids = [tile.image_id for tile in tiles]
    listed = ", ".join(map(literal, ids)) or "''"
    ours = f"image_id IN ({listed})"
    with tables.query(splits=catalog.splits, predictions=catalog.predictions) as sql:
        splits = sql(f"SELECT image_id, split FROM splits WHERE {ours}").to_pylist()
        predictions = sql(
            f"SELECT image_id, predicted FROM predictions WHERE {ours} "
            f"AND model_version = {literal(champion or '')}"
        ).to_pylist()
    split_of = {row["image_id"]: row["split"] for row in splits}
    predicted = {row["image_id"]: row["predicted"] for row in predictions}
    return [
        replace(tile, split=split_of.get(tile.image_id), predicted=predicted.get(tile.image_id))
        for tile in tiles
    ]


def _champion(catalog: Catalog) -> str | None:
    history = models.champion_history(catalog)
    return history[-1]["version"] if history else None


def _read_choices(catalog: Catalog) -> Choices:
    names = ("images", "splits", "manifest", "issues", "label_overrides")
    read = {name: getattr(catalog, name) for name in names}
    with tables.query(**read) as sql:

        def counted(value: str, rest: str, unknown: str) -> dict[str, int]:
            found = sql(f"SELECT {value} AS name, count(*) AS n FROM {rest} GROUP BY 1").to_pylist()
            rows = sorted(found, key=lambda row: natural_order(row["name"]))
            return {row["name"] or unknown: row["n"] for row in rows}

        overridden = "images i LEFT JOIN label_overrides o ON o.image_id = i.image_id"
        return Choices(
            labels=counted("coalesce(o.label, i.label)", overridden, UNLABELLED),
            splits=counted("split", "splits", UNKNOWN),
            partitions=partitions_of(catalog),
            licences=counted("licence", "manifest", UNKNOWN),
            issues=counted("issue", "issues", UNKNOWN),
        )
