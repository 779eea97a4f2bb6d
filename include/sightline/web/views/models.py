"""The models of a dataset over time, and two of them side by side."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sightline import models, publishing, status
from sightline.catalog import Catalog
from sightline.config import GateSpec
from sightline.gating import SHOWN, Comparison, compare_models
from sightline.models import FINE_TUNED, HEAD
from sightline.reporting import charts
from sightline.reporting.formats import decimal, percent, setting
from sightline.reporting.result import describe_backbone, describe_classifier
from sightline.reporting.runs import describe_settings
from sightline.status import ModelRow

KINDS = {HEAD: "head on features", FINE_TUNED: "fine-tuned network"}
SHARES = {name for name in SHOWN if name.endswith(("accuracy", "f1"))}
LOWER_IS_BETTER = {"log_loss", "calibration_error"}
LINES_OF_HISTORY = 20


@dataclass(frozen=True)
class ModelsPage:
    """All models, newest first."""

    rows: list[ModelRow]
    champion: str | None
    before: str | None  # the champion that a roll back without a version goes to
    plot: charts.Chart | None  # accuracies in the order of time
    history: list[dict[str, Any]]  # changes of the champion, newest first


@dataclass(frozen=True)
class Line:
    """A fact of two models side by side."""

    name: str
    left: str
    right: str
    better: str = ""  # left or right, where one is


@dataclass(frozen=True)
class SideBySide:
    """Two models."""

    left: dict[str, Any]  # model.json
    right: dict[str, Any]
    facts: list[Line]
    metrics: list[Line]
    settings: list[Line]  # those that differ
    paired: Comparison  # the right one beside the left one, on the test images of both
    confidence: float


def list_models(catalog: Catalog) -> ModelsPage:
    """The models of a dataset."""
    rows = status.list_models(catalog.dataset)
    history = models.champion_history(catalog)
    line = publishing.succession(history).line
    return ModelsPage(
        rows=rows[::-1],
        champion=line[-1] if line else None,
        before=line[-2] if len(line) > 1 else None,
        plot=_plot(rows, line[-1] if line else None),
        history=history[: -LINES_OF_HISTORY - 1 : -1],
    )


def compare(catalog: Catalog, left: str, right: str) -> SideBySide:
    """Two models by their versions; ConfigError where one is not there."""
    ours, theirs = (models.require_model(catalog, version) for version in (left, right))
    gate = GateSpec.model_validate(theirs["spec"].get("gate", {}))
    return SideBySide(
        left=ours,
        right=theirs,
        facts=[Line(name, fact(ours), fact(theirs)) for name, fact in FACTS.items()],
        metrics=[_metric(name, ours, theirs) for name in SHOWN if _has(name, ours, theirs)],
        settings=_differing(ours, theirs),
        paired=compare_models(catalog, theirs, ours, gate),
        confidence=gate.confidence,
    )


def looks_at_several_views(model: dict[str, Any]) -> bool:
    """Whether a model has test-time augmentation."""
    if model.get("kind") != FINE_TUNED:
        return False
    return bool(model["fine_tuning"]["settings"].get("test_time_augmentation"))


def _plot(rows: list[ModelRow], champion: str | None) -> charts.Chart | None:
    """The accuracies of the evaluated models, the champion marked."""
    judged = [(row.version, row.accuracy) for row in rows if row.accuracy is not None]
    if len(judged) < 2:
        return None
    chart = charts.by_number([accuracy for _, accuracy in judged])
    places = {version: dot for (version, _), dot in zip(judged, chart.dots, strict=True)}
    if champion not in places:
        return chart
    x, y, _ = places[champion]
    return replace(chart, mark=(x, y))


FACTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "Kind": lambda model: KINDS[model["kind"]],
    "Made": lambda model: str(model["created_at"]).replace("T", " ")[:16],
    "Backbone": lambda model: describe_backbone(model["spec"]["backbone"]),
    "Classifier": describe_classifier,
    "Classes": lambda model: f"{len(model['labels']):,}",
    "Train images": lambda model: _rows(model, "train"),
    "Test images": lambda model: _rows(model, "test"),
}


def _rows(model: dict[str, Any], split: str) -> str:
    count = model["rows"].get(split)
    return "–" if count is None else f"{count:,}"


def _has(name: str, *pair: dict[str, Any]) -> bool:
    return any(name in model["metrics"] for model in pair)


def _metric(name: str, left: dict[str, Any], right: dict[str, Any]) -> Line:
    values = [model["metrics"].get(name) for model in (left, right)]
    ours, theirs = (percent(value, 2) if name in SHARES else decimal(value, 4) for value in values)
    return Line(name.replace("_", " "), ours, theirs, _better(name, *values))


def _better(name: str, left: float | None, right: float | None) -> str:
    if left is None or right is None or left == right:
        return ""
    return "left" if (left > right) != (name in LOWER_IS_BETTER) else "right"


def _differing(left: dict[str, Any], right: dict[str, Any]) -> list[Line]:
    """What the dataset file said otherwise for the one than for the other."""
    ours, theirs = (dict(describe_settings(model["spec"])) for model in (left, right))
    names = dict.fromkeys([*ours, *theirs])
    return [
        Line(name, setting(ours.get(name, "–")), setting(theirs.get(name, "–")))
        for name in names
        if ours.get(name) != theirs.get(name)
    ]
