"""Sections about the data: how many images a class has, what they look like, what was refused."""

from typing import Any

from sightline import images
from sightline.reporting.formats import natural_order
from sightline.reporting.pictures import jpeg_source
from sightline.reporting.report_input import ReportInput, Rows
from sightline.tables import literal

SPLITS = ("train", "val", "test", "set_aside", "none")
BALANCE_ENDS = 20  # classes shown at either end, when there are too many
SAMPLE_CLASSES = 12
SAMPLES_EACH = 6
SAMPLE_SIDE = 112  # pixels
REJECT_EXAMPLES = 3


def class_balance(report: ReportInput) -> dict[str, Any]:
    """Images of each class by split, largest class first."""
    counts: dict[str | None, dict[str, int]] = {}
    for row in report.sql(
        "SELECT images.label, coalesce(splits.split, 'none') AS split, count(*) AS n FROM images "
        "LEFT JOIN splits ON images.image_id = splits.image_id GROUP BY 1, 2"
    ):
        counts.setdefault(row["label"], dict.fromkeys(SPLITS, 0))[row["split"]] = row["n"]
    classes: Rows = [
        {"label": label, "total": sum(splits.values()), **splits}
        for label, splits in sorted(counts.items(), key=lambda item: natural_order(item[0]))
    ]
    classes.sort(key=lambda one: -one["total"])
    capped = len(classes) > 2 * BALANCE_ENDS
    return {
        "classes": classes[:BALANCE_ENDS] + classes[-BALANCE_ENDS:] if capped else classes,
        "class_count": len(classes),
        "ends": BALANCE_ENDS if capped else None,
        "largest": max((one["total"] for one in classes), default=0),
        "smallest": min((one["total"] for one in classes), default=0),
        "splits": [name for name in SPLITS if any(one[name] for one in classes)],
    }


def samples(report: ReportInput) -> dict[str, Any]:
    """A few images of each class, picked by the seed."""
    seed = int(report.model["seed"])
    labels = [
        row["label"]
        for row in report.sql(
            "SELECT label FROM images WHERE label IS NOT NULL GROUP BY label "
            f"ORDER BY md5(concat(label, '{seed}')) LIMIT {SAMPLE_CLASSES}"
        )
    ]
    return {
        "classes": [
            {"label": label, "samples": _samples(report, label)}
            for label in sorted(labels, key=natural_order)
        ],
        "class_count": report.sql("SELECT count(DISTINCT label) AS n FROM images")[0]["n"],
        "each": SAMPLES_EACH,
    }


def _samples(report: ReportInput, label: str) -> Rows:
    rows = report.sql(
        f"SELECT image_id, uri FROM images WHERE label = {literal(label)} "
        f"ORDER BY {report.at_random} LIMIT {SAMPLES_EACH}"
    )
    return [
        {**row, "picture": report.gallery.picture(row["image_id"], SAMPLE_SIDE)} for row in rows
    ]


def rejects(report: ReportInput) -> dict[str, Any]:
    """What could not be taken, by reason, most frequent first."""
    held = report.sql("SELECT count(*) AS n FROM images")[0]["n"]
    reasons = report.sql(
        "SELECT reason, count(*) AS n FROM rejects GROUP BY reason ORDER BY n DESC, reason"
    )
    total = sum(row["n"] for row in reasons)
    return {
        "reasons": [
            {
                "code": row["reason"],
                "explanation": images.REASONS.get(row["reason"], ""),
                "count": row["n"],
                "share": row["n"] / (held + total),
                "examples": _reject_examples(report, row["reason"]),
            }
            for row in reasons
        ],
        "total": total,
        "held": held,
    }


def _reject_examples(report: ReportInput, reason: str) -> Rows:
    """Some rejects of a reason, those of which something can be seen first."""
    rows = report.sql(
        f"SELECT uri, thumbnail FROM rejects WHERE reason = {literal(reason)} "
        f"ORDER BY thumbnail IS NULL, md5(uri) LIMIT {REJECT_EXAMPLES}"
    )
    return [
        {
            "uri": row["uri"],
            "source": jpeg_source(row["thumbnail"], row["uri"]) if row["thumbnail"] else "",
        }
        for row in rows
    ]
