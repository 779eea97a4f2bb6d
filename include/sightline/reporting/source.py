"""What the source says of itself: how complete a harvest is, what Open Images' labels hold."""

from collections import Counter
from typing import Any

from sightline.reporting.report_input import ReportInput, Rows

PARTITIONS_SHOWN = 31
COUNTED = (
    "reported",
    "unique",
    "missing",
    "duplicate",
    "several_classes",
    "without_url",
    "queries",
)


def source(report: ReportInput) -> dict[str, Any] | None:
    """The numbers that the listings have kept; None for a source that keeps none."""
    records = report.listing_records()
    harvests = [record for record in records if "harvest" in record["counts"]]
    explored = [record["counts"] for record in records if "exploration" in record["counts"]]
    if not harvests and not explored:
        return None
    return {
        "harvest": _harvest(harvests) if harvests else None,
        "exploration": _exploration(explored[0]["exploration"]) if explored else None,
    }


def _harvest(records: Rows) -> dict[str, Any]:
    """Each partition's completeness, and that of all together."""
    partitions = [
        {"partition": record["partition"], **record["counts"]["harvest"]} for record in records
    ]
    totals = Counter({name: sum(one[name] for one in partitions) for name in COUNTED})
    complete = 1 - totals["missing"] / totals["reported"] if totals["reported"] else 1.0
    incomplete = [one for one in partitions if one["missing"]]
    return {
        "totals": dict(totals),
        "completeness": complete,
        "partitions": partitions[:PARTITIONS_SHOWN],
        "partition_count": len(partitions),
        "incomplete": [one["partition"] for one in incomplete[:PARTITIONS_SHOWN]],
    }


def _exploration(found: dict[str, Any]) -> dict[str, Any]:
    """Labels by class and source, images of several classes, and sizes."""
    sizes = found["original_bytes"]
    return {
        "labels": [
            {"label": label, "source": who, "is_there": is_there, "count": count}
            for label, who, is_there, count in found["labels"]
        ],
        "several": [{"classes": row[:-1], "count": row[-1]} for row in found["several_classes"]],
        "policy": found["ambiguous"],
        "images": sorted(found["images_by_class"].items()),
        "rotated": found["rotated"],
        "unlisted": found["not_in_the_image_list"],
        "sizes": dict(
            zip(("least", "quarter", "median", "three_quarters", "most"), sizes, strict=True)
        )
        if sizes
        else None,
    }
