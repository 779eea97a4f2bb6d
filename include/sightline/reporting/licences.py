"""The section about rights: under which licences the train images stand, and whose they are."""

from typing import Any

from sightline.attribution import NAME
from sightline.reporting.report_input import ReportInput

MOST = 20

BY_LICENCE = """
    SELECT m.licence, count(*) AS images, count(DISTINCT m.author) AS authors FROM images i
    JOIN splits s ON s.image_id = i.image_id AND s.split = 'train'
    LEFT JOIN (
        SELECT uri, max(licence) AS licence, max(author) AS author FROM manifest GROUP BY uri
    ) m ON m.uri = i.uri
    WHERE i.label IS NOT NULL GROUP BY m.licence ORDER BY images DESC, m.licence
"""


def licences(report: ReportInput) -> dict[str, Any]:
    """Train images and authors of each licence, most frequent first, and where all are named."""
    rows = report.sql(BY_LICENCE)
    return {
        "licences": rows[:MOST],
        "count": len(rows),
        "images": sum(row["images"] for row in rows),
        "unknown": sum(row["images"] for row in rows if row["licence"] is None),
        "link": f"../models/{report.version}/{NAME}",
        "name": NAME,
    }
