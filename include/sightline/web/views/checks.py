"""What became of the checks of each night: validations, the newest first, with what they found."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sightline import tables
from sightline.catalog import Catalog
from sightline.tables import literal

PAGE_VALIDATIONS = 50


@dataclass(frozen=True)
class Found:
    """An expectation that was not met."""

    expectation: str
    column: str
    because: str
    unexpected: int
    judged: int
    observed: float | None  # share of judged rows as expected
    least: float  # the share that is asked


@dataclass(frozen=True)
class Validation:
    """One look at a table."""

    suite: str
    partition: str
    run: str
    checked_at: datetime
    rows: int
    checks: int
    failed: list[Found]


def read_validations(catalog: Catalog, number: int) -> tuple[list[Validation], int]:
    """A page, from 1, of the validations, and how many pages there are."""
    with tables.query(checks=catalog.check_results) as sql:
        count = sql("SELECT count(DISTINCT validation) AS n FROM checks")["n"][0].as_py()
        looks = sql(
            "SELECT validation, suite, partition, run, max(checked_at) AS checked_at, "
            "max(rows) AS rows, count(*) AS checks FROM checks GROUP BY 1, 2, 3, 4 "
            f"ORDER BY checked_at DESC, validation LIMIT {PAGE_VALIDATIONS} "
            f"OFFSET {(number - 1) * PAGE_VALIDATIONS}"
        ).to_pylist()
        listed = ", ".join(literal(row["validation"]) for row in looks) or "''"
        failed = sql(
            'SELECT validation, expectation, "column", because, unexpected, judged, observed, least '
            f"FROM checks WHERE NOT success AND validation IN ({listed}) ORDER BY observed, expectation"
        ).to_pylist()
    findings: dict[str, list[Any]] = {}
    for row in failed:
        findings.setdefault(row.pop("validation"), []).append(Found(**row))
    shown = [Validation(failed=findings.get(row.pop("validation"), []), **row) for row in looks]
    return shown, -(-count // PAGE_VALIDATIONS)
