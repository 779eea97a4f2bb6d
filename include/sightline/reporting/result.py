"""The first section: how good the model is, and what it is."""

from math import sqrt
from pathlib import PurePosixPath
from typing import Any

from sightline.models import FINE_TUNED
from sightline.reporting.formats import NOTHING, decimal, number, parameters, percent, plural
from sightline.reporting.report_input import ReportInput


def result(report: ReportInput) -> dict[str, Any]:
    """The headline numbers, and the model in a few lines."""
    model = report.model
    metrics, tested = model["metrics"], int(model["rows"]["test"])
    accuracy = float(metrics["accuracy"])
    return {
        "accuracy": accuracy,
        "right": round(accuracy * tested),
        "tested": tested,
        "interval": wilson_interval(accuracy, tested),
        "duplicate_free": metrics.get("duplicate_free_accuracy"),
        "duplicate_free_tested": model["rows"].get("duplicate_free"),
        "commonest_share": _commonest_share(report, tested),
        "tiles": _tiles(report),
        "facts": {
            "Model": report.version,
            "Backbone": describe_backbone(model["spec"]["backbone"]),
            "Backbone id": model["backbone_id"],
            "Classifier": describe_classifier(model),
        },
        "weights_are_random": model["spec"]["backbone"]["weights"] == "random",
    }


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share that was counted, by Wilson's formula."""
    if count == 0:
        return 0.0, 1.0
    z = 1.959964
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _commonest_share(report: ReportInput, tested: int) -> float | None:
    """What naming the commonest class of the test images every time would score."""
    largest = report.sql(
        "SELECT max(value) AS images FROM metrics "
        f"WHERE {report.is_ours} AND split = 'test' AND name = 'support'"
    )[0]["images"]
    return largest / tested if largest and tested else None


def _tiles(report: ReportInput) -> list[tuple[str, str]]:
    metrics, labels = report.model["metrics"], report.model["labels"]
    images = report.sql("SELECT count(*) AS n FROM images")[0]["n"]
    rejects = report.sql("SELECT count(*) AS n FROM rejects")[0]["n"]
    tiles = [
        ("Macro F1", decimal(metrics.get("macro_f1"))),
        ("Top-5 accuracy", percent(metrics.get("top_5_accuracy"))),
        ("Calibration error", decimal(metrics.get("calibration_error"))),
        ("Accuracy on train", percent(metrics.get("train_accuracy"))),
        ("Images", number(images)),
        ("Classes", number(len(labels))),
        ("Rejects", number(rejects)),
    ]
    if len(labels) <= 5:  # then the right one is always among the first five
        tiles = [tile for tile in tiles if tile[0] != "Top-5 accuracy"]
    return [(name, value) for name, value in tiles if value != NOTHING]


def describe_backbone(spec: dict[str, Any]) -> str:
    """A backbone of a dataset file in words."""
    at_size = f" at {spec['image_size']} px" if spec.get("image_size") else ""
    weights = str(spec["weights"])
    if weights == "random":
        return (
            f"{spec['name']}{at_size}, seeded random weights (seed {spec['seed']}), never trained"
        )
    named = "default" if weights == "default" else PurePosixPath(weights).name
    return f"{spec['name']}{at_size}, pretrained weights ({named})"


def describe_classifier(model: dict[str, Any]) -> str:
    """What decides in a model, in words."""
    if model.get("kind") == FINE_TUNED:
        took = f", {plural(len(model['fine_tuning']['history']), 'epoch')}"
        looks = ", with test-time augmentation" if "plain_accuracy" in model["metrics"] else ""
        return f"the network itself, fine-tuned on the train images{took}{looks}"
    head, reduction = model["head"], model["reduction"]
    kind = str(head["kind"]).replace("_", " ")
    inputs = "all features"
    if reduction is not None:
        inputs = f"{number(reduction['components'])} of {number(reduction['dim'])} dimensions"
    return f"{kind}, {parameters(head['parameters'])}, on {inputs}"
