"""Downloads of single large files: resumed after any fault, checked, and kept beside the tables.

One process downloads a file at a time; others wait for it (a lock that dies with its process) and then
find it kept. What has arrived lies in a part file, and what it is a part of stands beside it.
"""

import fcntl
import hashlib
import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from sightline import storage
from sightline.catalog import Catalog
from sightline.errors import ResourceError, SourceError
from sightline.settings import load_settings
from sightline.sources.archives import kind_of
from sightline.sources.retry_after import parse_retry_after

log = logging.getLogger(__name__)

# A mirror: a URL, or a function that gives a fresh (signed) one for each try.
Mirror = str | Callable[[], str]
CHUNK_BYTES = 2**20
LOG_SECONDS = 5.0
SPARE_BYTES = 64 * 2**20  # left free on the disk
ARCHIVES = (".zip", ".tar", ".gz", ".tgz")


@dataclass(frozen=True)
class Patience:
    """How long to try one mirror: tries in a row that bring nothing new, and waits in seconds."""

    attempts: int = 6
    wait_seconds: float = 1.0  # after the first; doubled after each further one
    longest_wait_seconds: float = 120.0
    connect_seconds: float = 10.0
    read_seconds: float = 60.0  # of silence


@dataclass(frozen=True)
class Wanted:
    """A file by the name that it is kept under, the mirrors that have it, or the user's own copy."""

    name: str
    mirrors: Sequence[Mirror] = ()
    file: str | None = None
    md5: str | None = None
    sha256: str | None = None

    @property
    def checksums(self) -> dict[str, str]:
        """The given checksums by algorithm."""
        given = {"md5": self.md5, "sha256": self.sha256}
        return {name: value for name, value in given.items() if value}


class MirrorFailed(Exception):
    """A mirror does not have the file, for good."""


class MirrorBusy(Exception):
    """A mirror may have the file at another time; `wait_seconds` is what it asks for."""

    def __init__(self, message: str, wait_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


def keep(wanted: Wanted, catalog: Catalog, patience: Patience | None = None) -> str:
    """Where the file lies: the user's own copy, or below <root>/source, downloaded once and checked.

    SourceError where no mirror has it, ResourceError where it does not fit, ConnectionError where
    another try may succeed.
    """
    if wanted.file is not None:
        return _own_file(wanted, catalog)
    kept = storage.join(catalog.root, "source", wanted.name)
    folder = load_settings().state / "downloads" / catalog.dataset
    if _is_kept(wanted, kept):
        return kept
    with _alone(folder / f"{wanted.name}.lock"):
        if not _is_kept(wanted, kept):
            part = folder / f"{wanted.name}.part"
            download(wanted, part, patience or Patience())
            _store(part, kept)
            size_bytes = storage.filesystem(kept)[0].size(storage.filesystem(kept)[1])
            storage.write_json(f"{kept}.json", {"size_bytes": size_bytes, **wanted.checksums})
    return kept


def size_of(wanted: Wanted, catalog: Catalog, patience: Patience | None = None) -> int | None:
    """Bytes of the file, None where no mirror tells; SourceError where it is nowhere to be had."""
    if wanted.file is not None:
        return _stamp(wanted.file)[0]
    kept = storage.join(catalog.root, "source", wanted.name)
    if _is_kept(wanted, kept):
        return int(storage.read_json(f"{kept}.json")["size_bytes"])
    patience = patience or Patience(attempts=2)
    size: int | None = _first_of(wanted, lambda mirror: _ask_size(mirror, patience))
    return size


def download(wanted: Wanted, part: Path, patience: Patience) -> None:
    """Bring the whole, checked file to `part`, from the first mirror that has it."""
    part.parent.mkdir(parents=True, exist_ok=True)

    def attempt(mirror: Mirror) -> None:
        _download_from(mirror, part, patience)
        _check(wanted, part, mirror)

    _first_of(wanted, attempt)


def shown(url: str) -> str:
    """A URL for people: without its query, which may hold a signature, and without a login."""
    pieces = urlsplit(url)
    return f"{pieces.scheme}://{pieces.hostname}{pieces.path}"


def _first_of(wanted: Wanted, attempt: Callable[[Mirror], Any]) -> Any:
    """What the first mirror gives that does not fail."""
    problems, is_hopeless = list[str](), True
    for mirror in wanted.mirrors:
        try:
            return attempt(mirror)
        except MirrorBusy as problem:
            is_hopeless = False
            problems.append(str(problem))
        except MirrorFailed as problem:
            problems.append(str(problem))
        log.warning("%s: %s", wanted.name, problems[-1])
    told = "; ".join(problems)
    if is_hopeless:
        way_out = "get the file by hand and name it in source.file, or add a mirror to source.urls"
        raise SourceError(f"{wanted.name} cannot be downloaded ({told}); {way_out}.")
    raise ConnectionError(f"{wanted.name} could not be downloaded in all tries ({told}).")


# --- one mirror --------------------------------------------------------------------------------------


def _download_from(mirror: Mirror, part: Path, patience: Patience) -> None:
    """Try until the part is whole, or until several tries in a row brought nothing new."""
    fruitless, most = 0, 0
    while True:
        try:
            return _try_once(mirror, part, patience)
        except (requests.RequestException, urllib3.exceptions.HTTPError, MirrorBusy) as problem:
            size = _size(part)
            fruitless = 0 if size > most else fruitless + 1
            most = max(most, size)
            asked = problem.wait_seconds if isinstance(problem, MirrorBusy) else 0.0
            if fruitless >= patience.attempts or asked > patience.longest_wait_seconds:
                raise MirrorBusy(_told(problem)) from problem
            wait = max(
                asked, min(patience.wait_seconds * 2**fruitless, 60) * random.uniform(0.5, 1)
            )
            log.info("%s; trying again in %.1f s from byte %d", _told(problem), wait, size)
            time.sleep(wait)


def _try_once(mirror: Mirror, part: Path, patience: Patience) -> None:
    """One request for what is missing; MirrorBusy where it does not bring all of that."""
    known = _read_state(part)
    start = _size(part) if known.get("validator") else 0
    if known.get("size_bytes") == start > 0:
        return
    headers = {"Range": f"bytes={start}-", "If-Range": known["validator"]} if start else {}
    with _asked(mirror, headers, patience) as (response, url):
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            raise MirrorBusy(f"{url} has no byte {start}: starting anew")
        if response.status_code == 206 and not _continues(response, start, known):
            part.unlink(missing_ok=True)
            raise MirrorBusy(f"{url} has changed since the last try: starting anew")
        start = start if response.status_code == 206 else 0
        if start == 0:
            known = _begin(part, response)
        _check_space(part, known["size_bytes"], start)
        _receive(response, part, start, known["size_bytes"])
    size = _size(part)
    if known["size_bytes"] is not None and size != known["size_bytes"]:
        if size > known["size_bytes"]:
            part.unlink()
        raise MirrorBusy(f"{url} ended after {size} of {known['size_bytes']} bytes")
    storage.write_json(_state_path(part), {**known, "size_bytes": size, "validator": "whole"})


@contextmanager
def _asked(
    mirror: Mirror, headers: dict[str, str], patience: Patience
) -> Iterator[tuple[requests.Response, str]]:
    """A mirror's good answer and its URL for people; MirrorBusy or MirrorFailed otherwise."""
    address = mirror if isinstance(mirror, str) else mirror()
    timeout = (patience.connect_seconds, patience.read_seconds)
    headers = {"Accept-Encoding": "identity", "User-Agent": "sightline", **headers}
    with requests.get(address, headers=headers, timeout=timeout, stream=True) as response:
        url, status = shown(response.url), response.status_code
        has_expired = status in (400, 401, 403) and callable(mirror)  # the next try signs anew
        if status in (408, 425, 429) or status >= 500 or has_expired:
            wait_seconds = parse_retry_after(response.headers.get("Retry-After")) or 0.0
            raise MirrorBusy(f"{url} answered {status}", wait_seconds)
        if status not in (200, 206, 416):
            raise MirrorFailed(f"{url} answered {status}")
        yield response, url


def _ask_size(mirror: Mirror, patience: Patience) -> int | None:
    for left in reversed(range(patience.attempts)):
        try:
            with _asked(mirror, {}, patience) as (response, url):
                if response.headers.get("Content-Type", "").startswith("text/html"):
                    raise MirrorFailed(f"{url} is a web page")
                return _length(response)
        except (requests.RequestException, MirrorBusy) as problem:
            if not left:
                raise MirrorBusy(_told(problem)) from problem
            time.sleep(patience.wait_seconds)
    return None


def _continues(response: requests.Response, start: int, known: dict[str, Any]) -> bool:
    """Whether the answer goes on where the part ends, in the same object."""
    expected = f"bytes {start}-"
    declared = response.headers.get("Content-Range", "")
    whole = declared.rpartition("/")[2]
    same_size = whole == "*" or known["size_bytes"] is None or whole == str(known["size_bytes"])
    same_object = _validator(response) in (None, known["validator"])
    return declared.startswith(expected) and same_size and same_object


def _begin(part: Path, response: requests.Response) -> dict[str, Any]:
    """An empty part, and beside it what it is to become."""
    part.write_bytes(b"")
    known = {"validator": _validator(response), "size_bytes": _length(response)}
    storage.write_json(_state_path(part), known)
    return known


def _receive(response: requests.Response, part: Path, start: int, size: int | None) -> None:
    """Append the body as it comes; raw, as some servers declare a .tar.gz to be compressed on the way."""
    began = logged = time.monotonic()
    done = start
    with part.open("r+b") as stream:
        stream.truncate(start)
        stream.seek(start)
        for chunk in iter(lambda: response.raw.read1(CHUNK_BYTES), b""):
            stream.write(chunk)
            done += len(chunk)
            now = time.monotonic()
            if now - logged >= LOG_SECONDS:
                logged = now
                log.info(_line(part.stem, done, size, (done - start) / (now - began)))


def _line(name: str, done: int, size: int | None, per_second: float) -> str:
    """Progress: MB done, of all, a second, and the time left."""
    if size is None:
        return f"{name}: {done / 1e6:.0f} MB, {per_second / 1e6:.1f} MB a second"
    left = (size - done) / max(per_second, 1)
    rate = f"{per_second / 1e6:.1f} MB a second, {left:.0f} s left"
    return f"{name}: {done / 1e6:.0f}/{size / 1e6:.0f} MB, {rate}"


def _check_space(part: Path, size: int | None, start: int) -> None:
    free = storage.free_bytes(str(part.parent)) or 0
    missing = (size or 0) - start
    if missing + SPARE_BYTES > free:
        raise ResourceError(
            f"{part.stem} needs {missing / 1e9:.1f} GB more, {part.parent} has {free / 1e9:.1f} GB free; "
            "make room or set SIGHTLINE_STATE to another disk."
        )


def _validator(response: requests.Response) -> str | None:
    """What If-Range may be asked with: a strong ETag, or a date."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _told(problem: Exception) -> str:
    """A fault in a sentence; those of requests name URLs with their queries."""
    if isinstance(problem, MirrorBusy):
        return str(problem)
    request = getattr(problem, "request", None)
    where = shown(request.url) if request is not None and request.url else "the server"
    return f"{where} broke off ({type(problem).__name__})"


# --- the part, the kept file, the user's own ---------------------------------------------------------


def _state_path(part: Path) -> str:
    return f"{part}.json"


def _read_state(part: Path) -> dict[str, Any]:
    return storage.read_json(_state_path(part)) or {} if part.exists() else {}


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _check(wanted: Wanted, part: Path, mirror: Mirror) -> None:
    """MirrorFailed, and no part, where the file is not what was wanted."""
    where = shown(mirror) if isinstance(mirror, str) else "the server"
    with part.open("rb") as stream:
        kind = kind_of(stream.read(512))
    problem = None
    if kind == "page":
        problem = f"{where} handed out a web page"
    elif kind == "other" and wanted.name.endswith(ARCHIVES):
        problem = f"what {where} handed out is no archive"
    problem = problem or _wrong_checksum(wanted, str(part), where)
    if problem:
        part.unlink()
        raise MirrorFailed(problem)


def _wrong_checksum(wanted: Wanted, url: str, where: str) -> str | None:
    for algorithm, expected in wanted.checksums.items():
        fs, path = storage.filesystem(url)
        with fs.open(path, "rb") as stream:
            digest = hashlib.new(algorithm, usedforsecurity=False)
            while chunk := stream.read(8 * CHUNK_BYTES):
                digest.update(chunk)
        if digest.hexdigest() != expected:
            return f"{where} has {algorithm} {digest.hexdigest()}, not {expected}"
    return None


def _is_kept(wanted: Wanted, kept: str) -> bool:
    """Whether the file is there, whole, and was checked against what is asked for now."""
    record = storage.read_json(f"{kept}.json") or {}
    fs, path = storage.filesystem(kept)
    same = all(record.get(name) == value for name, value in wanted.checksums.items())
    return bool(record) and same and fs.exists(path) and fs.size(path) == record["size_bytes"]


def _store(part: Path, kept: str) -> None:
    """Move or upload the whole file; a reader sees all of it or none."""
    fs, path = storage.filesystem(kept)
    if storage.is_local(kept):
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.moving")
        shutil.move(part, beside)  # perhaps from another disk
        beside.replace(target)
    else:
        fs.put_file(str(part), path)
        part.unlink()
    Path(_state_path(part)).unlink(missing_ok=True)


def _own_file(wanted: Wanted, catalog: Catalog) -> str:
    """The user's own copy where it lies, checked once for each state that it is in."""
    url = storage.located(str(wanted.file))
    size, stamp = _stamp(url)
    if not wanted.checksums:
        return url
    marker = storage.join(catalog.root, "source", f"{wanted.name}.verified.json")
    seen = {"file": url, "size_bytes": size, "stamp": stamp, **wanted.checksums}
    if storage.read_json(marker) != seen:
        if problem := _wrong_checksum(wanted, url, url):
            raise SourceError(f"{problem}; get the file anew, or correct the checksum.")
        storage.write_json(marker, seen)
    return url


def _stamp(url: str) -> tuple[int, str]:
    """Size, and what changes when the file changes."""
    url = storage.located(url)
    fs, path = storage.filesystem(url)
    try:
        info = fs.info(path)
    except FileNotFoundError:
        raise SourceError(f"{url} does not exist; check source.file.") from None
    return int(info["size"]), str(info.get("ETag") or info.get("mtime") or "")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go of the lock of a process that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
