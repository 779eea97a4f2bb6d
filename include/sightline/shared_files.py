"""Large files that every process of a job reads: in place if they lie on a local path, else downloaded once
per machine into a bounded cache.

The cache is a folder per user below the temporary directory. An entry is a file named by its SHA-256 and a
lock file beside it. The lock file notes size, inode and modification time of the file whose hash was
verified; its own modification time is the entry's last use. A download goes to a hidden name and is renamed
when its hash is right, so a killed process leaves nothing that passes for a whole file.
"""

import fcntl
import hashlib
import logging
import os
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sightline import storage
from sightline.errors import StorageError

log = logging.getLogger(__name__)

CHUNK_BYTES = 8 * 2**20
CACHE_BYTES = 10 * 2**30  # of all entries; the file in use is kept even if it is larger
CACHE_DAYS = 7  # since the last use
ATTEMPTS = 3  # another process may evict the entry between its download and its use
LOCK = ".lock"


@dataclass(frozen=True)
class SharedFile:
    """A file that never changes. `sha256` may be empty for a local path, which is read in place."""

    url: str
    sha256: str
    size_bytes: int


def describe(url: str, sha256: str = "") -> SharedFile:
    """A file on storage; its hash is computed, in chunks, if it is unknown and needed."""
    fs, path = storage.filesystem(url)
    if not sha256 and not storage.is_local(url):
        with fs.open(path, "rb", block_size=CHUNK_BYTES) as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return SharedFile(url, sha256, int(fs.size(path)))


@contextmanager
def local_path(file: SharedFile) -> Iterator[Path]:
    """The file on this machine. The path is valid inside the block; a mapping made there stays valid."""
    if storage.is_local(file.url):
        yield Path(storage.filesystem(file.url)[1])
        return
    folder = cache_folder()
    target = folder / file.sha256
    for _ in range(ATTEMPTS):
        with _locked(target, fcntl.LOCK_SH) as note:
            if _is_verified(target, file, note):
                os.utime(note)
                yield target
                return
        with _locked(target, fcntl.LOCK_EX) as note:
            _ensure(target, file, note)
        evict(folder, keep=file.sha256)
    raise StorageError(
        f"{file.url} was evicted from {folder} {ATTEMPTS} times before it could be opened; another process "
        "deletes files there.",
        may_pass=True,
    )


def cache_folder() -> Path:
    """The cache of this user; StorageError if the folder belongs to somebody else."""
    folder = Path(tempfile.gettempdir()) / f"sightline-files-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise StorageError(
            f"The cache folder {folder} belongs to another user; remove it, or set TMPDIR."
        )
    return folder


def evict(folder: Path, keep: str, max_bytes: int = CACHE_BYTES) -> list[str]:
    """Remove entries unused for CACHE_DAYS, then the least recently used beyond max_bytes; returns their
    names. Entries that a process is downloading or opening stay."""
    oldest = time.time() - CACHE_DAYS * 86_400
    locks = sorted(folder.glob(f"*{LOCK}"), key=_last_use, reverse=True)
    names = [keep, *(lock.stem for lock in locks if lock.stem != keep)]
    total, evicted = 0, list[str]()
    for name in names:
        target = folder / name
        size = target.stat().st_size if target.exists() else 0
        is_old = _last_use(_lock_of(target)) < oldest
        if name != keep and (is_old or total + size > max_bytes) and _remove(target):
            evicted.append(name)
        else:
            total += size
    return evicted


def _ensure(target: Path, file: SharedFile, note: Path) -> None:
    """Verify or download the file, and note what was verified. The caller holds the exclusive lock."""
    if _is_verified(target, file, note):
        return
    if not target.exists() or _hash_of(target) != file.sha256:
        _download(target, file)
    note.write_text(_identity(target))


def _download(target: Path, file: SharedFile) -> None:
    for left in target.parent.glob(f".{target.name}.*"):  # by killed processes: we hold the lock
        left.unlink()
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    began = time.monotonic()
    try:
        found, size = _copy(file.url, beside)
        if (found, size) != (file.sha256, file.size_bytes):
            raise StorageError(
                f"{file.url} is not what the job was started with: {size:,} bytes instead of "
                f"{file.size_bytes:,}, SHA-256 {found[:12]} instead of {file.sha256[:12]}; run the task "
                "again.",
                may_pass=True,
            )
        beside.replace(target)
    except OSError as error:
        raise storage.failure(f"download to {target.parent}", file.url, error) from error
    finally:
        beside.unlink(missing_ok=True)
    log.info("downloaded %s (%d MB) in %.1f s", file.url, size >> 20, time.monotonic() - began)


def _copy(url: str, target: Path) -> tuple[str, int]:
    """Download in chunks; returns the SHA-256 and the size of what came."""
    fs, path = storage.filesystem(url)
    digest, size = hashlib.sha256(), 0
    with (
        fs.open(path, "rb", block_size=CHUNK_BYTES, cache_type="readahead") as source,
        target.open("xb") as stream,
    ):
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            size += stream.write(chunk)
    return digest.hexdigest(), size


@contextmanager
def _locked(target: Path, kind: int) -> Iterator[Path]:
    """Hold the lock of an entry; yields the lock file. It dies with the process."""
    lock = _lock_of(target)
    while True:
        with lock.open("a") as held:
            fcntl.flock(held, kind)
            if _is_same(lock, held.fileno()):  # else it was evicted while we waited
                yield lock
                return


def _remove(target: Path) -> bool:
    """Remove an entry unless it is in use."""
    try:
        with _locked(target, fcntl.LOCK_EX | fcntl.LOCK_NB) as note:
            for left in target.parent.glob(f".{target.name}.*"):
                left.unlink()
            target.unlink(missing_ok=True)
            note.unlink()
    except BlockingIOError:
        return False
    return True


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _is_verified(target: Path, file: SharedFile, note: Path) -> bool:
    """Whether the file is still the one whose hash was verified."""
    try:
        is_same = note.read_text() == _identity(target)
    except FileNotFoundError:
        return False
    return is_same and target.stat().st_size == file.size_bytes


def _identity(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_ino} {found.st_mtime_ns}"


def _hash_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _lock_of(target: Path) -> Path:
    return target.with_name(target.name + LOCK)


def _last_use(lock: Path) -> float:
    try:
        return lock.stat().st_mtime
    except FileNotFoundError:
        return 0.0
