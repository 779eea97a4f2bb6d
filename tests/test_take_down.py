"""Taking down: nothing of an author's images is left on storage, and no night brings them back."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sightline import (
    evaluation,
    exclusions,
    gating,
    ingestion,
    predicting,
    publishing,
    reporting,
    splitting,
    status,
    storage,
    tables,
    take_down,
    tombstones,
    wanted_images,
)
from sightline.catalog import Catalog, open_catalog
from sightline.cli import main
from sightline.config import DatasetSpec
from sightline.errors import ConfigError, StorageError
from sightline.models import make_plan, read_plan, write_plan
from sightline.rejection import SAME_BYTES
from sightline.sources import Access
from sightline.take_down import Asked
from sightline.training import train_classifier
from tests.conftest import jpeg, make_task, store_rows, write_dataset, write_photos

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ALICE, BOB = "Alice Adams", "Bob Brown"
DATASET = """
source:
  type: url_list
  path: {folder}/list.csv
  columns: {{licence: rights, author: by, title: title, landing_url: page}}
reduce: null
train: {{penalties: [0.01], folds: 2, max_iterations: 10}}
split: {{test: 0.3}}
"""
NIGHTS = ("2026-11-04", "2026-11-05")
PER_CLASS = 10


@dataclass(frozen=True)
class World:
    """A trained dataset of two nights, and what there was of Alice in it."""

    folder: Path  # of the places
    photos: Path
    spec: DatasetSpec
    version: str
    ids: list[str]
    uris: list[str]
    contents: list[bytes]
    embeddings: list[bytes]

    @property
    def catalog(self) -> Catalog:
        return open_catalog(self.spec.name)

    def traces(self) -> list[str]:
        """Every file that holds something of Alice's images, and what."""
        sought = {
            "id": [one.encode() for one in self.ids],
            "uri": [one.encode() for one in self.uris],
            "name": [one.rsplit("/", 1)[-1].encode() for one in self.uris],
            "bytes": [one[-150:] for one in self.contents],  # JPEGs begin alike
            "embedding": self.embeddings,
        }
        files = [path for path in (self.folder / "data").rglob("*") if path.is_file()]
        return sorted(
            f"{path.relative_to(self.folder)}: {kind}"
            for path in files
            for kind, texts in sought.items()
            if any(text in held(path) for text in texts)
        )


def held(path: Path) -> bytes:
    """The bytes of a file, and of a Parquet file also all of its values, for its pages are compressed."""
    content = path.read_bytes()
    if path.suffix != ".parquet" or "_delta_log" in path.parts:
        return content
    try:
        columns = pq.read_table(path).columns
    except pa.ArrowInvalid:  # half-written
        return content
    arrays = [column.combine_chunks() for column in columns]
    arrays += [array.flatten() for array in arrays if pa.types.is_list(array.type)]
    buffers = [buffer for array in arrays for buffer in array.buffers() if buffer]
    return b"\0".join([content, *map(bytes, buffers)])


def by_whom(number: int) -> str:
    return ALICE if number % 4 == 0 else BOB


def write_list(
    folder: Path, photos: Path, nights: int, more: list[list[str]] | None = None
) -> None:
    """The list as it stands on a night: half of the photos on the first, all on the second."""
    with (folder / "list.csv").open("w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(["url", "label", "rights", "by", "title", "page"])
        for path in sorted(photos.rglob("*.jpg")):
            number = int(path.stem.rsplit("_", 1)[-1])
            if number < PER_CLASS * nights // 2:
                page = f"https://photos.example/{path.stem}"
                title = f"=cmd|{path.stem}"
                label = path.parent.name
                lines.writerow([path, label, "CC-BY-2.0", by_whom(number), title, page])
        lines.writerows(more or [])


def night(session: "SparkSession", spec: DatasetSpec, day: str) -> dict[str, Any]:
    """List and fetch; returns what both counted."""
    catalog = open_catalog(spec.name)
    task, listing = make_task("list_images", day, f"run-{day}")
    ingestion.list_images(spec, Access(catalog, day), task, listing)
    task, fetching = make_task("fetch_images", day, f"run-{day}")
    ingestion.fetch_images(session, spec, catalog, task, fetching)
    return {**listing.counts, **fetching.counts}


def rows(table: tables.Table, columns: str = "*") -> list[dict[str, Any]]:
    with tables.query(shown=table) as sql:
        return list(sql(f"SELECT {columns} FROM shown").to_pylist())


def feature(image: dict[str, Any]) -> Any:
    """An embedding that tells its class, and its image."""
    rng = np.random.default_rng(int(image["image_id"][:8], 16))
    return (rng.normal(size=6) + 3 * (image["label"] == "cats")).astype(np.float32)


def make_world(session: "SparkSession", folder: Path) -> World:
    """Two nights, splits, a head, its evaluation, report and answers."""
    photos = write_photos(folder / "photos", {"cats": PER_CLASS, "dogs": PER_CLASS})
    for path in list(photos.rglob("*.jpg")):  # names that nothing else has
        path.rename(path.with_name(f"photo_of_{path.parent.name}_{path.stem}.jpg"))
    spec = write_dataset(folder, "pets", DATASET.format(folder=folder))
    catalog = open_catalog("pets")
    for number, day in enumerate(NIGHTS, start=1):
        write_list(folder, photos, number)
        night(session, spec, day)
    images = rows(catalog.images, "image_id, uri, label, content")
    features = [
        {"image_id": one["image_id"], "backbone_id": "made-up", "embedding": feature(one)}
        for one in images
    ]
    store_rows(catalog.features, features[:7], "made-up")
    store_rows(catalog.features, features[7:], "made-up")
    version = train(session, spec, catalog)
    authors = {row["uri"]: row["author"] for row in rows(catalog.manifest, "uri, author")}
    hers = [one for one in images if authors[one["uri"]] == ALICE]
    return World(
        folder,
        photos,
        spec,
        version,
        [one["image_id"] for one in hers],
        [one["uri"] for one in hers],
        [one["content"] for one in hers],
        [feature(one).tobytes() for one in hers],
    )


def train(session: "SparkSession", spec: DatasetSpec, catalog: Catalog) -> str:
    """From splits to a published model with report and answers."""
    splitting.split_images(spec, catalog, *make_task("split"))
    plan = make_plan(spec, catalog, "made-up")
    write_plan(catalog, plan)
    leave_doubts(catalog, plan.version)
    train_classifier(session, spec, catalog, *make_task("train"), plan)
    evaluation.evaluate(spec, catalog, *make_task("evaluate"), plan)
    gating.decide(spec, catalog, make_task("gate")[1], plan)
    reporting.write_report(catalog, plan.version, "ingest_test", "train_pets", "run-1")
    publishing.publish(catalog, make_task("publish")[1], plan)
    wanted = wanted_images.of_champion(catalog, "all", None)
    predicting.predict(catalog, *make_task("predict"), wanted)
    return plan.version


def leave_doubts(catalog: Catalog, version: str) -> None:
    """Every image is doubted, and every third train image is left out."""
    images = rows(catalog.images, "image_id, label, partition")
    ids = [one["image_id"] for one in images]
    for one, other in zip(images, [*ids[1:], ids[0]], strict=True):
        doubt = {"image_id": one["image_id"], "issue": "near_duplicate", "score": 0.1,
                 "threshold": 0.2, "other_image_id": other, "partition": one["partition"]}  # fmt: skip
        store_rows(catalog.issues, [doubt], one["partition"])
    suspicious = [
        {"image_id": one["image_id"], "model_version": version, "split": "train", "label": one["label"],
         "suggested": "dogs", "score": 0.1, "label_probability": 0.1, "suggested_probability": 0.9,
         "is_label_issue": True, "distance": 1.0, "is_outlier": False, "is_excluded": False, "rank": 1}
        for one in images
    ]  # fmt: skip
    store_rows(catalog.suspicious_labels, suspicious, version)
    train = sorted(row["image_id"] for row in rows(catalog.splits) if row["split"] == "train")
    left_out = dict.fromkeys(train[::3], exclusions.SUSPICIOUS)
    exclusions.write_exclusions(catalog, version, left_out, tables.Writer("tests"))


@pytest.fixture(scope="module")
def made(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once; each test works on a copy."""
    folder = tmp_path_factory.mktemp("take_down")
    (folder / "datasets").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SIGHTLINE_STORAGE", str(folder / "data"))
        patched.setenv("SIGHTLINE_DATASETS", str(folder / "datasets"))
        return make_world(spark, folder)


@pytest.fixture
def world(made: World, own_places: Path) -> World:
    shutil.copytree(made.folder / "data", own_places / "data")
    shutil.copy(made.folder / "list.csv", own_places)
    spec = write_dataset(own_places, "pets", DATASET.format(folder=own_places))
    return replace(made, folder=own_places, spec=spec)


def leave_leftovers(world: World) -> None:
    """What killed tasks leave: files that no version counts, whole and half, and work lists."""
    catalog, hers = world.catalog, set(world.uris)
    images = [row for row in rows(catalog.images) if row["uri"] in hers]
    batch = pa.RecordBatch.from_pylist(images, schema=catalog.images.schema)
    [orphan] = tables.write_batches(catalog.images, [batch])
    half = Path(orphan).with_name("part-00001.parquet")
    half.write_bytes(Path(orphan).read_bytes()[:-100])
    staged = Path(catalog.staging) / "fetch-of-a-killed-job"
    staged.mkdir(parents=True)
    (staged / "000000.parquet").write_bytes(Path(orphan).read_bytes())
    checks = Path(catalog.checks) / "results" / "images"
    checks.mkdir(parents=True)
    (checks / "run.json").write_text(json.dumps({"list": [f"3 in {uri}" for uri in world.uris]}))
    remade = catalog.remake(world.version)
    shutil.copytree(catalog.model(world.version), remade.model(world.version))
    shutil.copytree(catalog.predictions.url, remade.predictions.url)
    (Path(catalog.models) / f".model.json.{'0' * 32}").write_text(world.uris[0])


@pytest.mark.slow
def test_nothing_of_an_author_is_left_and_no_night_brings_it_back(
    spark: "SparkSession", world: World
) -> None:
    leave_leftovers(world)
    catalog = world.catalog
    kinds = {trace.rpartition(": ")[2] for trace in world.traces()}
    assert kinds == {"id", "uri", "name", "bytes", "embedding"}
    before = {table.name: tables.count_rows(table) for table in catalog.tables}
    train = {row["image_id"] for row in rows(catalog.splits) if row["split"] == "train"}
    left_out = {row["image_id"] for row in rows(catalog.exclusions)} & set(world.ids)
    trained_on = len(train & set(world.ids)) - len(left_out)
    assert left_out

    [done] = take_down.take_down(catalog, Asked("author", (ALICE,)), "she asked", "ann")

    assert world.traces() == []
    assert sorted(done.image_ids) == sorted(world.ids)
    assert done.models == {world.version: trained_on}
    assert trained_on > 0
    for table in (catalog.images, catalog.features, catalog.splits, catalog.answers):
        assert tables.count_rows(table) == before[table.name] - len(world.ids), table.name
    assert tables.count_rows(catalog.predictions) < before["predictions"]
    assert tables.count_rows(catalog.suspicious_labels) == before["images"] - len(world.ids)
    assert tables.count_rows(catalog.exclusions) == before["exclusions"] - len(left_out)
    assert 0 < tables.count_rows(catalog.issues) < before["issues"] - len(world.ids)
    assert not storage.exists(catalog.remakes)
    [model] = status.list_models("pets")
    assert model.taken_down == trained_on
    assert model.standing == "champion"
    page = storage.read_bytes(f"{catalog.reports}/latest.html").decode()
    assert f"{trained_on} of the images that this model was trained on were taken down" in page
    assert "she asked" in page

    for day in (*NIGHTS, "2026-11-06"):
        counts = night(spark, world.spec, day)
        assert counts["images"] == 0
    assert world.traces() == []


def test_what_was_taken_down_stays_out_by_its_bytes_and_its_author_too(
    spark: "SparkSession", world: World
) -> None:
    catalog = world.catalog
    take_down.take_down(catalog, Asked("author", (ALICE,)), "she asked", "ann")
    copied, later = world.folder / "copied.jpg", world.folder / "later.jpg"
    copied.write_bytes(world.contents[0])
    later.write_bytes(jpeg(np.random.default_rng(5), np.array([9, 9, 9]), 48))
    more = [[str(copied), "cats", "", BOB, "", ""], [str(later), "cats", "", ALICE, "", ""]]
    write_list(world.folder, world.photos, 2, more)
    counts = night(spark, world.spec, "2026-11-07")
    assert (counts["images"], counts["taken_down"]) == (0, len(world.uris) + 1)
    assert {row["uri"]: row["reason"] for row in rows(catalog.rejects)} == {
        str(copied): "taken_down"
    }
    assert str(later) not in {row["uri"] for row in rows(catalog.manifest)}
    assert world.traces() == []


def test_a_take_down_killed_at_any_step_is_finished_by_the_next(world: World) -> None:
    """Each try ends, as if killed, one step later than the one before it."""
    leave_leftovers(world)
    steps = ["lay", "erase:images", "erase:features", "scrub", "flag", "leftovers"]
    for step in steps:
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, step, ALICE], capture_output=True, text=True, check=False
        )
        assert killed.returncode == 9, killed.stderr[-2000:]
    unfinished = take_down.unfinished(world.catalog)
    assert len(unfinished) == 1
    done = take_down.take_down(world.catalog, Asked("uri", ("file:///elsewhere",)), "no", "bob")
    assert done[0].id == unfinished[0].id
    assert world.traces() == []
    assert take_down.unfinished(world.catalog) == []
    [model] = status.list_models("pets")
    assert model.taken_down == done[0].models[world.version]


# A take-down in a process that ends, as if killed, right before a step.
KILLED = """
import os, sys
from sightline import erasure, take_down, tombstones, traces
from sightline.catalog import open_catalog
step, author = sys.argv[1:3]

def dying(function, when=lambda *given: True):
    def call(*given, **named):
        if when(*given):
            os._exit(9)
        return function(*given, **named)
    return call

if step == "lay":
    tombstones.lay = dying(tombstones.lay)
elif step.startswith("erase"):
    erasure.erase = dying(erasure.erase, lambda table, *rest: table.name == step.split(":")[1])
elif step == "scrub":
    traces.scrub = dying(traces.scrub)
elif step == "flag":
    take_down._flag_models = dying(take_down._flag_models)
elif step == "leftovers":
    take_down._refuse_leftovers = dying(take_down._refuse_leftovers)
take_down.take_down(open_catalog("pets"), take_down.Asked("author", (author,)), "she asked", "ann")
"""


def test_the_same_bytes_under_another_label_go_too(world: World) -> None:
    reject = {
        "uri": "mem://elsewhere", "stage": "fetch_images", "reason": "conflict", "attempts": 1,
        "detail": f"{SAME_BYTES}{world.uris[0]}", "partition": "late",
        "rejected_at": datetime(2026, 11, 7, tzinfo=UTC),
    }  # fmt: skip
    batch = pa.RecordBatch.from_pylist([reject], schema=world.catalog.rejects.schema)
    urls = tables.write_batches(world.catalog.rejects, [batch])
    tables.append_new(world.catalog.rejects, urls, "late", tables.Writer("tests"), key="uri")
    [done] = take_down.take_down(world.catalog, Asked("uri", ("mem://elsewhere",)), "no", "ann")
    assert done.image_ids == [world.ids[0]]
    assert sorted(done.uris) == sorted(["mem://elsewhere", world.uris[0]])


def test_a_plan_that_was_made_of_them_says_so_and_a_new_one_does_without(world: World) -> None:
    catalog = world.catalog
    first = read_plan(catalog, world.version)
    take_down.take_down(catalog, Asked("author", (ALICE,)), "she asked", "ann")
    with pytest.raises(StorageError, match="Version .* of table .* cannot be read any more"):
        evaluation.evaluate(world.spec, catalog, *make_task("evaluate"), first)
    new = make_plan(world.spec, catalog, "made-up")
    assert publishing.nothing_new(world.spec, catalog, new) is None
    learnt_from = tables.read_batches(catalog.features, ["image_id"], new.features_version)
    assert not {one for batch in learnt_from for one in batch["image_id"].to_pylist()} & {
        *world.ids
    }


def test_an_ingest_that_had_listed_before_a_take_down_does_not_bring_it_back(
    spark: "SparkSession", world: World
) -> None:
    """The manifest has got them again, as from a listing that had begun before."""
    catalog = world.catalog
    listed = [row for row in rows(catalog.manifest) if row["uri"] in set(world.uris)]
    take_down.take_down(catalog, Asked("uri", tuple(world.uris)), "they asked", "ann")
    held = tables.claim(catalog.manifest, tables.Writer("late"))
    batch = pa.RecordBatch.from_pylist(
        [{**row, "partition": "late"} for row in listed], schema=catalog.manifest.schema
    )
    urls = tables.write_batches(catalog.manifest, [batch])
    tables.replace_partition(catalog.manifest, urls, "late", held)
    task, record = make_task("fetch_images", "late")
    ingestion.fetch_images(spark, world.spec, catalog, task, record)
    assert record.counts["images"] == 0
    told = {(row["reason"], row["detail"]) for row in rows(catalog.rejects)}
    assert told == {("taken_down", "it may not be fetched again")}


def test_a_take_down_asks_for_one_thing_and_a_reason(own_places: Path) -> None:
    with pytest.raises(ConfigError, match="Give one of image ids, uris, an author and a licence"):
        take_down.make_asked(["1"], [], ALICE, None)
    with pytest.raises(ConfigError, match="Say why"):
        take_down.take_down(open_catalog("pets"), Asked("author", (ALICE,)), " ", "ann")


def test_who_has_no_images_yet_is_kept_out_all_the_same(own_places: Path) -> None:
    catalog = open_catalog("pets")
    [done] = take_down.take_down(catalog, Asked("author", (ALICE,)), "she asked", "ann")
    take_down.take_down(catalog, Asked("author", (ALICE,)), "again", "ann")
    assert (done.image_ids, done.uris) == ([], [])
    [stone] = rows(catalog.tombstones)
    assert (stone["kind"], stone["reason"]) == ("author", "she asked")
    assert ALICE not in str(stone)
    laid = tombstones.read(catalog)
    assert laid.bar("author", ALICE)
    assert not laid.bar("author", BOB)
    assert not laid.bar("uri", ALICE)


def test_the_command_takes_down_one_address_and_the_list_of_models_says_so(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    train = {row["image_id"] for row in rows(world.catalog.splits) if row["split"] == "train"}
    train -= {row["image_id"] for row in rows(world.catalog.exclusions)}
    [uri, *_] = [uri for uri, one in zip(world.uris, world.ids, strict=True) if one in train]
    assert main(["take-down", "pets", "--uri", uri, "--reason", "asked by mail"]) == 0
    said = capsys.readouterr().out
    assert "1 images with 1 addresses are gone" in said
    assert f"models trained on them: {world.version} (1)" in said
    assert main(["models", "pets"]) == 0
    assert "champion, 1 of its images taken down" in capsys.readouterr().out
    assert tables.count_rows(world.catalog.images) == 2 * PER_CLASS - 1
    assert main(["take-down", "pets", "--reason", "nothing asked for"]) == 2
