"""Data Docs: what each validation found, as pages that need no network, beside their JSON records.

<dataset>/checks/
    index.html                        the latest validations
    validations/<table>/<run>.html    rendered by Great Expectations
    results/<table>/<run>.json        the same as data

Every validation writes files of its own, and only the index is shared: whoever wrote it looks once
more, and writes it again if another validation came to an end in the meantime.
"""

import html
import re
import uuid
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

from sightline import storage
from sightline.catalog import Catalog
from sightline.validation.checking import Finding
from sightline.validation.suites import TABLES

if TYPE_CHECKING:
    from great_expectations.core import (
        ExpectationSuiteValidationResult,
        ExpectationValidationResult,
    )

LISTED_RUNS = 200
RUN = re.compile(r"(?P<time>\d{8}T\d{6})-(?P<verdict>passed|failed)-(?P<partition>.+)-[0-9a-f]{8}")


def publish(catalog: Catalog, table: str, partition: str, findings: list[Finding]) -> str:
    """Keep a validation's result and its page, renew the index; returns the page's URL."""
    now = datetime.now(UTC)
    verdict = "passed" if all(finding.passed for finding in findings) else "failed"
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", partition)
    run = f"{now:%Y%m%dT%H%M%S}-{verdict}-{safe}-{uuid.uuid4().hex[:8]}"
    result = _to_result(catalog, table, partition, now, findings)
    page = storage.join(catalog.checks, "validations", table, f"{run}.html")
    storage.write_json(
        storage.join(catalog.checks, "results", table, f"{run}.json"), result.to_json_dict()
    )
    storage.write_bytes(page, _render(result).encode())
    _renew_index(catalog)
    return page


def _to_result(
    catalog: Catalog, table: str, partition: str, now: datetime, findings: list[Finding]
) -> "ExpectationSuiteValidationResult":
    """The findings over all slices as one result of Great Expectations."""
    from great_expectations.core import ExpectationSuiteValidationResult, RunIdentifier

    passed = sum(finding.passed for finding in findings)
    return ExpectationSuiteValidationResult(
        success=passed == len(findings),
        results=[_to_expectation_result(finding) for finding in findings],
        suite_name=table,
        statistics={
            "evaluated_expectations": len(findings),
            "successful_expectations": passed,
            "unsuccessful_expectations": len(findings) - passed,
            "success_percent": 100 * passed / len(findings) if findings else None,
        },
        meta={
            "run_id": RunIdentifier(f"partition {html.escape(partition)}", run_time=now),
            "batch_kwargs": {
                "data_asset_name": f"{catalog.dataset}.{table}",
                "partition": partition,
            },
        },
    )


def _to_expectation_result(finding: Finding) -> "ExpectationValidationResult":
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    missing = finding.rows - finding.judged
    arguments = ", ".join(f"{name} {value}" for name, value in finding.arguments.items())
    words = f"{finding.check.because} ({finding.check.expectation}: {arguments})"
    return ExpectationValidationResult(
        success=finding.passed,
        expectation_config=ExpectationConfiguration(
            type=finding.check.expectation, kwargs=finding.arguments, description=html.escape(words)
        ),
        result={
            "element_count": finding.rows,
            "missing_count": missing,
            "missing_percent": _percent(missing, finding.rows),
            "unexpected_count": finding.unexpected,
            "unexpected_percent": _percent(finding.unexpected, finding.judged),
            "unexpected_percent_total": _percent(finding.unexpected, finding.rows),
            "unexpected_percent_nonmissing": _percent(finding.unexpected, finding.judged),
            "partial_unexpected_list": [_example(finding, one) for one in finding.examples],
            "partial_unexpected_index_list": finding.examples,
            "unexpected_index_column_names": [finding.row_name],
        },
        meta={},
    )


def _example(finding: Finding, example: dict[str, Any]) -> str:
    """The value that breaks a check, and the row where it stands."""
    columns = [name for name in finding.check.columns if name != finding.row_name]
    values = ", ".join(str(example.get(name)) for name in columns)
    row = str(example.get(finding.row_name))
    # File names are strangers' words, and Great Expectations writes what it is given as HTML.
    return html.escape(f"{values} in {row}" if values else row)


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _render(result: "ExpectationSuiteValidationResult") -> str:
    """The page as Great Expectations renders it, less all that it would fetch from the network."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    document = ValidationResultsPageRenderer(run_info_at_end=True).render(result)
    page = str(DefaultJinjaPageView().render(document, show_how_to_buttons=False))
    for unwanted, instead in _ONLINE:
        page = unwanted.sub(instead, page)
    return page.replace("</head>", f"{_offline_parts()}</head>", 1)


# Scripts, style sheets and pictures from public servers; the newsletter; links to pages not built.
_ONLINE = [
    (re.compile(r'<script src="https?://[^>]*>\s*</script>'), ""),
    (re.compile(r"<script>.*?</script>", re.DOTALL), ""),  # asks for jQuery; ours stands in for it
    (re.compile(r"<link [^>]*>"), ""),
    (re.compile(r"<footer>.*?</footer>", re.DOTALL), ""),
    (re.compile(r'<img\s[^>]*src="https?://[^>]*>', re.DOTALL), "Data Docs"),
    (re.compile(r"""url\(['"]?https?://[^)]*\)"""), "none"),
    (re.compile(r'href="(\.\./)+index\.html"'), 'href="../../index.html"'),
    (re.compile(r'<a href="(?:\.\./)+expectations/[^>]*>(.*?)</a>', re.DOTALL), r"\1"),
]


def _offline_parts() -> str:
    """The style and the two functions that the pages need instead."""
    return resources.files(__package__).joinpath("offline.html").read_text(encoding="utf-8")


def _renew_index(catalog: Catalog) -> None:
    runs = _runs(catalog)
    while True:
        storage.write_bytes(
            storage.join(catalog.checks, "index.html"), _index_page(catalog, runs).encode()
        )
        written, runs = runs, _runs(catalog)
        if runs == written:
            return


def _runs(catalog: Catalog) -> list[tuple[str, str]]:
    """Name and table of the latest validations, newest first."""
    runs = [
        (name.removesuffix(".html"), table)
        for table in TABLES
        for name in storage.list_names(storage.join(catalog.checks, "validations", table))
        if RUN.fullmatch(name.removesuffix(".html"))
    ]
    return sorted(runs, reverse=True)[:LISTED_RUNS]


def _index_page(catalog: Catalog, runs: list[tuple[str, str]]) -> str:
    title = f"Data Docs of {html.escape(catalog.dataset)}"
    rows = "\n".join(_index_row(run, table) for run, table in runs)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>{_offline_parts()}</head>
<body><div class="container-fluid"><h1>{title}</h1>
<table class="table"><thead><tr><th>Time (UTC)</th><th>Table</th><th>Partition</th><th>Result</th></tr>
</thead><tbody>
{rows}
</tbody></table></div></body></html>
"""


def _index_row(run: str, table: str) -> str:
    parts: dict[str, Any] = RUN.fullmatch(run).groupdict()  # type: ignore[union-attr]
    time = datetime.strptime(parts["time"], "%Y%m%dT%H%M%S")
    colour, icon = {"passed": ("success", "check-circle"), "failed": ("danger", "times")}[
        parts["verdict"]
    ]
    return (
        f"<tr><td>{time:%Y-%m-%d %H:%M:%S}</td><td>{table}</td><td>{html.escape(parts['partition'])}"
        f'</td><td><i class="fas fa-{icon} text-{colour}"></i> '
        f'<a href="validations/{table}/{run}.html">{parts["verdict"]}</a></td></tr>'
    )
