"""The cache of shared files: fetched once per machine, verified, bounded, and safe if killed anywhere."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event, Lock

import pytest

from sightline import shared_files
from sightline.errors import StorageError
from sightline.shared_files import SharedFile, describe, evict, local_path
from tests.conftest import web_server

CONTENT = bytes(range(256)) * 4096 * 3
READ = """
import sys
from sightline.shared_files import SharedFile, local_path
with local_path(SharedFile(sys.argv[1], sys.argv[2], int(sys.argv[3]))) as path:
    print(len(path.read_bytes()), flush=True)
"""


@dataclass
class Store:
    """A web server with one file, and what it was asked for."""

    url: str = ""
    content: bytes = CONTENT
    fetches: list[str] = field(default_factory=list)
    is_open: Event = field(default_factory=Event)  # until then a download stops half-way
    is_half: Event = field(default_factory=Event)

    @property
    def file(self) -> SharedFile:
        """The file as a job would name it."""
        return SharedFile(self.url, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.fixture
def store() -> Iterator[Store]:
    store, counting = Store(), Lock()
    store.is_open.set()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:  # noqa: N802  (the standard library's name)
            self.send_response(200)
            self.send_header("Content-Length", str(len(store.content)))
            self.end_headers()

        def do_GET(self) -> None:  # noqa: N802
            with counting:
                store.fetches.append(self.path)
            self.do_HEAD()
            half = len(store.content) // 2
            try:
                self.wfile.write(store.content[:half])
                self.wfile.flush()
                store.is_half.set()
                store.is_open.wait(60)
                self.wfile.write(store.content[half:])
            except OSError:
                return  # the reader was killed

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with web_server(Handler) as address:
        store.url = f"{address}/weights.safetensors"
        yield store
        store.is_open.set()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return shared_files.cache_folder()


@contextmanager
def reading(file: SharedFile, count: int = 1) -> "Iterator[list[subprocess.Popen[str]]]":
    """Processes that read a file at the same time."""
    command = [sys.executable, "-c", READ, file.url, file.sha256, str(file.size_bytes)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        for _ in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def read(file: SharedFile) -> bytes:
    with local_path(file) as path:
        return path.read_bytes()


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_two_processes_at_once_fetch_once(store: Store, cache: Path) -> None:
    store.is_open.clear()
    with reading(store.file, 2) as processes:
        assert store.is_half.wait(60)
        store.is_open.set()
        said = [process.communicate(timeout=60)[0] for process in processes]
    assert said == [f"{len(CONTENT)}\n"] * 2
    assert len(store.fetches) == 1
    assert entries(cache) == [store.file.sha256]


def test_a_file_is_fetched_once_and_its_place_is_private(store: Store, cache: Path) -> None:
    assert [read(store.file), read(store.file)] == [CONTENT, CONTENT]
    assert len(store.fetches) == 1
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["truncated", "altered", "gone"])
def test_a_damaged_file_is_noticed_and_fetched_again(
    store: Store, cache: Path, damage: str
) -> None:
    read(store.file)
    held = cache / store.file.sha256
    if damage == "truncated":
        os.truncate(held, 1000)
    elif damage == "altered":
        held.write_bytes(bytes(len(CONTENT)))
    else:
        held.unlink()
    assert read(store.file) == CONTENT
    assert len(store.fetches) == 2


def test_a_file_that_was_merely_touched_is_verified_and_not_fetched(
    store: Store, cache: Path
) -> None:
    read(store.file)
    os.utime(cache / store.file.sha256, (1, 1))
    assert read(store.file) == CONTENT
    assert len(store.fetches) == 1


def test_a_killed_download_leaves_nothing_that_passes_for_the_file(
    store: Store, cache: Path
) -> None:
    store.is_open.clear()
    with reading(store.file) as (process,):
        assert store.is_half.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    store.is_open.set()
    assert not (cache / store.file.sha256).exists()
    assert read(store.file) == CONTENT
    assert entries(cache) == [store.file.sha256]  # the half file is gone, too


def test_a_file_that_is_not_what_the_job_names_is_refused(store: Store, cache: Path) -> None:
    store.content = CONTENT[:-1] + b"x"
    with pytest.raises(StorageError, match="is not what the job was started with") as refused:
        read(store.file)
    assert refused.value.may_pass
    assert entries(cache) == []


def test_what_is_old_or_too_much_is_removed_but_not_what_is_in_use(
    store: Store, cache: Path
) -> None:
    now = time.time()
    for name, days in (("old", 8), ("older", 9), ("newer", 1), ("newest", 0)):
        (cache / name).write_bytes(bytes(1000))
        (cache / f"{name}.lock").touch()
        os.utime(cache / f"{name}.lock", (now, now - days * 86_400))
    with shared_files._locked(cache / "older", shared_files.fcntl.LOCK_SH):
        assert evict(cache, keep="none", max_bytes=10_000) == ["old"]
        assert evict(cache, keep="newer", max_bytes=1500) == ["newest"]
    assert evict(cache, keep="newer") == ["older"]
    assert sorted(path.name for path in cache.iterdir()) == ["newer", "newer.lock"]


def test_a_local_file_is_read_in_place_and_a_remote_one_is_hashed(
    store: Store, tmp_path: Path, cache: Path
) -> None:
    here = tmp_path / "weights.safetensors"
    here.write_bytes(CONTENT)
    with local_path(describe(str(here))) as path:
        assert path == here
    assert describe(store.url) == store.file
    assert entries(cache) == []


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, cache: Path) -> None:
    cache.rmdir()
    cache.symlink_to(tmp_path)
    with pytest.raises(StorageError, match="belongs to another user"):
        shared_files.cache_folder()
