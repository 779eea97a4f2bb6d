"""What `sightline issues` tells: how many images of a dataset have which issue, and the worst of them."""

from dataclasses import asdict, dataclass
from typing import Any

from sightline import tables
from sightline.catalog import Catalog


@dataclass(frozen=True)
class Issue:
    """An image that may have something wrong with it."""

    issue: str
    score: float
    threshold: float
    image_id: str
    uri: str
    other_uri: str | None  # of the image that it is a near-duplicate of


@dataclass(frozen=True)
class Issues:
    """How many images have which issue, and the worst of one kind where it was asked for."""

    counts: dict[str, int]
    worst: list[Issue] | None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def describe(self) -> list[str]:
        """Lines for a person."""
        if self.worst is None:
            lines = [f"{count:>9,}  {issue}" for issue, count in self.counts.items()]
            return lines or ["No issue was found."]
        copies = [f", a copy of {one.other_uri}" if one.other_uri else "" for one in self.worst]
        lines = [f"{one.score:.3f}  {one.uri}" for one in self.worst]
        return [line + copy for line, copy in zip(lines, copies, strict=True)] or ["None has it."]


def read_issues(catalog: Catalog, kind: str | None, limit: int) -> Issues:
    """The counts, and of one kind so many images, the worst first."""
    return Issues(_counts(catalog), None if kind is None else _worst(catalog, kind, limit))


def _counts(catalog: Catalog) -> dict[str, int]:
    """Images by kind of issue, the most frequent first; exact duplicates are rejects."""
    with tables.query(issues=catalog.issues, rejects=catalog.rejects) as sql:
        rows = sql("SELECT issue, count(*) AS n FROM issues GROUP BY issue").to_pylist()
        copies = sql("SELECT count(*) AS n FROM rejects WHERE reason = 'duplicate'")["n"][0].as_py()
    counts = {row["issue"]: row["n"] for row in rows} | (
        {"exact_duplicate": copies} if copies else {}
    )
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _worst(catalog: Catalog, issue: str, limit: int) -> list[Issue]:
    """The images that have an issue, the worst first."""
    with tables.query(issues=catalog.issues, images=catalog.images) as sql:
        rows: list[dict[str, Any]] = sql(
            "SELECT x.issue, x.score, x.threshold, x.image_id, i.uri, o.uri AS other_uri FROM issues x "
            "JOIN images i ON i.image_id = x.image_id LEFT JOIN images o ON o.image_id = x.other_image_id "
            f"WHERE x.issue = {tables.literal(issue)} ORDER BY x.score, x.image_id LIMIT {int(limit)}"
        ).to_pylist()
    return [Issue(**row) for row in rows]
