"""How good the models of a plan are: predictions on the test split, without a JVM, and the numbers made
of them.

Every candidate is judged by the same code on the same test images: a head predicts from the features, a
fine-tuned network has left its probabilities in the table of scores. Where those hold a second opinion
with test-time augmentation, that one counts, and the plain one's numbers stand beside it.

Near-copies make a score flatter: of each group of them, the duplicate-free test set counts one image, and
none where the train or val split holds an image of the group.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sightline import label_overrides, metrics, models, tables
from sightline.batches import to_matrix
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import TrainingError
from sightline.ledger import Record, TaskRun
from sightline.metrics import METRICS_BY_NAME, Tally
from sightline.models import Plan
from sightline.schemas import METRICS, PREDICTIONS
from sightline.slices import SliceCounts

Array = np.ndarray[Any, Any]

# The splits of the metrics table.
TEST, DUPLICATE_FREE, PLAIN = "test", "test_duplicate_free", "test_plain"

# Nobody knows the label of an image in conflict.
LABELLED = """
    SELECT i.image_id, i.label FROM {images} i
    LEFT ANTI JOIN (
        SELECT image_id FROM exclusions WHERE model_version = {plan} AND reason = 'conflict'
    ) e ON e.image_id = i.image_id
"""

ROWS = """
    WITH labelled AS ({labelled})
    SELECT p.image_id, {columns}, i.label, u.image_id IS NOT NULL AS is_unique FROM {source} p
    JOIN splits s ON s.image_id = p.image_id AND s.split = '{split}'
    JOIN labelled i ON i.image_id = p.image_id
    LEFT JOIN (
        SELECT min(q.image_id) AS image_id FROM {source} q
        JOIN splits t ON t.image_id = q.image_id AND t.split = '{split}'
        JOIN labelled j ON j.image_id = q.image_id AND j.label IS NOT NULL
        LEFT ANTI JOIN (SELECT group_id FROM splits WHERE split NOT IN ('{split}', 'set_aside')) o
            ON o.group_id = t.group_id
        WHERE q.{condition} GROUP BY t.group_id
    ) u ON u.image_id = p.image_id
    WHERE p.{condition}
"""

UNSEEN = """
    SELECT DISTINCT i.label FROM ({labelled}) i
    JOIN splits s ON s.image_id = i.image_id AND s.split = 'test'
    WHERE i.label IS NOT NULL
"""

# A uri can stand in the manifest of several partitions.
SLICED = """
    SELECT i.uri, i.height, i.width, m.licence, p.label = p.predicted AS is_right FROM predictions p
    JOIN images i ON i.image_id = p.image_id
    LEFT JOIN (SELECT uri, max(licence) AS licence FROM manifest GROUP BY uri) m ON m.uri = i.uri
    WHERE p.model_version = {version} AND p.label IS NOT NULL
"""


@dataclass(frozen=True)
class Predicted:
    """A batch of images with what a model says of them."""

    rows: pa.RecordBatch  # image_id, label, is_unique
    probabilities: Array  # (n, classes): those that count
    plain: Array | None = None  # without test-time augmentation, where the others are with it

    @property
    def labels(self) -> list[str | None]:
        """The true labels."""
        labels: list[str | None] = self.rows["label"].to_pylist()
        return labels


@dataclass(frozen=True)
class Candidate:
    """A model of the plan under evaluation, and the classes of its test images."""

    spec: DatasetSpec
    catalog: Catalog
    plan: Plan
    model: dict[str, Any]  # model.json
    labels: list[str]  # the model's, then those that it was not trained on

    @property
    def version(self) -> str:
        """The version of this candidate."""
        return str(self.model["version"])

    def predictions(self, split: str) -> Iterator[Predicted]:
        """What the model says of a split's images, batch by batch."""
        return PREDICTIONS_OF[self.model["kind"]](self, split)


def evaluate(
    spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record, plan: Plan
) -> None:
    """Predict the test split with every candidate; keep predictions and metrics under their versions.

    TrainingError where a candidate is not trained, or no labelled test image can be predicted.
    """
    candidates = models.candidates(spec, plan)
    _note_inputs(catalog, record, plan, candidates)
    found = [
        _evaluate(_open(spec, catalog, plan, version), task) for version in candidates.values()
    ]
    record.counts = {
        "rows": max(tally.rows for tally in found),
        "accuracy": round(max(metrics.accuracy(tally) for tally in found), 4),
        "unseen": max(tally.rows - tally.with_loss for tally in found),
    }
    record.wrote(catalog.predictions, rows=sum(tally.rows for tally in found))
    record.wrote(catalog.metrics)


def _note_inputs(catalog: Catalog, record: Record, plan: Plan, candidates: dict[str, str]) -> None:
    record.read(catalog.images, version=plan.images_version)
    record.read(catalog.splits, version=plan.splits_version)
    record.read(catalog.manifest, catalog.exclusions)
    record.read(catalog.label_overrides, version=plan.label_overrides_version)
    for kind, version in candidates.items():
        if kind == models.HEAD:
            record.read(catalog.features, version=plan.features_version)
        else:
            record.read(catalog.scores)
        record.read_model(catalog.models, version)


def _open(spec: DatasetSpec, catalog: Catalog, plan: Plan, version: str) -> Candidate:
    model = models.read_model(catalog, version)
    if model is None:
        raise TrainingError(
            f"Model {version} of {spec.name} is not trained; clear the task that trains it."
        )
    images = tables.open_table(catalog.images, plan.images_version)
    assert images is not None  # the plan was made of it
    statement = UNSEEN.format(labelled=_labelled(plan))
    read: dict[str, Any] = {
        "images": images,
        "splits": models.open_splits(catalog, plan),
        "exclusions": catalog.exclusions,
        "label_overrides": models.open_overrides(catalog, plan),
    }
    with tables.query(**read) as sql:
        unseen = sorted(set(sql(statement)["label"].to_pylist()) - set(model["labels"]))
    return Candidate(spec, catalog, plan, model, [*model["labels"], *unseen])


def _evaluate(candidate: Candidate, task: TaskRun) -> Tally:
    """Keep a candidate's predictions and numbers; returns what was counted on the test split."""
    catalog, model = candidate.catalog, candidate.model
    tallies = _keep_predictions(candidate, task)
    test = tallies[TEST]
    if not test.rows:
        raise TrainingError(
            f"Dataset {candidate.spec.name} has no labelled test image that model "
            f"{candidate.version} has predicted; add images."
        )
    rows = [
        {**row, "split": split}
        for split, tally in tallies.items()
        if tally.rows
        for row in metrics.metric_rows(tally)
    ]
    rows += [{**row, "split": TEST} for row in _count_slices(candidate).metric_rows()]
    _keep_metrics(candidate, task, rows)
    model["metrics"] = {
        name: round(number, 6) for name, number in _numbers(candidate, tallies).items()
    }
    model["rows"]["test"] = test.rows
    model["rows"]["duplicate_free"] = tallies[DUPLICATE_FREE].rows
    models.write_model(catalog, model)
    return test


def _numbers(candidate: Candidate, tallies: dict[str, Tally]) -> dict[str, float]:
    """What stands in model.json: every metric of the test split, and the accuracies beside."""
    numbers = {name: metric(tallies[TEST]) for name, metric in METRICS_BY_NAME.items()}
    if tallies[DUPLICATE_FREE].rows:
        numbers["duplicate_free_accuracy"] = metrics.accuracy(tallies[DUPLICATE_FREE])
    if tallies[PLAIN].rows:
        numbers["plain_accuracy"] = metrics.accuracy(tallies[PLAIN])
    if candidate.model["kind"] == models.HEAD:  # a network has scores of its test images only
        train = Tally.empty(candidate.labels)
        for batch in candidate.predictions("train"):
            train.add(batch.labels, batch.probabilities)
        numbers["train_accuracy"] = metrics.accuracy(train)
    return numbers


def _keep_predictions(candidate: Candidate, task: TaskRun) -> dict[str, Tally]:
    """Write the test split's predictions while counting them, by split of the metrics table."""
    predictions = candidate.catalog.predictions
    held = tables.claim(predictions, task.writer)
    tallies = {split: Tally.empty(candidate.labels) for split in (TEST, DUPLICATE_FREE, PLAIN)}
    is_augmented = False

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal is_augmented
        for batch in candidate.predictions("test"):
            is_augmented |= batch.plain is not None
            _count(tallies, batch)
            yield _prediction_batch(batch, candidate)

    urls = tables.write_batches(predictions, batches())
    tables.replace_partition(predictions, urls, candidate.version, held)
    if not is_augmented:  # then plain is all there is
        tallies[PLAIN] = Tally.empty(candidate.labels)
    return tallies


def _count(tallies: dict[str, Tally], batch: Predicted) -> None:
    unique = np.flatnonzero(batch.rows["is_unique"].to_numpy(zero_copy_only=False))
    tallies[TEST].add(batch.labels, batch.probabilities)
    tallies[DUPLICATE_FREE].add([batch.labels[row] for row in unique], batch.probabilities[unique])
    plain = batch.probabilities if batch.plain is None else batch.plain
    tallies[PLAIN].add(batch.labels, plain)


def _count_slices(candidate: Candidate) -> SliceCounts:
    """How right the predictions are that were just kept, by what is known of their images."""
    catalog, counts = candidate.catalog, SliceCounts()
    images = tables.open_table(catalog.images, candidate.plan.images_version)
    assert images is not None  # the plan was made of it
    statement = SLICED.format(version=tables.literal(candidate.version))
    with tables.stream_query(
        predictions=catalog.predictions, images=images, manifest=catalog.manifest
    ) as sql:
        for batch in sql(statement):
            counts.add(batch.to_pylist())
    return counts


def _keep_metrics(candidate: Candidate, task: TaskRun, rows: list[dict[str, Any]]) -> None:
    table = candidate.catalog.metrics
    held = tables.claim(table, task.writer)
    whole = [{**row, "model_version": candidate.version} for row in rows]
    urls = tables.write_batches(table, [pa.RecordBatch.from_pylist(whole, schema=METRICS)])
    tables.replace_partition(table, urls, candidate.version, held)


def _head_predictions(candidate: Candidate, split: str) -> Iterator[Predicted]:
    """A head's probabilities, worked out from the features."""
    classifier = models.load_classifier(candidate.catalog, candidate.model)
    condition = f"backbone_id = {tables.literal(candidate.plan.backbone_id)}"
    for rows in _rows(candidate, split, "features", "p.embedding", condition):
        found = classifier.probabilities(to_matrix(rows["embedding"]))
        yield Predicted(rows, found.astype(np.float32))  # as the table keeps them


def _scored_predictions(candidate: Candidate, split: str) -> Iterator[Predicted]:
    """A fine-tuned network's probabilities, as it has left them in the table of scores."""
    condition = f"model_version = {tables.literal(candidate.version)}"
    for rows in _rows(candidate, split, "scores", "p.probabilities, p.augmented", condition):
        plain = to_matrix(rows["probabilities"])
        has_augmented = pc.is_valid(rows["augmented"]).to_numpy(zero_copy_only=False)
        if not has_augmented.any():
            yield Predicted(rows, plain)
            continue
        counted = plain.copy()
        counted[has_augmented] = to_matrix(rows["augmented"].drop_null())
        yield Predicted(rows, counted, plain)


PREDICTIONS_OF: dict[str, Callable[[Candidate, str], Iterator[Predicted]]] = {
    models.HEAD: _head_predictions,
    models.FINE_TUNED: _scored_predictions,
}


def _rows(
    candidate: Candidate, split: str, source: str, columns: str, condition: str
) -> Iterator[pa.RecordBatch]:
    """A split's rows of a table at the plan's versions, with label and is_unique; none is empty."""
    catalog, plan = candidate.catalog, candidate.plan
    versions = {"features": plan.features_version}
    table = tables.open_table(getattr(catalog, source), versions.get(source))
    images = tables.open_table(catalog.images, plan.images_version)
    assert images is not None  # the plan was made of it
    statement = ROWS.format(
        labelled=_labelled(plan), split=split, source=source, columns=columns, condition=condition
    )
    read = {
        source: table or getattr(catalog, source),
        "images": images,
        "splits": models.open_splits(catalog, plan),
        "exclusions": catalog.exclusions,
        "label_overrides": models.open_overrides(catalog, plan),
    }
    with tables.stream_query(**read) as sql:
        yield from (batch for batch in sql(statement) if batch.num_rows)


def _labelled(plan: Plan) -> str:
    """The SQL of the images whose label is known."""
    return LABELLED.format(plan=tables.literal(plan.version), images=label_overrides.IMAGES)


def _prediction_batch(batch: Predicted, candidate: Candidate) -> pa.RecordBatch:
    rows, probabilities = batch.rows, batch.probabilities
    best = probabilities.argmax(axis=1)
    columns = {
        "image_id": rows["image_id"].cast(pa.string()),
        "model_version": pa.array([candidate.version] * rows.num_rows, pa.string()),
        "label": rows["label"].cast(pa.string()),
        "predicted": pa.array([candidate.labels[index] for index in best], pa.string()),
        "probability": pa.array(probabilities.max(axis=1)),
        "probabilities": pa.array(list(probabilities), pa.list_(pa.float32())),
    }
    return pa.RecordBatch.from_pydict(columns, schema=PREDICTIONS)
