"""The section about the splits: groups of near-duplicates, what leaks across, what was set aside."""

from typing import Any

from sightline.reporting.report_input import ReportInput

GROUPS = """
    SELECT count(*) AS groups, coalesce(max(images), 0) AS largest,
        coalesce(sum(CASE WHEN images > 1 THEN 1 ELSE 0 END), 0) AS of_several,
        coalesce(sum(CASE WHEN images > 1 THEN images ELSE 0 END), 0) AS images_of_several,
        coalesce(sum(CASE WHEN least <> most THEN 1 ELSE 0 END), 0) AS straddling
    FROM (
        SELECT count(*) AS images, min(split) AS least, max(split) AS most FROM splits
        WHERE split <> 'set_aside' GROUP BY group_id
    ) g
"""
LEAKED = """
    SELECT count(*) AS n FROM splits s
    LEFT SEMI JOIN (SELECT group_id FROM splits WHERE split = 'train') t ON t.group_id = s.group_id
    WHERE s.split = 'test'
"""


def splits(report: ReportInput) -> dict[str, Any]:
    """Counts of groups, of leaks across an official split, and classes that are unevenly split."""
    counts = {
        row["split"]: row["n"]
        for row in report.sql("SELECT split, count(*) AS n FROM splits GROUP BY split")
    }
    split_records = [one for one in report.train_records() if one["task"] == "split"]
    metrics = report.model["metrics"]
    return {
        **report.sql(GROUPS)[0],
        "counts": counts,
        "tested": counts.get("test", 0),
        "leaked": report.sql(LEAKED)[0]["n"],
        "set_aside": counts.get("set_aside", 0),
        "accuracy": metrics.get("accuracy"),
        "duplicate_free": metrics.get("duplicate_free_accuracy"),
        "uneven": split_records[-1]["counts"].get("uneven", []) if split_records else [],
    }
