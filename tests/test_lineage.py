"""Lineage: tables as OpenLineage datasets with their facets, each event valid by OpenLineage's schemas."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from openlineage.client.naming.dataset import S3, LocalFileSystem
from openlineage.client.serde import Serde

from sightline import column_lineage, ledger, provenance, schemas
from sightline.catalog import Catalog
from sightline.errors import CheckFailed
from sightline.ledger import TaskRun
from sightline.lineage import datasets, ended_record, failed_record, name_of, source_code
from sightline.source_config import origin_of
from tests.conftest import catalog_of, made_up_image_row, make_task, store_rows, write_dataset
from tests.openlineage_spec import check_events, problems

DATASET = "owner: team:vision\nsource: {type: folder, path: photos}\n"
FINDING = {
    "table": "images", "assertion": "expect_column_values_to_be_between", "columns": ["height"],
    "because": "an image is at least 1 pixel high", "success": True,
    "rows": 3, "judged": 2, "unexpected": 0, "mostly": 1.0,
}  # fmt: skip


def serialised(record: dict[str, Any], state: RunState = RunState.COMPLETE) -> dict[str, Any]:
    """A valid event with these datasets, as the client would send it."""
    inputs, outputs = datasets(record, "team:vision")
    event = RunEvent(
        eventType=state,
        eventTime="2026-11-05T00:00:00+00:00",
        run=Run("01234567-89ab-7def-8123-456789abcdef"),
        job=Job(
            "sightline",
            f"photos.{record['task']}",
            {"sourceCodeLocation": source_code("spark_jobs/featurize.py")},
        ),
        inputs=inputs,
        outputs=outputs,
        producer="https://example.org/sightline",
    )
    found: dict[str, Any] = json.loads(Serde.to_json(event))
    assert problems(found) == []
    return found


@pytest.fixture
def catalog(own_places: Path) -> Catalog:
    """A dataset that holds three images."""
    catalog = catalog_of(write_dataset(own_places, "photos", DATASET))
    store_rows(catalog.images, [made_up_image_row(number) for number in range(3)])
    return catalog


def record_of(catalog: Catalog, name: str = "featurize") -> dict[str, Any]:
    """The record of a task that read the images and no splits, and wrote two of three features."""
    task, _ = make_task(name)
    with ledger.recording(catalog, task) as made:
        made.read(catalog.images, catalog.splits)
        store_rows(catalog.features, [feature(number) for number in range(2)], "made-up")
        made.wrote(catalog.features, rows=2)
    kept = ledger.read_record(catalog, task)
    assert kept is not None
    return kept


def feature(number: int) -> dict[str, Any]:
    return {"image_id": f"{number:064x}", "backbone_id": "made-up", "embedding": [0.5]}


def test_tables_carry_name_version_columns_size_and_owner(
    catalog: Catalog, own_places: Path
) -> None:
    event = serialised(record_of(catalog))
    images, splits = event["inputs"]
    path = str(own_places / "data" / "photos" / "images")
    assert (images["namespace"], images["name"]) == ("file", path)
    facets = images["facets"]
    assert facets["version"]["datasetVersion"] == "1"
    fields = {field["name"]: field["type"] for field in facets["schema"]["fields"]}
    assert (fields["image_id"], fields["content"]) == ("string", "binary")
    assert (facets["dataSource"]["name"], facets["dataSource"]["uri"]) == ("file", f"file://{path}")
    assert facets["ownership"]["owners"][0]["name"] == "team:vision"
    assert (facets["storage"]["storageLayer"], facets["storage"]["fileFormat"]) == (
        "delta",
        "parquet",
    )
    assert facets["datasetType"]["datasetType"] == "TABLE"
    read = images["inputFacets"]["inputStatistics"]
    assert (read["rowCount"], read["fileCount"]) == (3, 1)
    assert read["size"] > 1000
    assert "version" not in splits["facets"]  # nobody has written it yet
    [features] = event["outputs"]
    assert features["outputFacets"]["outputStatistics"]["rowCount"] == 2
    assert features["facets"]["dataQualityMetrics"]["rowCount"] == 2


def test_names_are_those_of_openlineage_s_naming_rules() -> None:
    local, s3 = LocalFileSystem("/data/photos/images"), S3("bucket", "nightly/photos/images")
    assert name_of("/data/photos/images") == (local.get_namespace(), local.get_name())
    assert name_of("s3://bucket/nightly/photos/images") == (s3.get_namespace(), s3.get_name())
    secret = "https://somebody:hunter2@example.org/photos/list.csv?signature=abc"
    assert name_of(secret) == ("https://example.org", "photos/list.csv")
    assert name_of("kaggle://datasets/moltean/fruits") == ("kaggle://datasets", "moltean/fruits")


@pytest.mark.parametrize(
    ("block", "url"),
    [
        ("{type: digits}", "scikit-learn://datasets/digits"),
        ("{type: folder, path: s3://bucket/photos}", "s3://bucket/photos"),
        ("{type: url_list, path: list.csv}", "list.csv"),
        ("{type: flickr, searches: {bus: a bus}}", "https://api.flickr.com/services/rest/"),
        ("{type: kaggle, dataset: moltean/fruits}", "kaggle://datasets/moltean/fruits"),
        ("{type: kaggle, competition: cars}", "kaggle://competitions/cars"),
        ("{type: archive, name: a.zip, urls: [https://a.org/a.zip]}", "https://a.org/a.zip"),
        (
            "{type: open_images, subset: test, classes: [Car]}",
            "https://open-images-dataset.s3.amazonaws.com",
        ),
    ],
)
def test_each_source_says_where_it_is(own_places: Path, block: str, url: str) -> None:
    assert origin_of(write_dataset(own_places, "one", f"source: {block}\n").source) == url


def test_columns_say_what_they_are_made_of(catalog: Catalog) -> None:
    [features] = serialised(record_of(catalog))["outputs"]
    fields = features["facets"]["columnLineage"]["fields"]
    assert set(fields) == {"image_id", "embedding"}
    embedding = fields["embedding"]["inputFields"]
    assert [(Path(one["name"]).name, one["field"]) for one in embedding] == [
        ("images", "content"),
        ("images", "rotation"),
    ]
    [same] = fields["image_id"]["inputFields"][0]["transformations"]
    assert (same["type"], same["subtype"]) == ("DIRECT", "IDENTITY")


def test_a_model_is_a_dataset_that_predictions_come_of(catalog: Catalog) -> None:
    task, _ = make_task("evaluate")
    with ledger.recording(catalog, task) as record:
        record.read(catalog.images, catalog.features)
        record.read_model(catalog.models, "00001-abc")
        record.wrote(catalog.predictions, rows=0)
    kept = ledger.read_record(catalog, task)
    assert kept is not None
    event = serialised(kept)
    model = event["inputs"][2]
    assert model["name"] == catalog.models
    assert model["facets"]["version"]["datasetVersion"] == "00001-abc"
    assert model["facets"]["datasetType"]["datasetType"] == "MODEL"
    made_of = event["outputs"][0]["facets"]["columnLineage"]["fields"]["probabilities"]
    sources = [(Path(one["name"]).name, one["field"]) for one in made_of["inputFields"]]
    assert sources == [("features", "embedding"), ("models", "weights")]  # it has read no scores


def test_column_lineage_names_columns_that_there_are() -> None:
    known = {name.lower(): set(schema.names) for name, schema in vars(schemas).items()
             if name.isupper() and hasattr(schema, "names")}  # fmt: skip
    known |= {"source": {"listing", "content"}, "models": {"weights", "description"}}
    for task, written in column_lineage.TASKS.items():
        for table, columns in written.items():
            assert set(columns) - {"*"} <= known[table], (task, table)
            for source in {one for made_of in columns.values() for one in made_of}:
                name, _, column = source.partition(".")
                assert column in known[name], (task, source)


def test_findings_of_a_validation_are_assertions_and_metrics(catalog: Catalog) -> None:
    outcome = {
        **FINDING,
        "assertion": "expect_column_values_to_not_be_null",
        "columns": ["outcome"],
    }
    record = {**record_of(catalog, "validate_images"), "findings": [FINDING, outcome]}
    images, splits = serialised(record)["inputs"]
    height, other = images["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (height["column"], height["success"]) == ("height", True)
    assert height["description"] == "an image is at least 1 pixel high"
    assert "column" not in other  # it is none of the table
    metrics = images["inputFacets"]["dataQualityMetrics"]
    assert metrics["rowCount"] == 3
    assert metrics["columnMetrics"]["height"]["nullCount"] == 1
    assert set(splits["inputFacets"]) == {"inputStatistics"}


def test_a_failure_tells_what_was_read_and_found(catalog: Catalog) -> None:
    task, _ = make_task("validate_images")
    with pytest.raises(CheckFailed), ledger.recording(catalog, task) as record:
        record.read(catalog.images)
        raise CheckFailed("too many", [{**FINDING, "success": False, "unexpected": 2}])
    event = serialised(failed_record(catalog, task), RunState.FAIL)
    [assertion] = event["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (assertion["success"], assertion["actual"]) == (False, "0 of 2 rows")
    with ledger.recording(catalog, task):  # the next try begins
        assert ledger.read_failure(catalog, task) is None


def test_a_task_with_nothing_to_do_has_looked_at_its_tables(catalog: Catalog) -> None:
    task, _ = make_task("featurize")
    with ledger.recording(catalog, task):
        pass
    record = ended_record(catalog, task)
    assert record is not None
    event = serialised(record)
    assert [Path(one["name"]).name for one in event["inputs"]] == ["images"]
    assert event["outputs"] == []


def test_a_killed_task_tells_the_tables_that_it_works_on(catalog: Catalog) -> None:
    event = serialised(failed_record(catalog, TaskRun("ingest", "run", "fetch_images", "all")))
    assert event["inputs"] == []  # there is no manifest yet
    [images] = event["outputs"]
    assert images["facets"]["version"]["datasetVersion"] == "1"
    assert (
        "outputStatistics" not in images["outputFacets"]
    )  # how much of it was its own, nobody knows


def test_a_task_that_touched_no_table_has_no_datasets() -> None:
    assert datasets({"task": "plan", "inputs": [], "outputs": []}) == ([], [])


def test_code_is_located_by_its_commit_without_a_login(
    own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = own_places / "home"
    subprocess.run(["git", "init", "--quiet", str(home)], check=True)
    (home / "train.py").write_text("print()")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    git = ["git", "-C", str(home)]
    remote = "https://somebody:hunter2@example.org:8443/team/sightline.git"
    for command in (
        ["add", "."],
        [*identity, "commit", "-qm", "one"],
        ["remote", "add", "origin", remote],
    ):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setenv("SIGHTLINE_HOME", str(home))
    with_fresh_memory()
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    facet = source_code("train.py")
    assert facet.version == commit.stdout.strip()
    assert facet.url == f"https://example.org:8443/team/sightline/blob/{facet.version}/train.py"
    assert facet.repoUrl == "https://example.org:8443/team/sightline"
    subprocess.run([*git, "remote", "set-url", "origin", "git@example.org:team/s.git"], check=True)
    with_fresh_memory()
    assert provenance.repository() == "https://example.org/team/s"
    assert provenance.describe_code()["modified"] is False
    (home / "train.py").write_text("print(2)")
    with_fresh_memory()
    assert provenance.describe_code()["modified"] is True


def test_code_outside_a_checkout_is_a_file(
    own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(own_places))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(own_places.parent))
    with_fresh_memory()
    facet = source_code("spark_jobs/train.py")
    assert facet.url == f"file://{own_places}/spark_jobs/train.py"
    assert (facet.version, facet.repoUrl) == (None, None)
    monkeypatch.setenv("SIGHTLINE_COMMIT", "c0ffee")
    with_fresh_memory()
    assert source_code("spark_jobs/train.py").version == "c0ffee"


@pytest.fixture(autouse=True)
def own_memory() -> Iterator[None]:
    """What git says is remembered for one test only."""
    yield
    with_fresh_memory()


def with_fresh_memory() -> None:
    """Let the next question ask git again."""
    for remembered in (
        provenance.commit, provenance.repository, provenance.describe_code,
        provenance.folder_in_repository,
    ):  # fmt: skip
        remembered.cache_clear()


def test_the_schemas_refuse_what_is_wrong(catalog: Catalog, tmp_path: Path) -> None:
    event = serialised(record_of(catalog))
    facets = event["outputs"][0]["facets"]
    facets["version"] = {**facets["version"], "datasetVersion": 1}
    facets["storage"] = {**facets["storage"], "made_up": "field"}
    facets["schema"] = {**facets["schema"], "_schemaURL": "https://example.org/Unknown.json"}
    event["run"]["runId"] = "no uuid"
    found = " ".join(problems(event))
    for expected in (
        "1 is not of type 'string'",
        "made_up is no field",
        "no class of 'https://example.org/Unknown.json'",
        "not a 'uuid'",
    ):
        assert expected in found
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + os.linesep)
    with pytest.raises(AssertionError, match=r"event 1, photos\.featurize"):
        check_events(tmp_path / "events.jsonl")
