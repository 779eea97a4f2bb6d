"""The section about what may be wrong with images: counts by kind, and the worst of each to be seen."""

from typing import Any

from sightline.reporting.report_input import ReportInput, Rows
from sightline.tables import literal

SHOWN = 6  # images of a kind
SIDE = 112  # pixels
COMMON_SHARE = 0.5  # of the images, above which a kind is how the dataset is, not a fault

EXPLANATIONS = {
    "near_duplicate": "A copy of another image, but for its encoding, size, a narrow crop or mirroring.",
    "dark": "Hardly a bright pixel.",
    "light": "Hardly a dark pixel.",
    "blurry": "No sharp edge.",
    "low_information": "Few grey levels.",
    "odd_aspect_ratio": "Very long or very high.",
    "odd_size": "Much larger or smaller than the others.",
    "greyscale": "Stored without colours.",
}


def issues(report: ReportInput) -> dict[str, Any] | None:
    """Kinds of issues, the most frequent first; None where no ingest has looked for them."""
    held = report.sql("SELECT count(*) AS n FROM images")[0]["n"]
    kinds = report.sql(
        "SELECT issue, count(*) AS n FROM issues x "
        "LEFT SEMI JOIN images i ON i.image_id = x.image_id GROUP BY issue ORDER BY n DESC, issue"
    )
    copies = report.sql("SELECT count(*) AS n FROM rejects WHERE reason = 'duplicate'")[0]["n"]
    inspected = any(record["task"] == "inspect_images" for record in report.ingest_records())
    if not kinds and not inspected:
        return None
    return {
        "kinds": [_kind(report, row, held) for row in kinds],
        "held": held,
        "exact_duplicates": copies,
    }


def _kind(report: ReportInput, row: dict[str, Any], held: int) -> dict[str, Any]:
    is_common = row["n"] > COMMON_SHARE * held
    return {
        "name": row["issue"].replace("_", " "),
        "explanation": EXPLANATIONS.get(row["issue"], ""),
        "count": row["n"],
        "share": row["n"] / held,
        "is_common": is_common,
        "examples": [] if is_common else _worst(report, row["issue"]),
    }


def _worst(report: ReportInput, issue: str) -> Rows:
    rows = report.sql(
        "SELECT x.image_id, x.other_image_id, x.score, i.uri FROM issues x "
        f"JOIN images i ON i.image_id = x.image_id WHERE x.issue = {literal(issue)} "
        f"ORDER BY x.score, x.image_id LIMIT {SHOWN}"
    )
    return [
        {
            **row,
            "picture": report.gallery.picture(row["image_id"], SIDE),
            "other": report.gallery.picture(row["other_image_id"], SIDE)
            if row["other_image_id"]
            else None,
        }
        for row in rows
    ]
