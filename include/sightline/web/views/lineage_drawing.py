"""The way from source to model as a drawing: boxes on a grid of two columns, narrow enough for a phone."""

from dataclasses import dataclass, field
from typing import Any

from sightline import models
from sightline.catalog import Catalog
from sightline.models import FINE_TUNED
from sightline.reporting.formats import number, percent, plural

BOX_WIDTH, BOX_HEIGHT = 190, 66  # of the viewBox
GAP_ACROSS, GAP_DOWN = 20, 30
MARGIN = 2
LONGEST = 25  # letters of a line that fit into a box


@dataclass(frozen=True)
class Box:
    """A thing that a model was made of, or the model."""

    name: str
    column: float  # 0, 1, or 0.5 for the middle
    row: int
    title: str
    lines: list[str]
    is_model: bool = False

    @property
    def x(self) -> float:
        """Of its left edge."""
        return MARGIN + self.column * (BOX_WIDTH + GAP_ACROSS)

    @property
    def y(self) -> float:
        """Of its top edge."""
        return MARGIN + self.row * (BOX_HEIGHT + GAP_DOWN)

    @property
    def shown(self) -> list[str]:
        """The lines as they fit in."""
        return [line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…" for line in self.lines]


@dataclass(frozen=True)
class Drawing:
    """Boxes, and lines between them as SVG paths."""

    boxes: list[Box]
    paths: list[str]
    sentence: str  # the drawing in words
    width: float = field(default=2 * MARGIN + 2 * BOX_WIDTH + GAP_ACROSS)

    @property
    def height(self) -> float:
        """Of the viewBox."""
        return max(box.y for box in self.boxes) + BOX_HEIGHT + MARGIN


def draw(catalog: Catalog, model: dict[str, Any], standing: str) -> Drawing:
    """A model's way, from its model.json and the champion's history."""
    is_tuned = model["kind"] == FINE_TUNED
    boxes = [_source(model), _backbone(model), _images(model), _splits(model)]
    ways = [("source", "images"), ("images", "splits")]
    if is_tuned:
        ways += [("splits", "model"), ("backbone", "model")]
    else:
        boxes += [_features(model), _reduced(model)]
        ways += [("images", "features"), ("backbone", "features")]
        ways += [("splits", "reduced"), ("features", "reduced"), ("reduced", "model")]
    row = 3 if is_tuned else 4
    boxes += [_model(model, row), _standing(catalog, model, standing, row + 1)]
    ways.append(("model", "standing"))
    by_name = {box.name: box for box in boxes}
    return Drawing(
        boxes,
        [_path(by_name[start], by_name[end]) for start, end in ways],
        "; ".join(f"{by_name[start].title} to {by_name[end].title}" for start, end in ways),
    )


def _source(model: dict[str, Any]) -> Box:
    return Box(
        "source", 0, 0, "source", [str(model["spec"]["source"]["type"]), model["spec"]["name"]]
    )


def _backbone(model: dict[str, Any]) -> Box:
    tuned = model.get("fine_tuning") or {"backbone": model["spec"]["backbone"]}
    spec = tuned["backbone"]
    return Box(
        "backbone", 1, 0, "backbone", [str(spec["name"]), f"weights {_file(spec['weights'])}"]
    )


def _images(model: dict[str, Any]) -> Box:
    left_out = {name: n for name, n in model.get("excluded", {}).items() if name != "list" and n}
    lines = [_version(model, "images")]
    if left_out:
        lines.append(
            "left out: " + ", ".join(f"{name} {number(n)}" for name, n in left_out.items())
        )
    return Box("images", 0, 1, "images", lines)


def _splits(model: dict[str, Any]) -> Box:
    counts = ", ".join(
        f"{split} {number(n)}" for split, n in model["rows"].items() if split in SPLITS
    )
    return Box("splits", 0, 2, "splits", [_version(model, "splits"), counts])


SPLITS = ("train", "val", "test")


def _features(model: dict[str, Any]) -> Box:
    return Box("features", 1, 2, "features", [_version(model, "features"), model["backbone_id"]])


def _reduced(model: dict[str, Any]) -> Box:
    found = model.get("reduction")
    if found is None:
        return Box("reduced", 0.5, 3, "not reduced", ["all dimensions of the features"])
    kept = f"{number(found['components'])} of {plural(found['dim'], 'dimension')}"
    return Box("reduced", 0.5, 3, "principal components", [kept, "fitted to the train split"])


def _model(model: dict[str, Any], row: int) -> Box:
    kind = "fine-tuned network" if model["kind"] == FINE_TUNED else str(model["head"]["kind"])
    accuracy = model["metrics"].get("accuracy")
    return Box(
        "model",
        0.5,
        row,
        model["version"],
        [kind.replace("_", " "), f"accuracy {percent(accuracy, 2)}"],
        is_model=True,
    )


def _standing(catalog: Catalog, model: dict[str, Any], standing: str, row: int) -> Box:
    entries = [
        one for one in models.champion_history(catalog) if one["version"] == model["version"]
    ]
    if not entries:
        return Box("standing", 0.5, row, standing or "not judged yet", ["never champion"])
    last = entries[-1]
    return Box(
        "standing", 0.5, row, standing, [f"{last['action']} {last['at'][:10]}", f"by {last['by']}"]
    )


def _version(model: dict[str, Any], table: str) -> str:
    version = model["tables"].get(table)
    return "version not kept" if version is None else f"version {version}"


def _file(weights: Any) -> str:
    return str(weights).rsplit("/", 1)[-1]


def _path(start: Box, end: Box) -> str:
    """From the middle of a box's lower edge to that of another one's upper edge."""
    x1, y1 = start.x + BOX_WIDTH / 2, start.y + BOX_HEIGHT
    x2, y2 = end.x + BOX_WIDTH / 2, end.y
    if x1 == x2:
        return f"M{x1:g} {y1:g}V{y2:g}"
    half = y2 - GAP_DOWN / 2
    return f"M{x1:g} {y1:g}V{half:g}H{x2:g}V{y2:g}"
