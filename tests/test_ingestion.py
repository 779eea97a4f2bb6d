"""The ingest: every image of the manifest ends in images or in rejects, once, whoever runs it again."""

import functools
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from PIL import Image

from sightline import ingestion, ledger, rejection, spark, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import SourceError
from sightline.images import REASONS, Limits
from sightline.schemas import MANIFEST, WORK
from sightline.settings import load_settings
from sightline.source_config import FetchSpec
from sightline.sources import Access
from sightline.sources.fetching import BYTES_PER_BATCH, Fetching, fetch_batches, to_batch
from tests.conftest import (
    QuietHandler,
    catalog_of,
    make_task,
    web_server,
    write_dataset,
    write_photos,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DEADLINE_SECONDS = 300
HERE = "fetch: {allow_addresses: [127.0.0.1/32], attempts: 2}"


class FaultyHandler(QuietHandler):
    """Fails for the second cat, cuts the third short and shows a page in place of the fourth."""

    def do_GET(self) -> None:  # noqa: N802
        name = self.path.removeprefix("/cats/")
        if name == "0001.jpg":
            self.send_error(500)
        elif name in ("0002.jpg", "0003.jpg"):
            whole = Path(self.translate_path(self.path)).read_bytes()
            content = whole[:-300] if name == "0002.jpg" else b"<html>This photo is private.</html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            super().do_GET()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve distinct photos in two classes."""
    return write_photos(tmp_path / "photos", {"cats": 7, "dogs": 5})


@pytest.fixture
def spec(tmp_path: Path, photos: Path) -> DatasetSpec:
    """A dataset of those photos that commits five at a time."""
    return dataset(tmp_path, photos, "limits: {images_per_commit: 5}")


def test_the_manifest_holds_what_the_source_lists(spec: DatasetSpec, photos: Path) -> None:
    counts = list_images(spec)
    manifest = rows(catalog_of(spec).manifest)
    assert counts == {"listed": 12, "classes": 2}
    assert sorted(row["uri"] for row in manifest) == uris(photos)
    assert {row["partition"] for row in manifest} == {"all"}
    assert all(row["size_bytes"] and row["etag"] and row["label"] for row in manifest)


def test_an_empty_source_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    spec = dataset(tmp_path, tmp_path / "photos")
    with pytest.raises(SourceError, match="Dataset photos: its folder source lists no image; put "):
        list_images(spec)
    assert tables.current_version(catalog_of(spec).manifest) is None
    assert not Path(load_settings().storage).exists()


def test_a_source_that_has_become_empty_is_refused_and_the_list_stays(
    spec: DatasetSpec, photos: Path
) -> None:
    list_images(spec)
    shutil.rmtree(photos)
    photos.mkdir()  # as an unmounted disk shows itself
    with pytest.raises(SourceError, match="lists no image"):
        list_images(spec)
    assert tables.count_rows(catalog_of(spec).manifest) == 12


def test_a_night_takes_what_is_new_and_its_rerun_replaces_that_night_only(
    spec: DatasetSpec, photos: Path
) -> None:
    first = uris(photos)
    assert list_images(spec, "2026-11-05")["listed"] == 12
    assert list_images(spec, "2026-11-06") == {"listed": 0, "classes": 0}

    added = write_photos(photos, {"newts": 2}, seed=1) / "newts"
    assert list_images(spec, "2026-11-07")["listed"] == 2
    (added / "0001.jpg").rename(added / "renamed.jpg")
    assert list_images(spec, "2026-11-07")["listed"] == 2
    assert list_images(spec, "2026-11-05")["listed"] == 12
    nights: dict[str, list[str]] = {}
    for row in rows(catalog_of(spec).manifest):
        nights.setdefault(row["partition"], []).append(row["uri"])
    assert {night: sorted(held) for night, held in nights.items()} == {
        "2026-11-05": first,
        "2026-11-07": [str(added / "0000.jpg"), str(added / "renamed.jpg")],
    }


def test_digits_are_listed_into_the_manifest_by_class(tmp_path: Path) -> None:
    spec = write_dataset(tmp_path, "digits", "source: {type: digits}")
    assert list_images(spec) == {"listed": 1797, "classes": 10}


def test_images_are_stored_with_their_bytes_and_their_hash(
    spark: "SparkSession", spec: DatasetSpec, photos: Path
) -> None:
    counts = ingest(spark, spec)
    held = rows(catalog_of(spec).images)
    contents = {str(path): path.read_bytes() for path in photos.rglob("*.jpg")}
    assert {row["uri"]: row["content"] for row in held} == contents
    for row in held:
        assert row["image_id"] == hashlib.sha256(row["content"]).hexdigest()
        assert row["size_bytes"] == len(row["content"])
        assert row["label"] == Path(row["uri"]).parent.name
        assert (row["format"], row["width"], row["height"], row["mode"]) == ("JPEG", 48, 48, "RGB")
        assert (row["rotation"], row["exif_orientation"], row["partition"]) == (0, 1, "all")
    assert counts == {
        "wanted": 12,
        "held_before": 0,
        "images": 12,
        "rejects": 0,
        "duplicates": 0,
        "conflicts": 0,
        "bytes": sum(map(len, contents.values())),
    }
    assert tables.count_rows(catalog_of(spec).rejects) == 0
    assert leftovers(catalog_of(spec)) == []


def test_a_second_run_fetches_nothing_and_changes_no_table(
    spark: "SparkSession", spec: DatasetSpec, photos: Path
) -> None:
    (photos / "cats" / "broken.jpg").write_bytes(b"no photo")
    (photos / "cats" / "twin.jpg").write_bytes((photos / "cats" / "0000.jpg").read_bytes())
    ingest(spark, spec)
    catalog = catalog_of(spec)
    versions = [tables.current_version(table) for table in (catalog.images, catalog.rejects)]
    again = ingest(spark, spec)
    assert again == {
        "wanted": 14,
        "held_before": 14,
        "images": 0,
        "rejects": 0,
        "duplicates": 0,
        "conflicts": 0,
        "bytes": 0,
    }
    assert versions == [tables.current_version(t) for t in (catalog.images, catalog.rejects)]
    assert leftovers(catalog) == []


def test_a_repaired_file_is_taken_by_the_next_run_and_leaves_the_rejects(
    spark: "SparkSession", spec: DatasetSpec, photos: Path
) -> None:
    broken, twin = photos / "cats" / "broken.jpg", photos / "cats" / "twin.jpg"
    hopeless = photos / "cats" / "hopeless.jpg"
    broken.write_bytes((photos / "cats" / "0001.jpg").read_bytes()[:-300])
    twin.write_bytes((photos / "cats" / "0000.jpg").read_bytes())
    hopeless.write_bytes(b"no photo")
    ingest(spark, spec)
    found = {reason: Path(uri) for uri, reason in reasons(spec).items()}
    assert found.keys() == {"truncated", "duplicate", "not_an_image"}
    assert found["truncated"] == broken

    write_photos(photos.parent / "new", {"cats": 2}, seed=5)
    (photos.parent / "new" / "cats" / "0000.jpg").rename(broken)
    (photos.parent / "new" / "cats" / "0001.jpg").rename(found["duplicate"])
    counts = ingest(spark, spec)
    assert (counts["held_before"], counts["images"], counts["rejects"]) == (13, 2, 0)
    assert reasons(spec) == {str(hopeless): "not_an_image"}
    complete(spec)


def test_a_file_that_could_not_be_read_is_asked_for_again(
    spark: "SparkSession", spec: DatasetSpec, photos: Path
) -> None:
    list_images(spec)
    away = photos / "cats" / "0003.jpg"
    away.rename(photos.parent / "away.jpg")
    counts = fetch(spark, spec)
    assert reasons(spec) == {str(away): "unreadable"}
    assert (counts["images"], counts["rejects"]) == (11, 1)
    complete(spec)

    assert fetch(spark, spec)["rejects"] == 1
    assert reasons(spec) == {str(away): "unreadable"}
    (photos.parent / "away.jpg").rename(away)
    counts = fetch(spark, spec)
    assert (counts["held_before"], counts["images"], counts["rejects"]) == (11, 1, 0)
    assert reasons(spec) == {}
    complete(spec)


@pytest.mark.parametrize("per_commit", [4, 100])
def test_the_same_bytes_are_held_once_and_the_others_name_the_holder(
    spark: "SparkSession", tmp_path: Path, photos: Path, per_commit: int
) -> None:
    original = (photos / "cats" / "0000.jpg").read_bytes()
    for copy in range(5):
        (photos / "dogs" / f"copy {copy}.jpg").write_bytes(original)
    spec = dataset(tmp_path, photos, f"limits: {{images_per_commit: {per_commit}}}")
    counts = ingest(spark, spec, "2026-11-05")
    assert (counts["images"], counts["rejects"], counts["duplicates"]) == (12, 5, 5)

    later = write_photos(photos, {"later": 1}, seed=9) / "later"
    (later / "twin.jpg").write_bytes(original)
    counts = ingest(spark, spec, "2026-11-06")
    assert (counts["wanted"], counts["images"], counts["duplicates"]) == (2, 1, 1)
    held = [row for row in rows(catalog_of(spec).images) if row["content"] == original]
    assert len(held) == 1
    rejects = rows(catalog_of(spec).rejects)
    found = [row["reason"] for row in rejects]  # which of the six came first is chance
    assert found.count("conflict") in (2, 6)
    assert set(found) <= {"duplicate", "conflict"}
    assert {row["detail"] for row in rejects} == {f"same bytes as {held[0]['uri']}"}
    assert all(row["label"] and row["etag"] for row in rejects)
    complete(spec)


def test_a_uri_in_two_partitions_is_held_once_and_is_no_reject(
    spark: "SparkSession", spec: DatasetSpec
) -> None:
    list_images(spec, "2026-11-05")
    copy_manifest(spec, "2026-11-05", "2026-11-06")
    both = [
        lambda: fetch(spark, spec, "2026-11-05", "run-1"),
        lambda: fetch(spark, spec, "2026-11-06", "run-2"),
    ]
    counts = at_once(*both)
    assert sum(one["images"] for one in counts) == 12
    assert sum(one["rejects"] + one["duplicates"] for one in counts) == 0
    assert tables.count_rows(catalog_of(spec).images) == 12
    assert reasons(spec) == {}
    assert [one["held_before"] for one in at_once(*both)] == [12, 12]


def test_two_runs_of_one_partition_at_once_hold_each_image_once(
    spark: "SparkSession", spec: DatasetSpec, photos: Path
) -> None:
    (photos / "cats" / "broken.jpg").write_bytes(b"no photo")
    (photos / "cats" / "twin.jpg").write_bytes((photos / "dogs" / "0000.jpg").read_bytes())
    list_images(spec)
    at_once(*[functools.partial(fetch, spark, spec, "all", f"run-{run}") for run in range(2)])
    assert tables.count_rows(catalog_of(spec).images) == 12
    assert sorted(reasons(spec).values()) == ["conflict", "not_an_image"]
    complete(spec)
    assert leftovers(catalog_of(spec)) == []


def test_an_image_that_another_run_has_stored_meanwhile_is_no_reject(
    spark: "SparkSession", spec: DatasetSpec, photos: Path
) -> None:
    """One partition could not read the file, the other then could: it must not be in both tables."""
    list_images(spec, "2026-11-05")
    copy_manifest(spec, "2026-11-05", "2026-11-06")
    away = photos / "cats" / "0000.jpg"
    away.rename(photos.parent / "away.jpg")
    fetch(spark, spec, "2026-11-05")
    held_elsewhere = dict(rows(catalog_of(spec).rejects)[0])
    assert held_elsewhere["reason"] == "unreadable"
    (photos.parent / "away.jpg").rename(away)
    store_directly(spec, away, "2026-11-06")
    fetch(spark, spec, "2026-11-06")
    assert reasons(spec) == {}
    complete(spec)


def test_no_spark_is_needed_for_a_night_that_lists_nothing(spec: DatasetSpec) -> None:
    list_images(spec, "2026-11-05")
    list_images(spec, "2026-11-06")
    catalog = catalog_of(spec)
    assert ingestion.counts_if_done(spec, catalog, "2026-11-05") is None
    counts = ingestion.counts_if_done(spec, catalog, "2026-11-06")
    assert counts is not None and set(counts.values()) == {0}
    due = {"uri": "mem://x", "stage": "fetch_images", "reason": "busy", "attempts": 1}
    due |= {"rejected_at": datetime(2026, 11, 5, tzinfo=UTC), "partition": "2026-11-05"}
    rejection.write(catalog, make_task("fetch_images")[0], "2026-11-05", [due])
    assert ingestion.counts_if_done(spec, catalog, "2026-11-06") is None


def test_a_partition_whose_name_holds_a_quote_is_only_a_name(
    spark: "SparkSession", spec: DatasetSpec, photos: Path
) -> None:
    (photos / "cats" / "broken.jpg").write_bytes(b"no photo")
    ingest(spark, spec, "o'clock 12:00")
    ingest(spark, spec, "o'clock 12:00")
    assert [row["partition"] for row in rows(catalog_of(spec).rejects)] == ["o'clock 12:00"]
    complete(spec)


def test_files_beyond_the_limits_are_rejected_with_the_numbers(
    spark: "SparkSession", tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", {"cats": 2})
    Image.new("L", (400, 300)).save(photos / "cats" / "wide.png")
    (photos / "cats" / "heavy.jpg").write_bytes(
        (photos / "cats" / "0000.jpg").read_bytes() + bytes(200_000)
    )
    (photos / "cats" / "empty.jpg").touch()
    spec = dataset(tmp_path, photos, "limits: {image_megabytes: 0.1, image_megapixels: 0.11}")
    ingest(spark, spec)
    details = {Path(row["uri"]).name: row["detail"] for row in rows(catalog_of(spec).rejects)}
    assert {Path(uri).name: reason for uri, reason in reasons(spec).items()} == {
        "wide.png": "too_many_pixels",
        "heavy.jpg": "too_large",
        "empty.jpg": "empty",
    }
    assert details["wide.png"] == "400 x 300 pixels, at most 110,000 in all"
    assert details["heavy.jpg"].endswith("at most 104,857")
    complete(spec)


def test_images_behind_a_web_server_are_fetched_and_its_faults_are_rejects(
    spark: "SparkSession", tmp_path: Path, photos: Path
) -> None:
    with web_server(functools.partial(FaultyHandler, directory=photos)) as url:
        spec = dataset(tmp_path, f"{url}/", HERE)
        counts = ingest(spark, spec)
    assert (counts["wanted"], counts["images"], counts["rejects"]) == (12, 9, 3)
    assert {uri.rsplit("/", 1)[-1]: reason for uri, reason in reasons(spec).items()} == {
        "0001.jpg": "unreadable",
        "0002.jpg": "truncated",
        "0003.jpg": "not_an_image",
    }
    contents = {path.read_bytes() for path in photos.rglob("*.jpg")}
    assert {row["content"] for row in rows(catalog_of(spec).images)} < contents
    complete(spec)


def test_every_odd_or_broken_file_beside_real_photos_ends_in_one_of_two_tables(
    spark: "SparkSession", tmp_path: Path, shared_data: Path
) -> None:
    photos = tmp_path / "photos"
    for label in ("daisy", "roses"):
        copies = sorted((shared_data / "flowers").glob(f"{label}*/*.jpg"))[:20]
        (photos / label).mkdir(parents=True)
        for path in copies:
            shutil.copy(path, photos / label)
    shutil.copytree(shared_data / "nasty", photos / "nasty")
    spec = dataset(tmp_path, photos)
    counts = ingest(spark, spec)
    complete(spec)
    listed = [path for path in photos.rglob("*") if path.is_file()]
    assert counts["wanted"] == len(listed) == counts["images"] + counts["rejects"]
    contents = {row["uri"]: row["content"] for row in rows(catalog_of(spec).images)}
    assert all(Path(uri).read_bytes() == content for uri, content in contents.items())
    assert sum("/nasty/" not in uri for uri in contents) == len(listed) - len(
        list((photos / "nasty").iterdir())
    )
    found = {Path(uri).name: reason for uri, reason in reasons(spec).items()}
    assert set(found.values()) <= set(REASONS) - {"unreadable", "duplicate"}
    assert found["NOTES.md"] == found["LICENSE.pillow"] == "not_an_image"
    assert found["pillow_truncated_jpeg.jpg"] == found["pillow_truncated_image.png"] == "truncated"
    assert found["pillow_hopper.ico"] == "unsupported_format"
    assert found["pillow_bmp_b_reallybig.bmp"] == "too_many_pixels"
    assert found["pillow_decompression_bomb.gif"] == "too_many_pixels"
    assert found["pillow_broken.png"] == "corrupt"
    pictures = [row for row in rows(catalog_of(spec).rejects) if row["thumbnail"]]
    assert pictures and all(row["thumbnail"].startswith(b"\xff\xd8") for row in pictures)


def test_batches_of_large_images_stay_small(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", {"cats": 20})
    for path in photos.rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + bytes(7 * 2**20))
    listed = to_batch([{"uri": uri, "partition": "all"} for uri in uris(photos)], WORK)
    work = fetch_batches(Fetching(Limits(8 * 2**20, 10**6), FetchSpec()), lambda rejects: None)
    sizes = [batch.nbytes for batch in work(iter([listed]))]
    assert sum(sizes) > 20 * 7 * 2**20
    assert max(sizes) < BYTES_PER_BATCH + 8 * 2**20


@pytest.mark.nightly  # test_end_to_end kills one too
def test_a_killed_fetch_goes_on_where_it_was(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", {"cats": 150, "dogs": 150}, side=24)
    (photos / "cats" / "broken.jpg").write_bytes(b"no photo")
    spec = dataset(tmp_path, photos, "limits: {images_per_commit: 12}")
    list_images(spec)
    catalog = catalog_of(spec)

    job = submit("fetch_images", spec.name, tmp_path / "killed.log")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not tables.count_rows(catalog.images):
        assert job.poll() is None and time.monotonic() < deadline, log_of(tmp_path / "killed.log")
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait(DEADLINE_SECONDS)
    finished = tables.count_rows(catalog.images)
    assert 0 < finished < 300
    before = {row["uri"]: row for row in file_rows(catalog)}

    job = submit("fetch_images", spec.name, tmp_path / "again.log")
    assert job.wait(DEADLINE_SECONDS) == 0, log_of(tmp_path / "again.log")
    complete(spec)
    task = ledger.TaskRun("ingest_photos", "manual__2026-11-05T10:00", "fetch_images", "all")
    record = ledger.read_record(catalog, task)
    assert record is not None
    assert record["counts"]["held_before"] >= finished
    assert record["counts"]["images"] == 300 - finished
    assert tables.count_rows(catalog.images) == 300
    assert list(reasons(spec)) == [str(photos / "cats" / "broken.jpg")]
    after = {row["uri"]: row for row in file_rows(catalog)}
    assert {uri: after[uri] for uri in before} == before  # the same files as before the kill
    assert record["outputs"][0]["rows"] == 300


def submit(task: str, name: str, log: Path) -> "subprocess.Popen[bytes]":
    """A Spark job as Airflow submits it, in a process group of its own, so that a kill gets all of it."""
    environment = {
        **os.environ,
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SIGHTLINE_DAG_ID": f"ingest_{name}",
        "SIGHTLINE_RUN_ID": "manual__2026-11-05T10:00",
        "SIGHTLINE_PARTITION": "all",
    }
    settings = [f"--conf={key}={value}" for key, value in spark.submit_conf().items()]
    program = load_settings().home / "spark_jobs" / f"{task}.py"
    with log.open("wb") as sink:
        return subprocess.Popen(
            [Path(sys.executable).with_name("spark-submit"), "--master", "local[2]"]
            + [*settings, program, name],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def log_of(path: Path) -> str:
    return path.read_text()[-3000:]


def dataset(places: Path, photos: Path | str, more: str = "") -> DatasetSpec:
    """A dataset named photos whose source is a folder."""
    text = f"source: {{type: folder, path: '{photos}'}}\n{more}\n"
    return write_dataset(places, "photos", text)


def list_images(spec: DatasetSpec, partition: str = "all") -> dict[str, Any]:
    """Run the listing; returns its counts."""
    task, record = make_task("list_images", partition)
    ingestion.list_images(spec, Access(catalog_of(spec), partition), task, record)
    return record.counts


def fetch(
    session: "SparkSession", spec: DatasetSpec, partition: str = "all", run_id: str = "run-1"
) -> dict[str, Any]:
    """Run the fetch; returns its counts."""
    task, record = make_task("fetch_images", partition, run_id)
    ingestion.fetch_images(session, spec, catalog_of(spec), task, record)
    return record.counts


def ingest(session: "SparkSession", spec: DatasetSpec, partition: str = "all") -> dict[str, Any]:
    """List and fetch."""
    list_images(spec, partition)
    return fetch(session, spec, partition)


def at_once(*work: Any) -> list[Any]:
    """Run functions in threads that start together."""
    barrier = threading.Barrier(len(work))

    def start(one: Any) -> Any:
        barrier.wait(DEADLINE_SECONDS)
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(start, work))


def complete(spec: DatasetSpec) -> None:
    """Each uri of the manifest is in images or in rejects, once, and nothing else is."""
    catalog = catalog_of(spec)
    wanted = {row["uri"] for row in rows(catalog.manifest)}
    ends = [row["uri"] for table in (catalog.images, catalog.rejects) for row in rows(table)]
    assert Counter(ends) == Counter(wanted)


def rows(table: tables.Table) -> list[dict[str, Any]]:
    """All rows of a table's newest version."""
    batches = list(tables.read_batches(table, table.schema.names))
    return pa.Table.from_batches(batches, table.schema).to_pylist()


def file_rows(catalog: Catalog) -> list[dict[str, Any]]:
    """Which file of the images table holds which uri."""
    import pyarrow.parquet as pq

    return [
        {"uri": uri, "file": Path(url).name}
        for url in tables.file_urls(catalog.images)
        for uri in pq.ParquetFile(url).read(["uri"])["uri"].to_pylist()
    ]


def reasons(spec: DatasetSpec) -> dict[str, str]:
    return {row["uri"]: row["reason"] for row in rows(catalog_of(spec).rejects)}


def uris(photos: Path) -> list[str]:
    return sorted(str(path) for path in photos.rglob("*.jpg"))


def leftovers(catalog: Catalog) -> list[Path]:
    """Parquet files that no table counts, and work lists that nobody reads any more."""
    known = {url for table in (catalog.images,) for url in tables.file_urls(table)}
    files = {str(path) for path in Path(catalog.images.url).rglob("*.parquet")}
    return sorted(map(Path, files - known)) + sorted(Path(catalog.staging).glob("*"))


def copy_manifest(spec: DatasetSpec, partition: str, other: str) -> None:
    """Let another partition list the same uris, as two searches of a photo service would."""
    manifest = catalog_of(spec).manifest
    task, _ = make_task("list_images", other)
    copied = [{**row, "partition": other} for row in rows(manifest)]
    urls = tables.write_batches(manifest, [to_batch(copied, MANIFEST)])
    tables.replace_partition(manifest, urls, other, tables.claim(manifest, task.writer))


def store_directly(spec: DatasetSpec, path: Path, partition: str) -> None:
    """Commit one image as a run of another partition does."""
    task, _ = make_task("fetch_images", partition, "run-2")
    work = fetch_batches(Fetching(Limits(2**20, 10**6), FetchSpec()), lambda rejects: None)
    listed = to_batch([{"uri": str(path), "label": "cats", "partition": partition}], WORK)
    catalog = catalog_of(spec)
    urls = tables.write_batches(catalog.images, work(iter([listed])))
    tables.append_new(catalog.images, urls, partition, task.writer)
