"""The gates between the stages: each table is validated by a Great Expectations suite before the next
stage reads it, and Data Docs keep what was found. Nothing else imports great_expectations.

include/expectations/*.yaml, and the dataset's own -> suites; tables -> frames; checking judges; data_docs
shows; history keeps.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

from sightline.catalog import Catalog
from sightline.config import LimitsSpec
from sightline.errors import CheckFailed
from sightline.ledger import TaskRun
from sightline.validation import data_docs, history
from sightline.validation.checking import Finding, run_suite
from sightline.validation.frames import (
    Frame,
    features_frames,
    images_frames,
    manifest_frames,
)
from sightline.validation.suites import load_suite

log = logging.getLogger(__name__)

SHOWN_EXAMPLES = 3


@dataclass(frozen=True)
class Outcome:
    """A table that met its expectations: how many rows and checks, and the page that shows them."""

    rows: int
    checks: int
    seconds: float
    page: str
    findings: list[dict[str, Any]]


def validate_manifest(catalog: Catalog, task: TaskRun, limits: LimitsSpec) -> Outcome:
    """Check the partition's rows of the manifest; CheckFailed says which expectations they break."""
    return _validate(catalog, "manifest", task, manifest_frames(catalog, task.partition), limits)


def validate_images(catalog: Catalog, task: TaskRun, limits: LimitsSpec) -> Outcome:
    """Check what became of the partition's images, the share of rejected ones above all."""
    return _validate(catalog, "images", task, images_frames(catalog, task.partition), limits)


def validate_features(
    catalog: Catalog, task: TaskRun, backbone_id: str, dim: int, limits: LimitsSpec
) -> Outcome:
    """Check that each image of the partition has its embedding, and that the backbone's are sound."""
    frames = features_frames(catalog, task.partition, backbone_id, dim)
    return _validate(catalog, "features", task, frames, limits, dimension=dim)


def _validate(
    catalog: Catalog,
    table: str,
    task: TaskRun,
    frames: list[Frame],
    limits: LimitsSpec,
    **parameters: Any,
) -> Outcome:
    started = time.monotonic()
    parameters["accepted_share"] = round(1 - limits.rejected_share, 9)
    partition = task.partition
    findings = run_suite(table, load_suite(table, catalog.dataset), frames, parameters)
    history.keep(catalog, task, table, findings)
    page = data_docs.publish(catalog, table, partition, findings)
    failed = [finding for finding in findings if not finding.passed]
    told = [_tell(table, finding) for finding in findings]
    if failed:
        raise CheckFailed(_refusal(catalog, table, partition, failed, page), told)
    rows = max((finding.rows for finding in findings), default=0)
    seconds = round(time.monotonic() - started, 2)
    log.info(
        "validate_%s: partition %s passed %d checks on %d rows%s; see %s",
        table, partition, len(findings), rows, "" if rows else ", there being none", page,
    )  # fmt: skip
    return Outcome(rows, len(findings), seconds, page, told)


def _tell(table: str, finding: Finding) -> dict[str, Any]:
    """A finding as run records keep it."""
    return {
        "table": table,
        "assertion": finding.check.expectation,
        "columns": list(finding.check.columns),
        "because": finding.check.because,
        "success": finding.passed,
        "rows": finding.rows,
        "judged": finding.judged,
        "unexpected": finding.unexpected,
        "mostly": finding.mostly,
    }


def _refusal(catalog: Catalog, table: str, partition: str, failed: list[Finding], page: str) -> str:
    checks = "1 check" if len(failed) == 1 else f"{len(failed)} checks"
    sentences = [
        f"Dataset {catalog.dataset}, partition {partition}: table {table} fails {checks}.",
        *(describe(finding) for finding in failed),
        f"Data Docs: {page}",
    ]
    return " ".join(sentences)


def describe(finding: Finding) -> str:
    """One sentence about a broken check: column, how many rows of how many, what was expected, where."""
    columns = " and ".join(finding.check.columns)
    noun = "Column" if len(finding.check.columns) == 1 else "Columns"
    whole, share = finding.rows, ""
    if finding.mostly < 1:
        whole = finding.judged
        share = f" ({finding.unexpected / whole:.1%}, where {1 - finding.mostly:.1%} may)"
    examples = ", ".join(_row_names(finding))
    return (
        f"{noun} {columns}: {finding.unexpected:,} of {whole:,} rows{share} break "
        f"'{finding.check.because}', for example {examples}."
    )


def _row_names(finding: Finding) -> list[str]:
    """The uris (or image ids) of the first rows that break a check, safe to print."""
    names = [example.get(finding.row_name) for example in finding.examples]
    shown = ["(no uri)" if name is None else str(name) for name in names[:SHOWN_EXAMPLES]]
    return [name if name.isprintable() else repr(name) for name in shown]
