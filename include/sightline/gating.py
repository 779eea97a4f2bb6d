"""The gate: which candidate is the better one, and whether it may serve in the champion's place.

Models are compared on the test images that both have predicted, image by image. Only the images on which
one is right and the other wrong tell them apart, so a pair of counts says all: how many the first alone
has right, how many the second alone.
"""

import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import sqrt
from statistics import NormalDist
from typing import Any

from sightline import models, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, GateSpec
from sightline.errors import TrainingError
from sightline.ledger import Record
from sightline.models import Plan
from sightline.tables import literal

log = logging.getLogger(__name__)

SHOWN = (
    "accuracy", "plain_accuracy", "duplicate_free_accuracy", "macro_f1", "top_5_accuracy",
    "log_loss", "calibration_error",
)  # fmt: skip

# The label is the first model's, which was evaluated last: a source may have corrected it since.
PAIRED = """
    SELECT count(*) AS images,
        coalesce(sum(CASE WHEN a.predicted = a.label AND b.predicted <> a.label THEN 1 END), 0) AS gained,
        coalesce(sum(CASE WHEN a.predicted <> a.label AND b.predicted = a.label THEN 1 END), 0) AS lost
    FROM (SELECT * FROM predictions WHERE model_version = {ours} AND label IS NOT NULL) a
    JOIN (SELECT * FROM predictions WHERE model_version = {theirs}) b ON a.image_id = b.image_id
"""


@dataclass(frozen=True)
class Comparison:
    """A model beside another on the same images."""

    images: int  # that both have predicted
    gained: int  # that it has right and the other wrong
    lost: int  # that it has wrong and the other right
    difference: float  # of the accuracies: above 0 where it is the better one
    low: float  # ends of the interval around the difference
    high: float


@dataclass(frozen=True)
class Check:
    """One condition of the gate, as a sentence."""

    holds: bool
    sentence: str


def compare(images: int, gained: int, lost: int, confidence: float) -> Comparison:
    """The difference of two accuracies on the same images, with a confidence interval.

    The interval is that of Agresti and Min (Statistics in Medicine 24, 2005): Wald's for paired
    proportions after half an observation is added to each of the four cells.
    """
    if not images:
        return Comparison(0, 0, 0, 0.0, -1.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (gained - lost) / (images + 2)
    half = z * sqrt(((gained + lost + 1) / (images + 2) - centre**2) / (images + 2))
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Comparison(images, gained, lost, (gained - lost) / images, low, high)


def decide(spec: DatasetSpec, catalog: Catalog, record: Record, plan: Plan) -> dict[str, Any]:
    """Choose the better candidate, judge it by the dataset file's gate, keep and return the decision.

    TrainingError where a candidate has not been evaluated.
    """
    record.read(catalog.predictions)
    for version in models.candidates(spec, plan).values():
        record.read_model(catalog.models, version)
    candidates = [
        _evaluated(catalog, version) for version in models.candidates(spec, plan).values()
    ]
    chosen, between = _choose(catalog, candidates, spec.gate)
    champion = models.read_champion(catalog)
    paired = compare_models(catalog, chosen, champion, spec.gate) if champion else None
    checks = _check(chosen, champion, paired, spec.gate)
    passed = all(check.holds for check in checks)
    decision = {
        "dataset": spec.name,
        "chosen": chosen["version"],
        "passed": passed,
        "reasons": [check.sentence for check in checks if check.holds == passed],
        "candidates": [_summary(model) for model in candidates],
        "between": between and asdict(between),  # the fine-tuned network beside the head
        "champion": champion and _summary(champion),
        "paired": paired and asdict(paired),  # the chosen model beside the champion
        "gate": spec.gate.model_dump(mode="json"),
        "decided_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "approval": None,  # what a person has answered, where one is asked
    }
    models.write_decision(catalog, plan.version, decision)
    log.info("model %s %s: %s", chosen["version"], "passes" if passed else "does not pass",
             " ".join(decision["reasons"]))  # fmt: skip
    record.counts = {"chosen": chosen["version"], "passed": passed}
    return decision


def describe(decision: dict[str, Any]) -> str:
    """The decision as Markdown, both models side by side: what a person reads who is asked to approve."""
    chosen = next(one for one in decision["candidates"] if one["version"] == decision["chosen"])
    others = [one for one in decision["candidates"] if one is not chosen]
    columns = [(chosen, "new"), *((one, "other candidate") for one in others)]
    if decision["champion"]:
        columns.insert(1, (decision["champion"], "champion"))
    names = [f"{one['version']} ({what}, {_kind(one)})" for one, what in columns]
    lines = ["| |" + "".join(f" {name} |" for name in names), "|---|" + "---|" * len(names)]
    for metric in SHOWN:
        values = [one["metrics"].get(metric) for one, _ in columns]
        if all(value is None for value in values):
            continue
        shown = ["–" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"| {metric.replace('_', ' ')} |" + "".join(f" {value} |" for value in shown))
    verdict = "It passes the gate." if decision["passed"] else "It does not pass the gate."
    return "\n".join([f"{verdict} {' '.join(decision['reasons'])}", "", *lines])


def _evaluated(catalog: Catalog, version: str) -> dict[str, Any]:
    model = models.read_model(catalog, version)
    if model is None or "accuracy" not in model["metrics"]:
        raise TrainingError(f"Model {version} has not been evaluated; clear task evaluate.")
    return model


def _choose(
    catalog: Catalog, candidates: list[dict[str, Any]], gate: GateSpec
) -> tuple[dict[str, Any], Comparison | None]:
    """The candidate that is right more often on the same images; of equals the first, which is the
    smaller one."""
    best, between = candidates[0], None
    for other in candidates[1:]:
        between = compare_models(catalog, other, best, gate)
        if between.difference > 0:
            best = other
    return best, between


def compare_models(
    catalog: Catalog, ours: dict[str, Any], theirs: dict[str, Any], gate: GateSpec
) -> Comparison:
    """A model beside another, by their model.json."""
    versions = {"ours": literal(ours["version"]), "theirs": literal(theirs["version"])}
    with tables.query(predictions=catalog.predictions) as sql:
        found = sql(PAIRED.format(**versions)).to_pylist()[0]
    return compare(found["images"], found["gained"], found["lost"], gate.confidence)


def _check(
    chosen: dict[str, Any],
    champion: dict[str, Any] | None,
    paired: Comparison | None,
    gate: GateSpec,
) -> list[Check]:
    checks = [_check_least(chosen["metrics"].get(name), name, least)
              for name, least in gate.min.items()]  # fmt: skip
    if champion is None or paired is None:
        return [*checks, Check(True, "There is no champion to compare with.")]
    return [*checks, _check_drop(champion["version"], paired, gate)]


def _check_least(value: float | None, name: str, least: float) -> Check:
    if value is None:
        return Check(False, f"It has no {name}, of which gate.min asks {least:g}.")
    verb = "reaches" if value >= least else "is below"
    return Check(value >= least, f"Its {name} {value:.4f} {verb} gate.min, {least:g}.")


def _check_drop(champion: str, paired: Comparison, gate: GateSpec) -> Check:
    """Refuse a drop that is both larger than allowed and more than chance: a small test set's noise
    refuses no model, and a large one's certainty refuses none over a trifle."""
    if not paired.images:
        return Check(
            gate.max_drop == 1,
            f"It has no test image in common with champion {champion}, so nothing compares them; "
            "gate.max_drop: 1 takes any model.",
        )
    how = (
        f"{abs(paired.difference):.4f} {'less' if paired.difference < 0 else 'more'} accurate than"
    )
    beside = (
        f"It is {how if paired.difference else 'as accurate as'} champion {champion} on the "
        f"{paired.images:,} test images of both ({gate.confidence:.0%} interval {paired.low:+.4f} to "
        f"{paired.high:+.4f})"
    )
    if paired.difference >= -gate.max_drop:
        return Check(True, f"{beside}.")
    if paired.high >= 0:
        return Check(True, f"{beside}, which chance alone may explain.")
    return Check(False, f"{beside}; gate.max_drop allows {gate.max_drop:g}.")


def _summary(model: dict[str, Any]) -> dict[str, Any]:
    """What the decision keeps of a model."""
    keys = ("version", "created_at", "metrics", "rows")
    return {"kind": model.get("kind", models.HEAD), **{key: model.get(key) for key in keys}}


def _kind(summary: dict[str, Any]) -> str:
    return str(summary["kind"]).replace("_", " ")
