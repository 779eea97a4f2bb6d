"""A model made again, of the table versions and with the parameters that its model.json names, to be compared
with it.

Everything that is made lies in places of its own (`Catalog.remake`), so neither model nor champion can
be touched; what is there of tables is read only.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sightline import evaluation, lookup, models, reduction, storage, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import ConfigError, StorageError, TrainingError
from sightline.ledger import Record, TaskRun
from sightline.models import Plan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

# Of a test image's probabilities. A head is fitted in fp64; a network's sums depend on the processor and on
# how many threads share them, the more so in bf16, and each epoch adds to that.
TOLERANCES = {models.HEAD: 1e-6, "fp32": 1e-3, "bf16": 0.05}

PAIRED = """
    SELECT a.image_id, a.predicted AS was, b.predicted AS now, a.probabilities AS before,
        b.probabilities AS after
    FROM (SELECT * FROM original WHERE model_version = {version}) a
    FULL JOIN (SELECT * FROM remade WHERE model_version = {version}) b ON a.image_id = b.image_id
"""


@dataclass(frozen=True)
class Remade:
    """A model beside itself, made again."""

    version: str
    tolerance: float  # of a probability
    images: int  # test images that both have predicted
    unpaired: int  # that one of them alone has
    changed: int  # of another class now
    largest_difference: float  # of two probabilities
    differences: list[str]  # of code and environment, as sentences
    url: str | None  # where the new one lies, where it was kept

    @property
    def is_same(self) -> bool:
        """Whether all test predictions are the same within the tolerance."""
        return bool(self.images and not self.unpaired and self.largest_difference <= self.tolerance)


def remake(
    catalog: Catalog, version: str, *, tolerance: float | None = None, keep: bool = False
) -> Remade:
    """Train a model again and compare the test predictions. Starts Spark.

    ConfigError where there is no such model; StorageError where its table versions are no longer whole;
    TrainingError where it was never evaluated, or its features or weights are gone.
    """
    model = _find(catalog, version)
    plan = plan_of(model)
    _refuse_missing(catalog, plan, model)
    apart = catalog.remake(version)
    storage.remove_tree(apart.root)
    try:
        with _session(f"remake {version}") as session:
            TRAININGS[model["kind"]](session, spec_of(model), apart, plan)
        made = models.read_model(apart, version)
        assert made is not None  # it was just trained
        compared = _compare(catalog, apart, model, tolerance)
        return Remade(
            version=version,
            **compared,
            differences=_differences(model, made),
            url=apart.model(version) if keep else None,
        )
    finally:
        if not keep:
            storage.remove_tree(apart.root)


def plan_of(model: dict[str, Any]) -> Plan:
    """The plan that a model was trained by."""
    versions = model["tables"]
    return Plan(
        models.plan_of(model["version"]),
        model["backbone_id"],
        versions["images"],
        versions["features"],
        model["fingerprint"],
        versions["splits"],
        versions.get("label_overrides"),
    )


def spec_of(model: dict[str, Any]) -> DatasetSpec:
    """The dataset file as it was, with one candidate; a search is not searched again, but takes what it
    found, and precision is what it was, whatever this processor would choose."""
    try:
        spec = DatasetSpec.model_validate(model["spec"])
    except ValidationError as error:
        raise TrainingError(
            f"Model {model['version']} of {model['dataset']} was made by another version of Sightline, "
            f"whose settings this one does not read: {' '.join(str(error).split())}"
        ) from error
    if model["kind"] == models.HEAD:
        return spec.model_copy(update={"fine_tune": None})
    assert spec.fine_tune is not None  # it was trained by it
    tuning = model["fine_tuning"]
    found = {**tuning["settings"], "search": None, "precision": tuning["precision"]}
    settings = type(spec.fine_tune).model_validate(found)
    backbone = type(spec.backbone).model_validate(tuning["backbone"])
    return spec.model_copy(update={"train": None, "fine_tune": settings, "backbone": backbone})


def _find(catalog: Catalog, version: str) -> dict[str, Any]:
    model = models.read_model(catalog, version)
    if model is None:
        known = ", ".join(models.list_versions(catalog)) or "none"
        raise ConfigError(f"Dataset {catalog.dataset} has no model {version!r}. Known: {known}.")
    models.refuse_retired(model)
    if not tables.count_rows(catalog.predictions, partition=version):
        raise TrainingError(
            f"Model {version} of {catalog.dataset} has no test predictions to compare with; clear task "
            f"evaluate of train_{catalog.dataset}."
        )
    return model


def _refuse_missing(catalog: Catalog, plan: Plan, model: dict[str, Any]) -> None:
    """StorageError where the files of a table version are gone."""
    wanted = {"images": plan.images_version, "splits": plan.splits_version}
    if model["kind"] == models.HEAD:
        wanted["features"] = plan.features_version
    if plan.label_overrides_version is not None:
        wanted["label_overrides"] = plan.label_overrides_version
    for name, version in wanted.items():
        table = getattr(catalog, name)
        if not lookup.is_whole(table, version):
            raise StorageError(
                f"Model {plan.version} of {catalog.dataset} cannot be made again: version {version} of "
                f"table {name} is no longer whole, as its old files were vacuumed or taken down; train_"
                f"{catalog.dataset} trains a new one of what there is."
            )
    if model["kind"] == models.HEAD and not tables.file_urls(
        catalog.features, plan.features_version, plan.backbone_id
    ):
        raise TrainingError(
            f"Model {plan.version} of {catalog.dataset} cannot be made again: version "
            f"{plan.features_version} of table features has none of {plan.backbone_id}."
        )


def _train_head(session: "SparkSession", spec: DatasetSpec, apart: Catalog, plan: Plan) -> None:
    from sightline import training

    for name, stage in (
        ("reduce", reduction.reduce_features),
        ("train", training.train_classifier),
    ):
        stage(session, spec, apart, *_task(name), plan)
    evaluation.evaluate(spec, apart, *_task("evaluate"), plan)


def _train_network(session: "SparkSession", spec: DatasetSpec, apart: Catalog, plan: Plan) -> None:
    from sightline import fine_tuning

    for name, stage in (("fine_tune", fine_tuning.fine_tune), ("score", fine_tuning.score)):
        stage(session, spec, apart, *_task(name), plan)
    evaluation.evaluate(spec, apart, *_task("evaluate"), plan)


TRAININGS: dict[str, Callable[["SparkSession", DatasetSpec, Catalog, Plan], None]] = {
    models.HEAD: _train_head,
    models.FINE_TUNED: _train_network,
}


def _task(name: str) -> tuple[TaskRun, Record]:
    """A task of no Airflow run, whose record nobody keeps."""
    return TaskRun("remake", "by_hand", name, "all"), Record(name, "remake", "by_hand", "all", "")


@contextmanager
def _session(name: str) -> "Iterator[SparkSession]":
    """A Spark session, which is stopped in the end unless it was there before."""
    from pyspark.sql import SparkSession

    from sightline import spark

    before = SparkSession.getActiveSession()
    session = spark.start_session(name)
    try:
        yield session
    finally:
        if before is None:
            session.stop()


def _compare(
    catalog: Catalog, apart: Catalog, model: dict[str, Any], tolerance: float | None
) -> dict[str, Any]:
    """Both models' predictions of the test images, side by side."""
    statement = PAIRED.format(version=tables.literal(model["version"]))
    images = unpaired = changed = 0
    largest = 0.0
    with tables.stream_query(original=catalog.predictions, remade=apart.predictions) as sql:
        for batch in sql(statement):
            for row in batch.to_pylist():
                if row["before"] is None or row["after"] is None:
                    unpaired += 1
                    continue
                images += 1
                changed += row["was"] != row["now"]
                pairs = zip(row["before"], row["after"], strict=True)
                largest = max(largest, *(abs(one - other) for one, other in pairs))
    kind = model["kind"]
    usual = TOLERANCES[kind if kind == models.HEAD else model["fine_tuning"]["precision"]]
    return {
        "tolerance": usual if tolerance is None else tolerance,
        "images": images,
        "unpaired": unpaired,
        "changed": changed,
        "largest_difference": largest,
    }


def _differences(model: dict[str, Any], made: dict[str, Any]) -> list[str]:
    """What is not as it was when the model was trained: where predictions differ, it may be why."""
    if "code" not in model:
        return ["what trained the model was not recorded then"]
    was, now = _flat(model), _flat(made)
    return [
        f"{name}: was {was.get(name)}, is {now.get(name)}"
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name)
    ]


def _flat(model: dict[str, Any]) -> dict[str, Any]:
    environment = dict(model["environment"])
    code = {f"code {name}": value for name, value in model["code"].items()}
    return {**environment.pop("packages"), **environment, **code}
