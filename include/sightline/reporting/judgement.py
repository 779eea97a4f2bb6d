"""Sections about how the model was judged: the gate's decision, its calibration, its slices."""

from typing import Any

from sightline.metrics import BINS, RELIABILITY
from sightline.models import FINE_TUNED
from sightline.reporting import charts
from sightline.reporting.report_input import ReportInput, Rows
from sightline.reporting.result import wilson_interval
from sightline.tables import literal

FEW = 30  # images: below that, a slice's accuracy says little
SLICES_SHOWN = 20
SLICES = {"size": "Shorter side", "source": "Source", "licence": "Licence"}
KINDS = {"head": "head on features", FINE_TUNED: "fine-tuned network"}


def decision(report: ReportInput) -> dict[str, Any] | None:
    """What the gate has decided, and the models that it compared; None where it has not."""
    found = report.decision
    if found is None:
        return None
    rows = [row for model in found["candidates"] for row in _rows_of(report, model)]
    champion = found["champion"]
    if champion and champion["version"] not in [row["version"] for row in rows]:
        rows.append(_row(champion, f"champion before, {KINDS[champion['kind']]}"))
    return {
        "passed": found["passed"],
        "asks_a_person": found["gate"]["approval"],
        "reasons": found["reasons"],
        "models": rows,
        "chosen": found["chosen"],
        "between": found["between"],
        "confidence": found["gate"]["confidence"],
    }


def _rows_of(report: ReportInput, model: dict[str, Any]) -> Rows:
    """A candidate as it serves and, where that is with test-time augmentation, without."""
    name = KINDS[model["kind"]]
    if "plain_accuracy" not in model["metrics"]:
        return [_row(model, name)]
    plain = report.sql(
        "SELECT name, value FROM metrics WHERE label IS NULL AND split = 'test_plain' "
        f"AND model_version = {literal(model['version'])}"
    )
    numbers = {"accuracy": model["metrics"]["plain_accuracy"]}
    without = {**model, "metrics": {**numbers, **{row["name"]: row["value"] for row in plain}}}
    return [
        _row(model, f"{name}, with test-time augmentation"),
        {**_row(without, f"{name}, without test-time augmentation"), "is_beside": True},
    ]


def _row(model: dict[str, Any], name: str) -> dict[str, Any]:
    tested = (model["rows"] or {}).get("test")
    return {**model, "name": name, "tested": tested, "is_beside": False}


def calibration(report: ReportInput) -> dict[str, Any] | None:
    """Confidence beside accuracy in bins; None for a model that was evaluated without."""
    columns = ", ".join(
        f"max(CASE WHEN name = 'reliability:{one}' THEN value END) AS {one}" for one in RELIABILITY
    )
    bins = report.sql(
        f"SELECT CAST(label AS INTEGER) AS bin, {columns} FROM metrics WHERE {report.of_test} "
        "AND starts_with(name, 'reliability:') GROUP BY label ORDER BY bin"
    )
    if not bins:
        return None
    images = {row["bin"]: int(row["images"]) for row in bins}
    tested = sum(images.values())
    sure = sum(row["images"] * row["confidence"] for row in bins) / tested
    right = sum(row["images"] * row["accuracy"] for row in bins) / tested
    return {
        "error": report.model["metrics"].get("calibration_error"),
        "sure": sure,
        "right": right,
        "bins": bins,
        "plot": charts.reliability(
            [(row["confidence"], row["accuracy"], row["images"]) for row in bins]
        ),
        "counts": charts.histogram([images.get(index + 1, 0) for index in range(BINS)]),
    }


def slices(report: ReportInput) -> dict[str, Any] | None:
    """Accuracy by what is known of the images, worst first; None where it divides them in no way."""
    tables = {kind: _slices(report, kind) for kind in SLICES}
    shown = [
        {
            "title": SLICES[kind],
            "slices": found[:SLICES_SHOWN],
            "count": len(found),
        }
        for kind, found in tables.items()
        if len(found) > 1
    ]
    return {"tables": shown, "few": FEW} if shown else None


def _slices(report: ReportInput, kind: str) -> Rows:
    rows = report.sql(
        f"SELECT label AS name, max(CASE WHEN name = 'slice:{kind}:images' THEN value END) AS images, "
        f"max(CASE WHEN name = 'slice:{kind}:accuracy' THEN value END) AS accuracy FROM metrics "
        f"WHERE {report.of_test} AND starts_with(name, 'slice:{kind}:') GROUP BY label "
        "ORDER BY accuracy, images DESC, label"
    )
    return [
        {
            **row,
            "interval": wilson_interval(row["accuracy"], row["images"]),
            "is_small": row["images"] < FEW,
        }
        for row in rows
    ]
