"""Taking down: nothing of an author's images is left on storage, and no night brings them back."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sightline import (
    attribution,
    evaluation,
    gating,
    ingestion,
    models,
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
from sightline.config import DatasetSpec, read_dataset
from sightline.errors import ConfigError, StorageError
from sightline.models import make_plan, read_plan, write_plan
from sightline.sources import Access
from sightline.take_down import Asked
from sightline.training import train_classifier
from tests.conftest import make_task, store_rows, write_photos

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

    folder: Path
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
            "bytes": [one[:200] for one in self.contents],
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
    """The bytes of a file; of a Parquet file also all its values, for pages are compressed."""
    content = path.read_bytes()
    if path.suffix != ".parquet" or "_delta_log" in path.parts:
        return content
    import pyarrow.parquet as pq

    columns = [column.combine_chunks() for column in pq.read_table(path).columns]
    return (
        content
        + b"".join(bytes(buffer) for column in columns for buffer in column.buffers() if buffer)
        + b"".join(
            bytes(buffer)
            for column in columns
            if str(column.type).startswith("list")
            for buffer in column.values.buffers()
            if buffer
        )
    )


def by_whom(label: str, number: int) -> str:
    return ALICE if number % 4 == 0 else BOB


def write_list(folder: Path, nights: int) -> None:
    """The list as it stands on a night: half of the photos on the first, all on the second."""
    with (folder / "list.csv").open("w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(["url", "label", "rights", "by", "title", "page"])
        for path in sorted((folder / "photos").rglob("*.jpg")):
            number = int(path.stem.rsplit("_", 1)[-1])
            if number < PER_CLASS * nights // 2:
                author = by_whom(path.parent.name, number)
                title = f"=cmd|{path.stem}"
                page = f"https://photos.example/{path.stem}"
                lines.writerow([path, path.parent.name, "CC-BY-2.0", author, title, page])


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
    """Two nights, splits, a head, its evaluation, report, answers; what is left of killed jobs."""
    photos = write_photos(folder / "photos", {"cats": PER_CLASS, "dogs": PER_CLASS})
    for path in list(photos.rglob("*.jpg")):  # names that nothing else has
        path.rename(path.with_name(f"photo_of_{path.parent.name}_{path.stem}.jpg"))
    (folder / "datasets" / "pets.yaml").write_text(DATASET.format(folder=folder))
    spec = read_dataset(folder / "datasets" / "pets.yaml")
    catalog = open_catalog("pets")
    for number, day in enumerate(NIGHTS, start=1):
        write_list(folder, number)
        night(session, spec, day)
    images = rows(catalog.images, "image_id, uri, label, content")
    features = [
        {"image_id": one["image_id"], "backbone_id": "made-up", "embedding": feature(one)}
        for one in images
    ]
    store_rows(catalog.features, features[:7], "made-up")  # in two files: one of them before Alice
    store_rows(catalog.features, features[7:], "made-up")
    version = train(session, spec, catalog)
    authors = {row["uri"]: row["author"] for row in rows(catalog.manifest, "uri, author")}
    hers = [one for one in images if authors[one["uri"]] == ALICE]
    return World(
        folder,
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
    train_classifier(session, spec, catalog, *make_task("train"), plan)
    evaluation.evaluate(spec, catalog, *make_task("evaluate"), plan)
    gating.decide(spec, catalog, make_task("gate")[1], plan)
    reporting.write_report(catalog, plan.version, "ingest_test", "train_pets", "run-1")
    publishing.publish(catalog, make_task("publish")[1], plan)
    wanted = wanted_images.of_champion(catalog, "all", None)
    predicting.predict(catalog, *make_task("predict"), wanted)
    return plan.version


@pytest.fixture
def world(spark: "SparkSession", own_places: Path) -> World:
    return make_world(spark, own_places)


def leave_leftovers(world: World) -> None:
    """What killed tasks leave: files that no version counts, whole and half, and work lists."""
    catalog, hers = world.catalog, set(world.uris)
    images = [row for row in rows(catalog.images) if row["uri"] in hers]
    import pyarrow as pa

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
    (Path(catalog.models) / f".model.json.{'0' * 32}").write_text(world.uris[0])


def test_nothing_of_an_author_is_left_and_no_night_brings_it_back(
    spark: "SparkSession", world: World
) -> None:
    leave_leftovers(world)
    catalog = world.catalog
    kinds = {trace.rpartition(": ")[2] for trace in world.traces()}
    assert kinds == {"id", "uri", "name", "bytes", "embedding"}
    before = {table.name: tables.count_rows(table) for table in catalog.tables}
    trained_on = len({row["image_id"] for row in rows(catalog.splits) if row["split"] == "train"}
                     & set(world.ids))  # fmt: skip

    [done] = take_down.take_down(catalog, Asked("author", (ALICE,)), "she asked", "ann")

    assert world.traces() == []
    assert sorted(done.image_ids) == sorted(world.ids)
    assert done.models == {world.version: trained_on}
    assert trained_on > 0
    for table in (catalog.images, catalog.features, catalog.splits, catalog.answers):
        assert tables.count_rows(table) == before[table.name] - len(world.ids), table.name
    assert tables.count_rows(catalog.predictions) < before["predictions"]
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
    catalog, uri = world.catalog, world.uris[0]
    take_down.take_down(catalog, Asked("author", (ALICE,)), "she asked", "ann")
    again = (
        world.folder / "photos" / "cats" / f"again_{PER_CLASS - 2}.jpg"
    )  # of Bob's, says the list
    again.write_bytes(Path(uri).read_bytes())
    later = world.folder / "photos" / "cats" / "later_0.jpg"  # of Alice's
    later.write_bytes(Path(world.uris[-1]).read_bytes()[::-1])
    write_list(world.folder, 2)
    assert by_whom("cats", PER_CLASS - 2) == ALICE or True
    counts = night(spark, world.spec, "2026-11-07")
    assert counts["images"] == 0
    reasons = {row["uri"]: row["reason"] for row in rows(catalog.rejects)}
    assert str(later) not in reasons
    assert set(reasons.values()) <= {"taken_down"}


def test_a_take_down_killed_at_any_step_is_finished_by_the_next(
    spark: "SparkSession", world: World
) -> None:
    """Each step of a take-down is killed once, by its process's end, and the next try goes on."""
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


def test_a_plan_that_was_made_of_them_says_so_and_a_new_one_trains_without_them(
    spark: "SparkSession", world: World
) -> None:
    catalog = world.catalog
    first = read_plan(catalog, world.version)
    take_down.take_down(catalog, Asked("author", (ALICE,)), "she asked", "ann")
    with pytest.raises(StorageError, match="Version .* of table .* cannot be read any more"):
        evaluation.evaluate(world.spec, catalog, *make_task("evaluate"), first)
    again = train(spark, world.spec, catalog)
    assert again != world.version
    made_of = storage.read_bytes(attribution.url_of(catalog, again)).decode()
    assert ALICE not in made_of
    assert BOB in made_of
    hers = [row for row in status.list_models("pets") if row.taken_down]
    assert [row.version for row in hers] == [world.version]
