"""Downloads: every way in which they break off, and that what is kept is whole or is not there."""

import hashlib
import io
import logging
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.catalog import open_catalog
from sightline.errors import ResourceError, SourceError
from sightline.sources import downloads
from sightline.sources.downloads import Patience, Wanted
from tests.servers.files import FileServer, file_server

QUICK = Patience(attempts=3, wait_seconds=0.01, longest_wait_seconds=5, read_seconds=5)


def archive_bytes(seed: int = 0) -> bytes:
    """A zip of 3 MB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/1.jpg", np.random.default_rng(seed).bytes(3_000_000))
    return buffer.getvalue()


CONTENT = archive_bytes()
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as served:
        yield served


def keep(*mirrors: Any, **more: Any) -> bytes:
    path = downloads.keep(Wanted("a.zip", mirrors, **more), open_catalog("d"), QUICK)
    return Path(path).read_bytes()


@pytest.mark.parametrize("percent", [1, 50, 99])
def test_a_reset_is_resumed_where_it_broke_off(server: FileServer, percent: int) -> None:
    url = server.put("/a.zip", CONTENT, f"reset:{percent}")
    assert keep(url, md5=MD5) == CONTENT
    first, second = (asked for _, asked in server.requests)
    assert first is None
    assert second is not None
    assert int(second[6:-1]) <= len(CONTENT) * percent // 100


@pytest.mark.parametrize(
    "faults",
    [
        ["reset:50", "ignore_range"],
        ["reset:50", "416"],
        ["reset:50", "change", "change"],
        ["reset:50", "status:503", "reset:10", "status:500", "status:502"],
        ["busy:0", "busy:1"],
        ["short_length"],
        ["no_length"],
        ["weak"],
        ["slow"],
        ["reset:1"] * 8,
    ],
    ids=" ".join,
)
def test_a_fault_that_passes_is_survived(server: FileServer, faults: list[str]) -> None:
    url = server.put("/a.zip", CONTENT, *faults)
    assert keep(url) == server.files["/a.zip"]


def test_a_fault_that_stays_may_be_tried_again_later(server: FileServer) -> None:
    url = server.put("/a.zip", CONTENT, *["status:503"] * 50)
    with pytest.raises(ConnectionError, match="answered 503"):
        keep(f"{url}?signature=secret")
    assert len(server.requests) == 3
    server.faults["/a.zip"] = ["busy:3600"]
    with pytest.raises(ConnectionError, match="answered 429"):
        keep(url)
    assert len(server.requests) == 4


def test_the_next_mirror_is_asked_when_one_has_not_got_it(server: FileServer) -> None:
    page = server.put("/page.zip", CONTENT, "page")
    other = server.put("/other.zip", archive_bytes(seed=1))
    good = server.put("/good.zip", CONTENT)
    assert keep(f"{server.address}/gone.zip", page, other, good, md5=MD5) == CONTENT
    with pytest.raises(SourceError) as caught:
        keep(f"{server.address}/gone", server.put("/p", b"", "page"), other, sha256="0" * 64)
    told = str(caught.value)
    assert "answered 404" in told
    assert "handed out a web page" in told
    assert "not 0000" in told
    assert "source.file" in told


def test_a_file_that_is_no_archive_is_not_kept(server: FileServer) -> None:
    with pytest.raises(SourceError, match="is no archive"):
        keep(server.put("/a.zip", b"Not found"))
    assert not list(Path(open_catalog("d").root).rglob("a.zip"))


def test_a_signed_url_that_expires_is_signed_anew_and_never_shown(
    server: FileServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sightline")
    url = server.put("/a.zip", CONTENT, "reset:50", "status:403", "reset:50")
    numbers = iter(range(100))
    assert keep(lambda: f"{url}?signature=secret{next(numbers)}") == CONTENT
    asked = [path for path, _ in server.requests]
    assert asked == [f"/a.zip?signature=secret{number}" for number in range(4)]
    assert "answered 403" in caplog.text
    assert "secret" not in caplog.text


def test_what_is_kept_is_not_asked_for_again_until_it_is_damaged(server: FileServer) -> None:
    url = server.put("/a.zip", CONTENT)
    assert keep(url, md5=MD5) == keep(url, md5=MD5) == CONTENT
    assert len(server.requests) == 1
    kept = Path(open_catalog("d").root) / "source" / "a.zip"
    kept.write_bytes(CONTENT[:-1])
    assert keep(url, md5=MD5) == CONTENT
    assert len(server.requests) == 2


PROGRAM = """
import sys
from sightline.catalog import open_catalog
from sightline.sources.downloads import Wanted, keep
keep(Wanted("a.zip", [sys.argv[1]]), open_catalog("d"))
"""


def test_a_killed_download_goes_on_in_the_next_process(server: FileServer, tmp_path: Path) -> None:
    url = server.put("/a.zip", CONTENT, "slow")
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, url])
    part = tmp_path / "state" / "downloads" / "d" / "a.zip.part"
    while not part.exists() or part.stat().st_size < 200_000:
        assert process.poll() is None
    process.kill()
    process.wait()
    assert keep(url) == CONTENT
    assert server.requests[1][1] is not None


def test_two_processes_at_once_download_once(server: FileServer) -> None:
    url = server.put("/a.zip", CONTENT, "slow")
    both = [subprocess.Popen([sys.executable, "-c", PROGRAM, url]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(server.requests) == 1
    assert keep(url) == CONTENT


def test_what_does_not_fit_is_refused_before_it_is_fetched(
    server: FileServer, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_STATE", str(small_disk))
    with pytest.raises(ResourceError, match=r"a\.zip needs 0\.0 GB more"):
        keep(server.put("/a.zip", CONTENT))
