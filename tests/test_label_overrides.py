"""What people say of labels: it stands above the source's wherever a label is read, from the next plan on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sightline import (
    evaluation,
    label_overrides,
    models,
    split_balance,
    storage,
    tables,
    take_down,
)
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.conflicts import dropped_images
from sightline.errors import ConfigError, StorageError
from sightline.fine_tuning.training_set import build_training_set
from sightline.label_audit import audit_labels
from sightline.label_audit.audited import Audit
from sightline.label_overrides import Decision, decide
from sightline.models import Plan, make_plan
from sightline.take_down import Asked
from sightline.tracing.image import trace_image
from sightline.tracing.text import describe_image
from sightline.training import train_classifier
from tests.conftest import make_task, store_embeddings, store_rows, write_dataset
from tests.test_label_audit import CLASSES, clouds, numbers, rows_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DATASET = """
source: {type: folder, path: photos}
reduce: {components: 6}
train: {folds: 2, penalties: [0.01], max_iterations: 20}
"""
SPLITS = ["train", "train", "train", "test"]


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


@pytest.fixture
def plan(spec: DatasetSpec, catalog: Catalog) -> Plan:
    """240 images of three classes, twelve of them labelled wrong."""
    values, labels, _ = clouds()
    return store_embeddings(catalog, spec, values, labels, SPLITS * 60)


def image_id(number: int) -> str:
    return f"{number:064x}"


def say(catalog: Catalog, number: int, label: str | None) -> None:
    decide(catalog, Decision(image_id(number), label, "ann"))


def correct_all(catalog: Catalog) -> list[int]:
    """Give the images that are labelled wrong the label that is right."""
    _, _, planted = clouds()
    for number in planted:
        say(catalog, number, CLASSES[number % 3])
    return planted


def audited(spec: DatasetSpec, catalog: Catalog, plan: Plan) -> dict[str, Any]:
    task, record = make_task("audit_labels")
    audit_labels(spec, catalog, task, record, plan)
    return record.counts


@pytest.mark.usefixtures("plan")
def test_a_decision_is_kept_with_who_made_it_and_may_be_changed_and_taken_back(
    catalog: Catalog,
) -> None:
    say(catalog, 0, "bus")
    say(catalog, 1, "bus")
    say(catalog, 1, "tram <b>ö</b> 🚋")
    version = tables.current_version(catalog.label_overrides)
    found = label_overrides.read(catalog, version)
    kinds = {number: label_overrides.kind(found[image_id(number)]) for number in (0, 1)}
    assert kinds == {0: label_overrides.ACCEPTED, 1: label_overrides.CORRECTED}
    second = found[image_id(1)]
    assert (second["label"], second["given_label"]) == ("tram <b>ö</b> 🚋", "car")
    assert second["decided_by"] == "ann"
    say(catalog, 1, None)
    say(catalog, 7, None)  # nobody had said anything
    now = label_overrides.read(catalog, tables.current_version(catalog.label_overrides))
    assert list(now) == [image_id(0)]
    assert label_overrides.read(catalog, version) == found


@pytest.mark.usefixtures("plan")
def test_what_cannot_be_a_label_or_an_image_is_refused(catalog: Catalog) -> None:
    for label in ("", "  ", "a" * 201, "new\nline", "\x1b[31m"):
        with pytest.raises(ConfigError, match="cannot be a label; give 1 to 200 printable"):
            say(catalog, 0, label)
    with pytest.raises(ConfigError, match="photos holds no image .*; it may have been taken down"):
        say(catalog, 999, "bus")
    with pytest.raises(ConfigError, match="has no label that could be accepted"):
        unlabelled = {"label": None, "image_id": "f" * 64, "uri": "mem://new"}
        store_rows(catalog.images, [{**held_row(catalog), **unlabelled}])
        decide(catalog, Decision("f" * 64, "bus", "ann"))
    assert tables.current_version(catalog.label_overrides) is None


def held_row(catalog: Catalog) -> dict[str, Any]:
    batch = next(tables.read_batches(catalog.images, catalog.images.schema.names))
    row: dict[str, Any] = batch.to_pylist()[0]
    return row


def test_a_decision_makes_another_plan_and_none_makes_the_same(
    spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    assert plan.label_overrides_version is None
    say(catalog, 0, "tram")
    corrected = make_plan(spec, catalog, "made-up")
    assert corrected.label_overrides_version is not None
    assert corrected.fingerprint != plan.fingerprint
    say(catalog, 0, "bus")
    accepted = make_plan(spec, catalog, "made-up")
    assert len({plan.version, corrected.version, accepted.version}) == 3
    say(catalog, 0, None)
    assert make_plan(spec, catalog, "made-up").version == plan.version


def test_audit_training_and_counts_use_it_and_an_older_plan_does_not(
    spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    planted = correct_all(catalog)
    say(catalog, 4, "ferry")  # a class that the source does not know
    new = make_plan(spec, catalog, "made-up")
    audits = [Audit(spec, catalog, one, frozenset()) for one in (plan, new)]
    assert [one.classes() for one in audits] == [
        ["bus", "car", "tram"],
        ["bus", "car", "ferry", "tram"],
    ]
    labels = [
        {row["image_id"]: row["label"] for batch in one.batches() for row in batch.to_pylist()}
        for one in audits
    ]
    changed = {int(one, 16) for one in labels[0] if labels[0][one] != labels[1][one]}
    assert changed == {*planted, 4}
    folder = storage.join(catalog.staging, "lists")
    before, after = (build_training_set(spec, catalog, one, 0.2, folder) for one in (plan, new))
    assert (before.labels, after.labels) == (
        ["bus", "car", "tram"],
        ["bus", "car", "ferry", "tram"],
    )
    of_train = [number for number in planted if SPLITS[number % 4] == "train"]
    assert of_train
    assert before.class_images != [after.class_images[place] for place in (0, 1, 3)]


@pytest.mark.usefixtures("plan")
def test_splits_are_counted_by_it(spec: DatasetSpec, catalog: Catalog) -> None:
    assert split_balance.uneven_classes(spec, catalog) == []
    tested = range(3, 63, 4)
    for number in tested:
        say(catalog, number, "ferry")
    [uneven] = split_balance.uneven_classes(spec, catalog)
    assert (uneven["label"], uneven["images"], uneven["tested"]) == ("ferry", 15, 15)


def test_what_was_decided_is_not_suggested_again(
    spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    audited(spec, catalog, plan)
    first, second = numbers(rows_of(catalog, plan))[:2]
    rows = rows_of(catalog, plan)
    say(catalog, first, rows[0]["label"])
    say(catalog, second, rows[1]["suggested"])
    new = make_plan(spec, catalog, "made-up")
    assert audited(spec, catalog, new)["decided"] == 2
    found = numbers(rows_of(catalog, new))
    assert found
    assert not {first, second} & set(found)


def test_a_conflict_is_settled_by_a_person(spec: DatasetSpec, catalog: Catalog, plan: Plan) -> None:
    row = {"uri": "mem://0", "label": "another", "partition": "all"}
    store_rows_by_uri(catalog, row)
    assert dropped_images(spec.labels, catalog, plan.images_version, ()) == [image_id(0)]
    assert make_plan(spec, catalog, "made-up").version != plan.version
    assert dropped_images(spec.labels, catalog, plan.images_version, {image_id(0)}) == []


def store_rows_by_uri(catalog: Catalog, row: dict[str, Any]) -> None:
    import pyarrow as pa

    batch = pa.RecordBatch.from_pylist([row], schema=catalog.manifest.schema)
    urls = tables.write_batches(catalog.manifest, [batch])
    tables.append_new(catalog.manifest, urls, "all", tables.Writer("tests"), key="uri")


def test_a_head_learns_and_is_tested_by_it_and_says_so(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    assert plan.label_overrides_version is None
    planted = correct_all(catalog)
    say(catalog, 2, "tram")  # as it was
    unreduced = spec.model_copy(update={"reduce": None})
    one = make_plan(unreduced, catalog, "made-up")
    models.write_plan(catalog, one)
    train_classifier(spark, unreduced, catalog, *make_task("train"), one)
    evaluation.evaluate(unreduced, catalog, *make_task("evaluate"), one)
    model = models.read_model(catalog, one.version)
    assert model is not None
    assert model["metrics"]["accuracy"] == 1.0  # by the source's labels it could not be
    assert model["overridden"] == {
        "corrected": len(planted), "accepted": 1, "list": "overridden.json"
    }  # fmt: skip
    assert model["tables"]["label_overrides"] == one.label_overrides_version
    listed = storage.read_json(storage.join(catalog.model(one.version), "overridden.json"))
    assert listed[image_id(planted[0])]["label"] == CLASSES[planted[0] % 3]
    trace = trace_image(catalog, image_id(planted[0]))
    assert [lesson.label for lesson in trace.models] == [CLASSES[planted[0] % 3]]
    assert any("ann corrected" in line for line in describe_image(trace))


def test_a_take_down_erases_it_from_every_version(
    spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    say(catalog, 0, "tram")
    say(catalog, 1, "tram")
    held = make_plan(spec, catalog, "made-up")
    models.write_plan(catalog, held)
    beside = label_overrides.list_beside(catalog, held.label_overrides_version, held.version)
    assert beside["corrected"] == 2
    take_down.take_down(catalog, Asked("image_id", (image_id(0),)), "asked to", "ann")
    now = label_overrides.read(catalog, tables.current_version(catalog.label_overrides))
    assert list(now) == [image_id(1)]
    for path in [
        *Path(catalog.label_overrides.url).rglob("*.parquet"),
        *Path(catalog.models).rglob("*.json"),
    ]:
        assert image_id(0).encode() not in path.read_bytes(), path
    with pytest.raises(StorageError, match="label_overrides cannot be read any more"):
        label_overrides.read(catalog, held.label_overrides_version)
