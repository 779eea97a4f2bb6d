"""The report: one HTML page a trained model, whole in one file, readable offline by anybody.

A section is a function from what is known to what its template shows, and its line in SECTIONS; the
template beside this file has the same name.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sightline import attribution, models, storage
from sightline.catalog import Catalog
from sightline.reporting import (
    data,
    doubts,
    formats,
    issues,
    judgement,
    licences,
    quality,
    result,
    runs,
    source,
    splits,
    training_course,
)
from sightline.reporting.pages import render_page
from sightline.reporting.report_input import ReportInput, Runs, open_report

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, and what fills its template."""

    title: str
    fill: Callable[[ReportInput], dict[str, Any] | None]  # None: the page goes without it


SECTIONS = {
    "result": Section("Result", result.result),
    "decision": Section("Decision", judgement.decision),
    "training_course": Section("Training", training_course.training_course),
    "source": Section("What the source says", source.source),
    "class_balance": Section("Class balance", data.class_balance),
    "splits": Section("Splits", splits.splits),
    "samples": Section("Samples", data.samples),
    "rejects": Section("Rejects", data.rejects),
    "issues": Section("Issues", issues.issues),
    "drift": Section("Drift", doubts.drift),
    "conflicts": Section("Label conflicts", doubts.conflicts),
    "suspicious_labels": Section("Suspicious labels", doubts.suspicious_labels),
    "licences": Section("Licences", licences.licences),
    "components": Section("Principal components", quality.components),
    "confusion": Section("Confusion matrix", quality.confusion),
    "per_class": Section("Quality by class", quality.per_class),
    "calibration": Section("Calibration", judgement.calibration),
    "slices": Section("Slices", judgement.slices),
    "predictions": Section("Predictions", quality.predictions),
    "mistakes": Section("Worst mistakes", quality.mistakes),
    "timings": Section("Timings", runs.timings),
    "provenance": Section("Where it comes from", runs.provenance),
}


def write_report(
    catalog: Catalog, plan_version: str, ingest_dag_id: str, train_dag_id: str, train_run_id: str
) -> str:
    """Write the page of a plan's chosen model, and a copy as latest.html; returns the page's URL.

    Raises StorageError where there is no such model.
    """
    found = Runs(ingest_dag_id, train_dag_id, train_run_id)
    with open_report(catalog, plan_version, found) as report:
        page, version = _render(report).encode(), report.version
    attribution.write_attribution(catalog, version)  # the page links to it
    url = storage.join(catalog.reports, f"{version}.html")
    storage.write_bytes(url, page)
    storage.write_bytes(storage.join(catalog.reports, "latest.html"), page)
    log.info("Report of model %s: %s (%s)", version, url, formats.size(len(page)))
    return url


def _render(report: ReportInput) -> str:
    filled = {name: section.fill(report) for name, section in SECTIONS.items()}
    sections = {name: section for name, section in SECTIONS.items() if filled[name] is not None}
    report.gallery.load()  # one pass over the images for the pictures of all sections
    return render_page(
        "report.html.j2",
        sections=sections,
        filled=filled,
        model=report.model,
        notices=models.taken_down_sentences(report.model),
        train_run_id=report.runs.train_run_id,
    )
