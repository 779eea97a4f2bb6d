"""Models made again: the same predictions from the same table versions, whatever came after, and apart."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sightline import cli, evaluation, fine_tuning, models, remaking, storage, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import ConfigError, StorageError, TrainingError
from sightline.exclusions import SUSPICIOUS, write_exclusions
from sightline.models import Plan
from sightline.reduction import reduce_features
from sightline.tables import Writer
from sightline.training import train_classifier
from tests.conftest import (
    catalog_of,
    image_row,
    jpeg,
    made_up_image_row,
    make_task,
    store_embeddings,
    store_rows,
    write_dataset,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.usefixtures("own_signals")

DATASET = """
source: {type: folder, path: photos}
reduce: null
train: {penalties: [0.003], folds: 2, max_iterations: 10}
"""
NETWORK = """
source: {type: folder, path: photos}
backbone: {name: resnet18, weights: random, image_size: 32, precision: fp32}
train: null
fine_tune: {trainable: all, epochs: 2, batch_size: 12, precision: fp32, validation_share: 0.2}
"""
ROWS = 90


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    return catalog_of(spec)


def trained(spark: "SparkSession", spec: DatasetSpec, catalog: Catalog) -> Plan:
    """A head with its test predictions, on three clouds of embeddings."""
    rng = np.random.default_rng(0)
    classes = np.arange(ROWS) % 3
    values = rng.normal(size=(ROWS, 4)) + 1.5 * np.eye(3, 4)[classes]
    labels = [["tram", "bus", "car"][one] for one in classes]
    splits = ["test" if number % 5 == 0 else "train" for number in range(ROWS)]
    store_embeddings(catalog, spec, values, labels, splits)
    plan = models.make_plan(spec, catalog, "made-up")
    models.write_plan(catalog, plan)
    models.fix_splits(catalog, plan)
    plan = models.read_plan(catalog, plan.version)
    left_out = dict.fromkeys((f"{number:064x}" for number in range(1, ROWS, 7)), SUSPICIOUS)
    write_exclusions(catalog, plan.version, left_out, Writer("tests"))
    reduce_features(spark, spec, catalog, *make_task("reduce"), plan)
    train_classifier(spark, spec, catalog, *make_task("train"), plan)
    evaluation.evaluate(spec, catalog, *make_task("evaluate"), plan)
    return plan


def grow(catalog: Catalog) -> None:
    """More images came, of a class of their own, in the train and in the test split."""
    rows = [made_up_image_row(number, label="tram") for number in range(1000, 1040)]
    store_rows(catalog.images, rows)
    ids = [row["image_id"] for row in rows]
    splits = [
        {"image_id": one, "group_id": one, "split": ("train", "test")[number % 2]}
        for number, one in enumerate(ids)
    ]
    store_rows(catalog.splits, splits)
    features = [{"image_id": one, "backbone_id": "made-up", "embedding": [9.0] * 4} for one in ids]
    store_rows(catalog.features, features, "made-up")


def files_of(root: str) -> dict[str, bytes]:
    """Every file of the dataset."""
    paths = [path for path in Path(root).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_a_head_is_made_again_of_its_table_versions_and_nothing_else_changes(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, own_places: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    plan = trained(spark, spec, catalog)
    models.crown(catalog, plan.version)
    grow(catalog)
    write_dataset(own_places, "photos", "source: {type: folder, path: photos}\ntrain: {folds: 3}\n")
    before = files_of(catalog.root)
    assert cli.main(["remake", "photos", plan.version]) == 0
    said = capsys.readouterr().out
    assert "the same test predictions" in said
    assert "18 test images" in said
    assert "Not as it was" not in said
    assert files_of(catalog.root) == before


def tell_another_apart(catalog: Catalog, version: str) -> None:
    """A model whose description names another penalty is another model."""
    model = models.read_model(catalog, version)
    assert model is not None
    model["spec"]["train"]["penalties"] = [3.0]
    model["environment"]["packages"]["numpy"] = "1.0"
    models.write_model(catalog, model)
    assert cli.main(["remake", "photos", version, "--keep"]) == 1
    kept = models.read_model(catalog.remake(version), version)
    assert kept is not None
    assert kept["excluded"] == model["excluded"]
    assert kept["excluded"]["suspicious"] == 13
    assert kept["head"]["parameters"] == {"penalty": 3.0}


def test_what_cannot_be_made_again_is_said_in_a_sentence(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    plan = store_embeddings(catalog, spec, np.eye(4), ["a", "b", "a", "b"], ["train"] * 4)
    with pytest.raises(ConfigError, match=r"photos has no model '7'\. Known: "):
        remaking.remake(catalog, "7")
    versions = {"images": plan.images_version, "features": plan.features_version, "splits": 1}
    model = {
        "version": plan.version, "kind": models.HEAD, "tables": versions, "backbone_id": "made-up",
        "fingerprint": "", "dataset": "photos", "spec": {"name": "photos", "old": 1},
    }  # fmt: skip
    models.write_model(catalog, model)
    with pytest.raises(TrainingError, match="no test predictions"):
        remaking.remake(catalog, plan.version)
    with pytest.raises(TrainingError, match="made by another version of Sightline"):
        remaking.spec_of(model)
    predicted = {
        "image_id": "1", "model_version": plan.version, "predicted": "a", "probability": 1.0,
        "probabilities": [1.0, 0.0],
    }  # fmt: skip
    store_rows(catalog.predictions, [predicted], plan.version)
    models.write_model(catalog, {**model, "backbone_id": "another"})
    with pytest.raises(TrainingError, match="features has none of another"):
        remaking.remake(catalog, plan.version)
    models.write_model(catalog, model)
    for url in tables.file_urls(catalog.images):
        Path(url).unlink()
    with pytest.raises(StorageError, match=r"version 1 of table images is no longer whole"):
        remaking.remake(catalog, plan.version)


def test_a_search_is_not_searched_again(own_places: Path) -> None:
    text = NETWORK.replace("epochs: 2", "epochs: 2, search: {learning_rate: [0.001, 0.1]}")
    spec = write_dataset(own_places, "photos", text)
    assert spec.fine_tune is not None
    found = spec.fine_tune.model_copy(update={"learning_rate": 0.04})
    tuning = {
        "settings": found.model_dump(mode="json"), "precision": "bf16",
        "backbone": spec.backbone.model_dump(mode="json"),
    }  # fmt: skip
    model: dict[str, Any] = {"kind": models.FINE_TUNED, "spec": spec.model_dump(mode="json")}
    again = remaking.spec_of({**model, "fine_tuning": tuning}).fine_tune
    assert again is not None
    assert (again.search, again.learning_rate, again.precision) == (None, 0.04, "bf16")


@pytest.mark.slow
def test_a_head_on_components_is_made_again_and_another_is_told_apart(
    spark: "SparkSession", own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = DATASET.replace("reduce: null", "reduce: {components: 3}")
    spec = write_dataset(own_places, "photos", text)
    catalog = catalog_of(spec)
    made = remaking.remake(catalog, trained(spark, spec, catalog).version)
    assert made.is_same
    assert not storage.exists(catalog.remake(made.version).root)
    tell_another_apart(catalog, made.version)
    said = capsys.readouterr().out
    assert "other test predictions" in said
    assert "Not as it was: numpy: was 1.0, is 2." in said


@pytest.mark.slow
@pytest.mark.usefixtures("one_torch_thread")
def test_a_network_is_made_again(spark: "SparkSession", own_places: Path) -> None:
    spec = write_dataset(own_places, "photos", NETWORK)
    catalog = catalog_of(spec)
    rng = np.random.default_rng(0)
    colours = {"blue": (20, 40, 200), "red": (210, 30, 30)}
    labels = sorted(colours) * 24
    rows = [image_row(jpeg(rng, np.array(colours[one]), 40), one) for one in labels]
    store_rows(catalog.images, rows)
    splits = [
        {"image_id": row["image_id"], "group_id": row["image_id"], "split": split}
        for row, split in zip(rows, ["test", "train", "train", "train"] * 12, strict=True)
    ]
    store_rows(catalog.splits, splits)
    plan = models.make_plan(spec, catalog, "none")
    models.write_plan(catalog, plan)
    fine_tuning.fine_tune(spark, spec, catalog, *make_task("fine_tune"), plan)
    fine_tuning.score(spark, spec, catalog, *make_task("score"), plan)
    evaluation.evaluate(spec, catalog, *make_task("evaluate"), plan)
    version = models.candidates(spec, plan)[models.FINE_TUNED]
    made = remaking.remake(catalog, version)
    assert made.is_same
    assert made.images == 12
    assert made.tolerance == remaking.TOLERANCES["fp32"]
    assert not storage.exists(catalog.remake(version).root)
