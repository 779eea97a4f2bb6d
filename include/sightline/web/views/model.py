"""One model: the sections of its report that tell of it, for a page, and the photos behind its errors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sightline import models, status
from sightline.catalog import Catalog
from sightline.models import FINE_TUNED
from sightline.reporting import judgement, quality, result, training_course
from sightline.reporting.report_input import ReportInput, Runs, open_model
from sightline.reporting.study import read_studies
from sightline.status import ModelRow
from sightline.tables import literal

PHOTOS_SHOWN = 60

# What the page shows of each model; None leaves a section out.
SECTIONS: dict[str, Callable[[ReportInput], dict[str, Any] | None]] = {
    "result": result.result,
    "training_course": training_course.training_course,
    "components": quality.components,
    "confusion": quality.confusion,
    "per_class": quality.per_class,
    "calibration": judgement.calibration,
    "slices": judgement.slices,
    "decision": judgement.decision,
    "mistakes": quality.mistakes,
}
OF_EVALUATED = ("result", "confusion", "per_class", "calibration", "slices", "mistakes")


@dataclass(frozen=True)
class ModelPage:
    """All that the page of a model shows."""

    model: dict[str, Any]  # model.json
    row: ModelRow
    is_evaluated: bool
    sections: dict[str, dict[str, Any] | None]
    notices: list[str]
    studies: list[dict[str, Any]]


@dataclass(frozen=True)
class Photos:
    """Test photos of a class, as a model has named them."""

    truth: str
    predicted: str
    count: int
    shown: list[dict[str, Any]]  # image_id, label, predicted, probability, uri, picture


def read_model(catalog: Catalog, version: str) -> ModelPage:
    """A model; ConfigError where there is none of that version."""
    model = models.require_model(catalog, version)
    row = next(row for row in status.list_models(catalog.dataset) if row.version == version)
    is_evaluated = "accuracy" in model["metrics"]
    with open_model(catalog, version, models.plan_of(version), _runs(catalog)) as report:
        sections = {
            name: fill(report) if is_evaluated or name not in OF_EVALUATED else None
            for name, fill in SECTIONS.items()
        }
        report.gallery.load()
    return ModelPage(
        model=model,
        row=row,
        is_evaluated=is_evaluated,
        sections=sections,
        notices=models.taken_down_sentences(model),
        studies=read_studies(catalog) if model["kind"] == FINE_TUNED else [],
    )


def read_confused(catalog: Catalog, version: str, truth: str, predicted: str) -> Photos:
    """The test photos of one class that a model has named as another one, or as what they are, the ones that
    it was surest of first. ConfigError where there is no such model."""
    models.require_model(catalog, version)
    condition = f"label = {literal(truth)} AND predicted = {literal(predicted)}"
    with open_model(catalog, version, models.plan_of(version), _runs(catalog)) as report:
        count = report.sql(
            f"SELECT count(*) AS n FROM predictions WHERE {report.is_ours} AND {condition}"
        )[0]["n"]
        order = "probability DESC, image_id"
        shown = quality.predicted_images(report, condition, order, PHOTOS_SHOWN)
        report.gallery.load()
    return Photos(truth, predicted, count, shown)


def _runs(catalog: Catalog) -> Runs:
    return Runs(f"ingest_{catalog.dataset}", f"train_{catalog.dataset}", "")
