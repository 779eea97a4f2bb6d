"""What became of every expectation, in the table check_results: a validation that is run again leaves the
rows of its last try.
"""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from sightline import tables
from sightline.catalog import Catalog
from sightline.ledger import TaskRun
from sightline.schemas import CHECK_RESULTS
from sightline.tables import Writer
from sightline.validation.checking import Finding


def keep(catalog: Catalog, task: TaskRun, suite: str, findings: list[Finding]) -> None:
    """Add a validation's results to the history, in place of an earlier try's."""
    run = f"{task.dag_id}/{task.run_id}"
    validation = f"{run}/{suite}/{task.partition}"
    common = {
        "validation": validation,
        "run": run,
        "suite": suite,
        "partition": task.partition,
        "checked_at": datetime.now(UTC),
    }
    table = catalog.check_results
    held = tables.claim(table, Writer(f"validate:{validation}", run))
    rows = [{**common, **_result(finding)} for finding in findings]
    urls = tables.write_batches(table, [pa.RecordBatch.from_pylist(rows, schema=CHECK_RESULTS)])
    tables.replace_partition(table, urls, validation, held)


def _result(finding: Finding) -> dict[str, Any]:
    passed = finding.judged - finding.unexpected
    return {
        "expectation": finding.check.expectation,
        "column": ", ".join(finding.check.columns),
        "because": finding.check.because,
        "success": finding.passed,
        "rows": finding.rows,
        "judged": finding.judged,
        "unexpected": finding.unexpected,
        "observed": passed / finding.judged if finding.judged else None,
        "least": finding.mostly,
    }
