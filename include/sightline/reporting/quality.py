"""Sections about the model: its components, its confusions, and what it says of test images."""

from math import sqrt
from typing import Any

from sightline.reporting import charts
from sightline.reporting.formats import natural_order
from sightline.reporting.report_input import ReportInput, Rows, literals

CONFUSION_CLASSES = 30
PER_CLASS_ROWS = 100
PREDICTIONS = 24
MISTAKES = 12
PREDICTION_SIDE = 168  # pixels

PAIRS = "SELECT label AS truth, substr(name, 11) AS predicted, value AS n FROM metrics"


def components(report: ReportInput) -> dict[str, Any] | None:
    """The scree plot, or nothing where the features were not reduced; None for a model without them."""
    if report.is_fine_tuned:
        return None
    reduction = report.model["reduction"]
    if reduction is None:
        return {"reduction": None}
    asked = (report.model["spec"].get("reduce") or {}).get("explained_variance")
    ratios = [float(ratio) for ratio in reduction["explained_variance_ratio"]]
    return {
        "reduction": reduction,
        "asked": asked,
        "each": charts.each_component(ratios),
        "together": charts.together(ratios, int(reduction["components"])),
    }


def confusion(report: ReportInput) -> dict[str, Any]:
    """Counts of true against predicted classes, of the most confused ones where there are many."""
    ours = f"{PAIRS} WHERE {report.of_test} AND starts_with(name, 'confusion:') AND value > 0"
    errors = f"SELECT * FROM ({ours}) WHERE truth <> predicted"
    class_count = len(report.model["labels"])
    labels = [str(label) for label in report.model["labels"]]
    if class_count > CONFUSION_CLASSES:
        labels = _most_confused(report, errors)
    labels.sort(key=natural_order)
    chosen = literals(labels) or "NULL"
    pairs = report.sql(
        f"SELECT * FROM ({ours}) WHERE truth IN ({chosen}) AND predicted IN ({chosen})"
    )
    return {
        "labels": labels,
        "rows": _matrix(labels, pairs, _supports(report)),
        "class_count": class_count,
        "limit": CONFUSION_CLASSES,
        "error_count": report.sql(f"SELECT coalesce(sum(n), 0) AS n FROM ({errors})")[0]["n"],
        "frequent": report.sql(f"{errors} ORDER BY n DESC, truth, predicted LIMIT 3"),
    }


def _most_confused(report: ReportInput, errors: str) -> list[str]:
    rows = report.sql(
        f"WITH errors AS ({errors}) SELECT label, sum(n) AS n FROM (SELECT truth AS label, n "
        "FROM errors UNION ALL SELECT predicted AS label, n FROM errors) AS either "
        f"GROUP BY label ORDER BY n DESC, label LIMIT {CONFUSION_CLASSES}"
    )
    return [row["label"] for row in rows]


def _matrix(labels: list[str], pairs: Rows, supports: dict[str, float]) -> Rows:
    """Rows of cells; `heat` in 0..1 is what CSS colours a cell by, on its own scale for errors."""
    counts = {(pair["truth"], pair["predicted"]): pair["n"] for pair in pairs}
    shares = {pair: n / (supports.get(pair[0]) or n) for pair, n in counts.items()}
    worst = max((share for pair, share in shares.items() if pair[0] != pair[1]), default=1.0)
    return [
        {
            "label": truth,
            "cells": [
                {
                    "predicted": predicted,
                    "n": counts.get((truth, predicted), 0),
                    "right": truth == predicted,
                    "heat": shares.get((truth, predicted), 0.0)
                    if truth == predicted
                    else sqrt(shares.get((truth, predicted), 0.0) / worst),
                }
                for predicted in labels
            ],
        }
        for truth in labels
    ]


def _supports(report: ReportInput) -> dict[str, float]:
    """Test images of each class."""
    rows = report.sql(
        f"SELECT label, value FROM metrics WHERE {report.of_test} AND name = 'support'"
    )
    return {row["label"]: row["value"] for row in rows}


def per_class(report: ReportInput) -> dict[str, Any]:
    """Precision, recall and F1 of each class, weakest first."""
    names = ("precision", "recall", "f1", "support")
    columns = ", ".join(f"max(CASE WHEN name = '{n}' THEN value END) AS \"{n}\"" for n in names)
    return {
        "classes": report.sql(
            f"SELECT label, {columns} FROM metrics WHERE {report.of_test} "
            f"AND label IS NOT NULL AND name IN ({literals(list(names))}) "
            f"GROUP BY label ORDER BY f1 ASC NULLS LAST, label LIMIT {PER_CLASS_ROWS}"
        ),
        "class_count": len(report.model["labels"]),
    }


def predictions(report: ReportInput) -> dict[str, Any]:
    """Test images picked by the seed, right and wrong as they fall."""
    shown = predicted_images(report, "label IS NOT NULL", report.at_random, PREDICTIONS)
    return {"shown": shown, "right": sum(one["right"] for one in shown)}


def mistakes(report: ReportInput) -> dict[str, Any]:
    """The wrong predictions that the model was surest of."""
    wrong = "label <> predicted"
    return {
        "shown": predicted_images(report, wrong, "probability DESC, image_id", MISTAKES),
        "wrong_count": report.sql(
            f"SELECT count(*) AS n FROM predictions WHERE {report.is_ours} AND {wrong}"
        )[0]["n"],
    }


def predicted_images(report: ReportInput, condition: str, order: str, limit: int) -> Rows:
    """Some predictions with the names and pictures of their images."""
    rows = report.sql(
        "SELECT image_id, label, predicted, probability FROM predictions "
        f"WHERE {report.is_ours} AND {condition} ORDER BY {order} LIMIT {limit}"
    )
    ids = literals([row["image_id"] for row in rows]) or "NULL"
    uris = report.sql(f"SELECT image_id, uri FROM images WHERE image_id IN ({ids})")
    uri_of = {row["image_id"]: row["uri"] for row in uris}
    return [
        {
            **row,
            "right": row["label"] == row["predicted"],
            "uri": uri_of.get(row["image_id"], "an image that was taken down"),
            "picture": report.gallery.picture(row["image_id"], PREDICTION_SIDE),
        }
        for row in rows
    ]
