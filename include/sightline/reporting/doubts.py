"""Sections about what is in doubt: suspicious labels, conflicts of labels, drift."""

from typing import Any

from sightline.conflicts import find_conflicts
from sightline.reporting.report_input import ReportInput, Rows, literals
from sightline.tables import literal

SUSPICIOUS_SHOWN = 24
OUTLIERS_SHOWN = 12
CONFLICTS_SHOWN = 12
PARTITIONS_SHOWN = 31
SIDE = 168  # pixels

AUDITED = (
    "judged",
    "train_images",
    "accuracy",
    "label_issues",
    "outliers",
    "conflicts",
    "excluded",
)


def suspicious_labels(report: ReportInput) -> dict[str, Any] | None:
    """The labels that the other images speak against, worst first, and the images like no other; None of
    a model whose labels nobody has audited."""
    records = [one for one in report.train_records() if one["task"] == "audit_labels"]
    ours = f"model_version = {literal(report.plan_version)}"
    found = report.sql(f"SELECT count(*) AS n FROM suspicious_labels WHERE {ours}")[0]["n"]
    if not records and not found:
        return None
    counts = records[0]["counts"] if records else {}
    doubtful = f"{ours} AND (is_label_issue OR label_probability < suggested_probability)"
    return {
        "counts": {name: counts.get(name) for name in AUDITED},
        "labels": _pictured(report, doubtful, "rank", SUSPICIOUS_SHOWN),
        "label_count": report.sql(f"SELECT count(*) AS n FROM suspicious_labels WHERE {doubtful}")[
            0
        ]["n"],
        "outliers": _pictured(
            report, f"{ours} AND is_outlier", "distance DESC, image_id", OUTLIERS_SHOWN
        ),
        "excluded": report.model.get("excluded", {}).get("suspicious", 0),
    }


def conflicts(report: ReportInput) -> dict[str, Any] | None:
    """Images whose bytes the source gives under two labels; None where there are none."""
    found = find_conflicts(report.catalog, report.model["tables"].get("images")).to_pylist()
    if not found:
        return None
    labels = report.model["spec"].get("labels") or {}
    shown = [
        {**row, "picture": report.gallery.picture(row["image_id"], SIDE)}
        for row in found[:CONFLICTS_SHOWN]
    ]
    return {
        "images": len({row["image_id"] for row in found}),
        "count": len(found),
        "shown": shown,
        "is_dropped": labels.get("conflicts", "drop") == "drop",
    }


def drift(report: ReportInput) -> dict[str, Any] | None:
    """How far the newest partitions are from what was there before, newest first; None where nothing was
    measured."""
    newest = report.sql(
        "SELECT DISTINCT d.partition FROM drift d WHERE d.value IS NOT NULL "
        f"ORDER BY d.partition DESC LIMIT {PARTITIONS_SHOWN}"
    )
    if not newest:
        return None
    chosen = literals([row["partition"] for row in newest])
    rows = report.sql(f"SELECT * FROM drift d WHERE d.partition IN ({chosen})")
    names = list(dict.fromkeys(row["name"] for row in rows))
    by_place = {(row["partition"], row["name"]): row for row in rows}
    partitions = [row["partition"] for row in newest]
    return {
        "names": names,
        "limits": [_limits(by_place.get((partitions[0], name))) for name in names],
        "partitions": [
            {
                "name": partition,
                "images": max(row["images"] for row in rows if row["partition"] == partition),
                "numbers": [by_place.get((partition, name)) for name in names],
            }
            for partition in partitions
        ],
    }


def _pictured(report: ReportInput, condition: str, order: str, limit: int) -> Rows:
    """Some rows of suspicious_labels with the names and pictures of their images."""
    rows = report.sql(
        f"SELECT * FROM suspicious_labels WHERE {condition} ORDER BY {order} LIMIT {limit}"
    )
    ids = literals([row["image_id"] for row in rows]) or "NULL"
    uris = report.sql(f"SELECT image_id, uri FROM images WHERE image_id IN ({ids})")
    uri_of = {row["image_id"]: row["uri"] for row in uris}
    return [
        {
            **row,
            "uri": uri_of.get(row["image_id"], "an image that was taken down"),
            "picture": report.gallery.picture(row["image_id"], SIDE),
        }
        for row in rows
    ]


def _limits(row: dict[str, Any] | None) -> str:
    """A number's thresholds as a person reads them."""
    named = [
        f"{verdict} from {row[verdict]:g}"
        for verdict in ("warn", "stop")
        if row and row[verdict] is not None
    ]
    return ", ".join(named) or "no limit"
