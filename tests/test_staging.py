"""Archives on their way into the images table: chunks of bytes, read by the driver, judged by the workers."""

import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from sightline import ingestion, tables
from sightline.config import DatasetSpec
from sightline.errors import SourceError
from sightline.images import Rejected
from sightline.sources import Access
from sightline.sources.staging import BYTES_PER_CHUNK, UriSet, stage_chunks
from tests.conftest import catalog_of, make_task, write_dataset
from tests.servers.misbehaving import picture

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def rows(count: int, size_bytes: int) -> Iterator[tuple[dict[str, Any], bytes | Rejected]]:
    for number in range(count):
        row = {"uri": f"archive://a/{number}", "label": "any", "partition": "all"}
        bad = Rejected("bad_member", "a link")
        yield row, bad if number % 10 == 9 else bytes([number % 256]) * size_bytes


def test_chunks_are_bounded_by_rows_and_every_row_is_in_one(tmp_path: Path) -> None:
    urls = list(stage_chunks(rows(25, 100), str(tmp_path / "staged"), rows_per_chunk=10))
    chunks = [pq.read_table(url).to_pylist() for url in urls]
    assert [len(chunk) for chunk in chunks] == [10, 10, 5]
    found = [row for chunk in chunks for row in chunk]
    assert [row["uri"] for row in found] == [f"archive://a/{number}" for number in range(25)]
    assert found[3]["content"] == b"\x03" * 100 and found[3]["reject_reason"] is None
    assert (found[9]["content"], found[9]["reject_reason"]) == (None, "bad_member")


def test_chunks_are_bounded_by_bytes(tmp_path: Path) -> None:
    size_bytes = BYTES_PER_CHUNK // 3 + 1
    urls = list(stage_chunks(rows(9, size_bytes), str(tmp_path), rows_per_chunk=1_000))
    assert [pq.ParquetFile(url).metadata.num_rows for url in urls] == [3, 3, 3]
    groups = [pq.ParquetFile(url).metadata.num_row_groups for url in urls]
    assert groups == [3, 3, 3]  # a reader holds one at a time


def test_a_chunk_is_there_before_the_stream_goes_on(tmp_path: Path) -> None:
    taken = []

    def watched() -> Iterator[tuple[dict[str, Any], bytes | Rejected]]:
        for row in rows(30, 10):
            taken.append(row)
            yield row

    chunks = stage_chunks(watched(), str(tmp_path), rows_per_chunk=10)
    assert Path(next(chunks)).exists()
    assert len(taken) == 10


def test_a_set_of_uris_knows_its_members() -> None:
    members = [f"archive://x/{number}.jpg" for number in range(10_000)]
    known = UriSet(iter(members))
    assert all(uri in known for uri in members)
    assert not any(f"archive://y/{number}.jpg" in known for number in range(10_000))
    assert "any" not in UriSet([])


def photo(number: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(number))).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def spec(tmp_path: Path) -> DatasetSpec:
    """A zip of twelve good images in other clothes, and five members that are not."""
    with zipfile.ZipFile(tmp_path / "birds.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(12):
            form = ("JPEG", "PNG", "GIF", "BMP")[number % 4]
            archive.writestr(
                f"birds/{'owl' if number % 2 else 'tit'}/{number}.jpg", photo(number, form)
            )
        archive.writestr("birds/owl/../../outside.jpg", photo(20))
        archive.writestr("birds/owl/page.jpg", b"<!DOCTYPE html><html></html>")
        archive.writestr("birds/owl/bomb.jpg", bytes(20_000_000))
        archive.writestr("birds/owl/twin.jpg", photo(1, "PNG"))
        archive.writestr("birds/owl/short.jpg", photo(21)[:-300])
    return write_dataset(
        tmp_path,
        "birds",
        f"source: {{type: archive, name: birds.zip, file: {tmp_path}/birds.zip, skip_folders: 1}}\n"
        "limits: {images_per_commit: 5}\n",
    )


def test_an_archive_goes_straight_into_the_tables(
    spark: "SparkSession", spec: DatasetSpec, tmp_path: Path
) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    counts = ingest(spark, spec)
    assert (counts["wanted"], counts["images"], counts["rejects"]) == (17, 12, 5)
    catalog = catalog_of(spec)
    with tables.query(images=catalog.images, rejects=catalog.rejects) as sql:
        formats = sql("SELECT format, count(*) n FROM images GROUP BY 1 ORDER BY 1").to_pylist()
        reasons = sql("SELECT reason FROM rejects").to_pylist()
    assert formats == [{"format": name, "n": 3} for name in ("BMP", "GIF", "JPEG", "PNG")]
    assert Counter(row["reason"] for row in reasons) == Counter(
        ["bad_member", "bad_member", "not_an_image", "duplicate", "truncated"]
    )
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {path.relative_to(tmp_path).parts[0] for path in new} <= {"data", "state"}
    assert not [path for path in new if path.suffix == ".jpg"]
    assert not list(Path(catalog.staging).glob("fetch-*"))
    again = ingest(spark, spec)
    assert (again["held_before"], again["images"], again["rejects"]) == (17, 0, 0)


def test_an_archive_cut_short_is_refused_and_lists_nothing(
    spec: DatasetSpec, tmp_path: Path
) -> None:
    whole = (tmp_path / "birds.zip").read_bytes()
    (tmp_path / "birds.zip").write_bytes(whole[:-1])
    task, record = make_task("list_images")
    with pytest.raises(SourceError, match=r"birds\.zip"):
        ingestion.list_images(spec, Access(catalog_of(spec), "all"), task, record)
    assert tables.count_rows(catalog_of(spec).manifest) == 0


def ingest(session: "SparkSession", spec: DatasetSpec) -> dict[str, Any]:
    """List and fetch; returns the fetch's counts."""
    task, record = make_task("list_images")
    ingestion.list_images(spec, Access(catalog_of(spec), "all"), task, record)
    task, record = make_task("fetch_images")
    ingestion.fetch_images(session, spec, catalog_of(spec), task, record)
    return record.counts
