"""`sightline trace`: an image to its source and models, a model to its images."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sightline import cli, exclusions, ledger, models, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.hashing import is_held_out
from sightline.ledger import TaskRun
from sightline.models import Plan
from sightline.take_down import Asked, take_down
from sightline.tracing import image
from sightline.tracing.image import LEFT_OUT, TESTED, TRAINED, UNKNOWN, VALIDATED, trace_image
from sightline.tracing.model import trace_model
from tests.conftest import (
    catalog_of,
    made_up_image_row,
    store_embeddings,
    store_partition,
    store_rows,
    write_dataset,
)

pytestmark = pytest.mark.usefixtures("own_signals")

DATASET = """
source: {type: folder, path: photos}
train: {folds: 2}
fine_tune: {validation_share: 0.4}
"""
LABELS = ["bus", "car", "bus", None, "car", "=cmd()"]
SPLITS = ["train", "train", "test", "train", "test", "train"]
UPLOADED = datetime(2026, 11, 1, 12, tzinfo=UTC)
ENVIRONMENT = {"python": "3.11.7", "packages": {"numpy": "2.4.1", "torch": None}, "gpus": []}


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    return catalog_of(spec)


@pytest.fixture
def plan(spec: DatasetSpec, catalog: Catalog) -> Plan:
    """Six images, with a head and a network trained on them; two images came later."""
    plan = store_embeddings(catalog, spec, np.eye(6), LABELS, SPLITS)
    manifest = {
        "uri": "mem://0", "label": "bus", "licence": "CC-BY", "author": "Ada", "partition": "all",
        "landing_url": "https://example.org/0", "title": "A bus\x1b[31m", "uploaded_at": UPLOADED,
    }  # fmt: skip
    store(catalog.manifest, manifest, "all", uri="mem://0")
    store(catalog.manifest, {"partition": "all"}, "all", uri="mem://listed")
    for kind, version in models.candidates(spec, plan).items():
        models.write_model(catalog, model_json(spec, plan, version, kind))
    store_rows(catalog.images, [made_up_image_row(n, label="bus") for n in (6, 7)])
    splits = [{"image_id": f"{n:064x}", "group_id": "late", "split": "train"} for n in (6, 7)]
    store_rows(catalog.splits, splits)
    predicted = {
        "image_id": f"{2:064x}", "model_version": plan.version, "label": "bus", "predicted": "car",
        "probability": 0.75, "probabilities": [0.25, 0.75],
    }  # fmt: skip
    store_rows(catalog.predictions, [predicted], plan.version)
    rejected = {
        "uri": "mem://broken", "stage": "fetch", "reason": "truncated", "attempts": 2,
        "detail": "ends early", "rejected_at": UPLOADED, "partition": "all",
    }  # fmt: skip
    store(catalog.rejects, rejected, "all", uri="mem://broken")
    with ledger.recording(
        catalog, TaskRun("ingest_photos", "run-1", "validate_images", "all")
    ) as record:
        record.counts = {"rows": 6, "checks": 12}
    return plan


def store(table: tables.Table, row: dict[str, Any], partition: str, uri: str) -> None:
    """Append a row to a table whose key is the uri."""
    batch = pa.RecordBatch.from_pylist([{**row, "uri": uri}], schema=table.schema)
    urls = tables.write_batches(table, [batch])
    tables.append_new(table, urls, partition, tables.Writer("tests"), key="uri")


def model_json(spec: DatasetSpec, plan: Plan, version: str, kind: str) -> dict[str, Any]:
    """What a training would have written."""
    tuning = {"backbone": {}, "settings": {"epochs": 3}, "precision": "fp32", "best_epoch": 2}
    return {
        "version": version, "kind": kind, "created_at": "2026-11-05T00:00:00+00:00", "seed": 7,
        "backbone_id": "made-up", "fingerprint": "f", "spec": spec.model_dump(mode="json"),
        "tables": {"images": plan.images_version, "features": plan.features_version, "splits": 1},
        "rows": {"train": 3, "test": 2}, "metrics": {"accuracy": 0.5},
        "head": {"kind": "logistic_regression", "parameters": {"penalty": 0.1}},
        "fine_tuning": tuning if kind == models.FINE_TUNED else None,
        "code": {"version": "1.0", "commit": "c0ffee", "modified": True},
        "environment": ENVIRONMENT,
    }  # fmt: skip


def image_id(number: int) -> str:
    return f"{number:064x}"


def test_an_image_is_followed_from_its_page_to_its_models(catalog: Catalog, plan: Plan) -> None:
    trace = trace_image(catalog, image_id(0))
    assert trace.uri == "mem://0"
    [listed] = trace.listed
    assert (listed["author"], listed["licence"]) == ("Ada", "CC-BY")
    assert listed["landing_url"] == "https://example.org/0"
    assert trace.held is not None
    assert "content" not in trace.held
    assert datetime.now(UTC).timestamp() - trace.held["stored_at"].timestamp() < 600
    assert trace.split is not None
    assert (trace.split["split"], trace.split["group_images"]) == ("train", 1)
    assert trace.features == ["made-up"]
    network = VALIDATED if is_held_out(image_id(0), 0.4) else TRAINED
    lessons = [(one.version, one.kind, one.role, one.label) for one in trace.models]
    assert lessons == [
        (plan.version, models.HEAD, TRAINED, "bus"),
        (f"{plan.version}-tuned", models.FINE_TUNED, network, "bus"),
    ]
    [check] = trace.checks
    assert (check["task"], check["checks"], check["run"]) == ("validate_images", 12, "run-1")


def test_a_test_image_has_its_predictions_and_a_late_one_taught_nobody(
    catalog: Catalog, plan: Plan
) -> None:
    tested = trace_image(catalog, "mem://2")
    assert {one.role for one in tested.models} == {TESTED}
    [prediction] = tested.predictions
    assert (prediction["predicted"], prediction["label"]) == ("car", "bus")
    assert trace_image(catalog, image_id(6)).models == []
    assert trace_image(catalog, image_id(3)).models == []  # nobody has labelled it


def test_versions_whose_files_are_gone_are_unknown(catalog: Catalog, plan: Plan) -> None:
    old = tables.file_urls(catalog.features, plan.features_version)
    rows = {"image_id": image_id(0), "backbone_id": "made-up", "embedding": [1.0]}
    store_partition(catalog.features, [rows], "made-up")
    Path(old[0]).unlink()  # as a vacuum does
    roles = {one.kind: one.role for one in trace_image(catalog, image_id(0)).models}
    assert roles[models.HEAD] == UNKNOWN
    assert roles[models.FINE_TUNED] != UNKNOWN


def test_a_model_that_left_an_image_out_says_why(
    catalog: Catalog, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = {image_id(0): exclusions.CONFLICT, image_id(1): exclusions.SUSPICIOUS}
    exclusions.write_exclusions(catalog, plan.version, reasons, tables.Writer("tests"))
    said = {one.role for one in trace_image(catalog, image_id(0)).models}
    assert said == {f"{LEFT_OUT}the source gives its bytes under two labels"}
    said = {one.role for one in trace_image(catalog, image_id(1)).models}
    assert said == {f"{LEFT_OUT}its label is suspicious"}
    assert trace_model(catalog, plan.version).classes == {
        "test": {"bus": 1, "car": 1}, "train": {"=cmd()": 1}
    }  # fmt: skip
    assert cli.main(["trace", "photos", "model", f"{plan.version}-tuned", "--images"]) == 0
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [line["uri"] for line in lines] == [f"mem://{n}" for n in (2, 4, 5)]


def test_after_a_take_down_the_others_are_still_traced(catalog: Catalog, plan: Plan) -> None:
    take_down(catalog, Asked("image_id", (image_id(1),)), "asked", "ann")
    head, network = trace_image(catalog, image_id(0)).models
    assert (head.role, network.role) == (
        TRAINED, VALIDATED if is_held_out(image_id(0), 0.4) else TRAINED
    )  # fmt: skip
    assert trace_model(catalog, plan.version).classes is None


def test_a_val_image_teaches_a_head_nothing(catalog: Catalog, plan: Plan) -> None:
    model = models.read_model(catalog, plan.version)
    network = models.read_model(catalog, f"{plan.version}-tuned")
    assert model is not None
    assert network is not None
    val = {"split": "val", "group_id": "1"}
    assert image._role(catalog, model, val) is None
    assert image._role(catalog, network, val) == VALIDATED
    assert image._role(catalog, network, {"split": "set_aside", "group_id": "1"}) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0000", "'0000' begins several image ids of photos: 0000000000000000 (mem://0), 0000"),
        ("ffff", "Dataset photos has no image 'ffff': give an image id, 4 or more of its first"),
        ("000", "has no image '000'"),
        ("mem://?", "has no image 'mem://?'"),
    ],
)
def test_an_id_that_is_not_one_is_refused_in_a_sentence(
    plan: Plan, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    assert cli.main(["trace", "photos", "image", text]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_rejected_and_a_merely_listed_image_are_found_by_their_uri(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["trace", "photos", "image", "mem://broken"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("not held")
    assert "truncated (ends early) in fetch" in said
    assert cli.main(["trace", "photos", "image", "mem://listed"]) == 0
    assert "partition      all" in capsys.readouterr().out


def test_an_image_is_told_to_people_and_to_programs(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["trace", "photos", "image", "mem://0"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(image_id(0))
    for expected in ("Ada", "CC-BY", "alone in it", f"{plan.version} (head) trained on it, as bus"):
        assert expected in said
    assert "\x1b" not in said  # what strangers write reaches no terminal
    assert cli.main(["trace", "photos", "image", "mem://0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["models"][0]["role"] == TRAINED
    assert told["listed"][0]["uploaded_at"] == "2026-11-01 12:00:00+00:00"


def test_a_model_is_traced_to_versions_classes_and_code(
    catalog: Catalog, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    models.crown(catalog, plan.version)
    trace = trace_model(catalog, None)
    assert trace.version == plan.version
    assert trace.classes == {
        "test": {"bus": 1, "car": 1},
        "train": {"=cmd()": 1, "bus": 1, "car": 1},
    }
    assert trace.parents == {"backbone": "made-up", "plan": plan.version}
    assert cli.main(["trace", "photos", "model"]) == 0
    said = capsys.readouterr().out
    for expected in (
        "head, champion", "commit c0ffee, changed since", "numpy 2.4.1", "seed           7",
        '"penalty": 0.1', f"sightline trace photos model {plan.version} --images",
    ):  # fmt: skip
        assert expected in said
    assert "torch" not in said.partition("packages")[2].partition("\n")[0]
    assert cli.main(["trace", "photos", "model", f"{plan.version}-tuned", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"]["fine_tune"]["settings"] == {"epochs": 3}
    assert told["parents"]["plan"] == plan.version


def test_every_image_of_a_model_is_a_line(
    plan: Plan, own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["trace", "photos", "model", plan.version, "--images"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["uri"] for row in rows] == [f"mem://{n}" for n in (0, 1, 2, 4, 5)]
    assert (rows[0]["split"], rows[0]["licence"], rows[0]["author"]) == ("train", "CC-BY", "Ada")
    assert rows[4]["label"] == "'=cmd()"  # no spreadsheet reckons with it
    file = own_places / "images.csv"
    assert cli.main(["trace", "photos", "model", plan.version, "--images", str(file)]) == 0
    assert "5 images" in capsys.readouterr().out
    assert list(csv.DictReader(file.read_text().splitlines())) == rows


def test_a_model_whose_versions_are_gone_says_so(
    catalog: Catalog, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in tables.file_urls(catalog.images, plan.images_version):
        Path(url).unlink()
    assert trace_model(catalog, plan.version).classes is None
    assert cli.main(["trace", "photos", "model", plan.version]) == 0
    assert "unknown, as the table versions are gone" in capsys.readouterr().out
    assert cli.main(["trace", "photos", "model", plan.version, "--images"]) == 1
    said = capsys.readouterr()
    assert "no longer whole" in said.err
    assert said.out == ""


def test_an_unknown_model_and_a_missing_champion_are_sentences(
    catalog: Catalog, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["trace", "photos", "model"]) == 1
    assert "photos has no champion" in capsys.readouterr().err
    assert cli.main(["trace", "photos", "model", "7"]) == 2
    assert f"has no model '7'. Known: {plan.version}" in capsys.readouterr().err


def test_an_older_model_was_not_told_its_code(
    catalog: Catalog, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    model = models.read_model(catalog, plan.version)
    assert model is not None
    del model["code"], model["environment"]
    models.write_model(catalog, model)
    assert cli.main(["trace", "photos", "model", plan.version]) == 0
    assert capsys.readouterr().out.count("not recorded then") == 2
