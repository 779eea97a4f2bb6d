"""The archive source: classes from paths, official splits, the user's own copy, and mirrors."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sightline import storage
from sightline.catalog import open_catalog
from sightline.errors import SourceError
from sightline.source_config import ArchiveSource
from sightline.sources import archive
from sightline.sources.access import Access
from tests.servers.files import FileServer, file_server
from tests.test_archives import write_tar, write_zip

PHOTOS = {
    "SUN397/a/abbey/sun_1.jpg": b"1",
    "SUN397/a/abbey/sun_2.jpg": b"22",
    "SUN397/c/church/outdoor/sun_3.jpg": b"333",
    "SUN397/stray.jpg": b"s",
}
LISTS = {"Training_01.txt": b"/a/abbey/sun_1.jpg\r\n", "Testing_01.txt": b"/a/abbey/sun_2.jpg\n"}


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as served:
        yield served


def make(path: Path | None, **more: Any) -> ArchiveSource:
    block = {"type": "archive", "name": "SUN397.tar.gz", "skip_folders": 2, **more}
    return ArchiveSource.model_validate(block | ({"file": str(path)} if path else {}))


def access() -> Access:
    return Access(open_catalog("sun397"), "1")


def listed(source: ArchiveSource) -> list[dict[str, Any]]:
    return [row for rows in archive.list_images(source, access()) for row in rows]


def split_lists(path: Path) -> dict[str, Any]:
    return {
        "urls": ["http://127.0.0.1:9/Partitions.zip"],
        "file": str(path),
        "train": "Training_01.txt",
        "test": "Testing_01.txt",
    }


def test_the_path_is_the_class_and_the_lists_are_the_split(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "SUN397.tar.gz", PHOTOS)
    lists = write_zip(tmp_path / "Partitions.zip", LISTS)
    rows = listed(make(path, split_lists=split_lists(lists)))
    assert [(row["uri"], row["label"], row["split_hint"], row["size_bytes"]) for row in rows] == [
        ("archive://SUN397.tar.gz/SUN397/a/abbey/sun_1.jpg", "abbey", "train", 1),
        ("archive://SUN397.tar.gz/SUN397/a/abbey/sun_2.jpg", "abbey", "test", 2),
        ("archive://SUN397.tar.gz/SUN397/c/church/outdoor/sun_3.jpg", "church/outdoor", None, 3),
    ]


def test_only_wanted_images_are_streamed_with_the_rows_of_the_listing(tmp_path: Path) -> None:
    source = make(write_tar(tmp_path / "SUN397.tar.gz", PHOTOS))
    streamed = archive.stream_images(source, access(), lambda uri: "sun_2" not in uri, 2)
    assert [(row, content) for row, content in streamed] == [
        (row, content)
        for row, content in zip(listed(source), (b"1", b"22", b"333"), strict=True)
        if "sun_2" not in row["uri"]
    ]


def test_an_archive_is_downloaded_once_and_kept_beside_the_tables(
    tmp_path: Path, server: FileServer
) -> None:
    content = write_tar(tmp_path / "x.tar.gz", PHOTOS).read_bytes()
    source = make(None, urls=[server.put("/SUN397.tar.gz", content)])
    assert archive.survey(source, access()).size_bytes == 2 * len(content)
    assert len(listed(source)) == len(listed(source)) == 3
    assert len(server.requests) == 2  # the survey's and the download's
    kept = Path(access().catalog.root) / "source" / "SUN397.tar.gz"
    assert kept.read_bytes() == content
    assert archive.survey(source, access()).size_bytes == 2 * len(content)
    assert len(server.requests) == 2


def test_an_own_copy_with_a_wrong_checksum_or_missing_is_told(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "SUN397.tar.gz", PHOTOS)
    with pytest.raises(SourceError, match="has md5 [0-9a-f]{32}, not 0{32}; get the file anew"):
        listed(make(path, md5="0" * 32))
    with pytest.raises(SourceError, match="does not exist"):
        archive.survey(make(tmp_path / "missing.tar.gz"), access())


def test_wrong_folders_and_lists_of_something_else_are_told(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "SUN397.tar.gz", PHOTOS)
    with pytest.raises(SourceError, match=r"check source\.skip_folders"):
        listed(make(path, skip_folders=7))
    other = write_zip(
        tmp_path / "o.zip", {**LISTS, "Training_01.txt": b"/q.jpg"} | {"Testing_01.txt": b""}
    )
    with pytest.raises(SourceError, match="No line of .* names an image"):
        listed(make(path, split_lists=split_lists(other)))
    empty = write_zip(tmp_path / "e.zip", {"Training_01.txt": b""})
    with pytest.raises(SourceError, match=r"holds no Testing_01\.txt"):
        listed(make(path, split_lists=split_lists(empty)))


def test_a_store_beyond_the_disk_gets_the_archive_and_the_disk_keeps_none(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_STORAGE", f"memory://{tmp_path.name}")
    content = write_tar(tmp_path / "x.tar.gz", PHOTOS).read_bytes()
    source = make(None, urls=[server.put("/SUN397.tar.gz", content, "reset:50")])
    assert len(listed(source)) == len(listed(source)) == 3
    assert len(server.requests) == 2
    assert storage.read_bytes(f"{access().catalog.root}/source/SUN397.tar.gz") == content
    left = [path.name for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert left == ["SUN397.tar.gz.lock"]


def test_an_own_copy_is_not_read_twice_for_its_checksum(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "SUN397.tar.gz", PHOTOS)
    source = make(path, md5=hashlib.md5(path.read_bytes()).hexdigest())
    assert len(listed(source)) == 3
    marker = Path(access().catalog.root) / "source" / "SUN397.tar.gz.verified.json"
    first = marker.stat().st_mtime_ns
    assert len(listed(source)) == 3
    assert marker.stat().st_mtime_ns == first
    write_tar(path, {**PHOTOS, "SUN397/b/bar/sun_9.jpg": b"9"})
    with pytest.raises(SourceError, match="get the file anew"):
        listed(source)
