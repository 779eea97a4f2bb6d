"""Files wherever they lie: a thin layer over fsspec, so that a local path and an s3:// URL look alike."""

import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.core import url_to_fs

from sightline.errors import StorageError
from sightline.settings import load_settings

WRITES_AT_ONCE = 16
PARTS_AT_ONCE = 2  # of a large file
Buffer = bytes | memoryview


def is_local(url: str) -> bool:
    """Whether the URL is a path of this machine."""
    return "://" not in url or url.startswith("file://")


def located(path: str) -> str:
    """A path of a dataset file as an absolute one: local paths start at Sightline's home."""
    if not is_local(path):
        return path
    return str(load_settings().home / Path(path.removeprefix("file://")).expanduser())


def join(url: str, *parts: str) -> str:
    """Join path parts to a URL with single slashes."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def safe_name(text: str) -> str:
    """A text as a file's name; an Airflow run's id holds characters that paths should not."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system that serves a URL, and the URL's path in it."""
    # Other processes write too: a remembered listing would hide what they wrote.
    fs, path = url_to_fs(url, use_listings_cache=False)
    return fs, str(path)


def exists(url: str) -> bool:
    """Whether a file or folder is there."""
    fs, path = filesystem(url)
    return bool(fs.exists(path))


def size_bytes(url: str) -> int | None:
    """A file's size, or None where there is none."""
    fs, path = filesystem(url)
    try:
        return int(fs.size(path))
    except FileNotFoundError:
        return None


def list_names(url: str) -> list[str]:
    """Names of what lies directly in a folder, sorted; empty when there is no such folder."""
    fs, path = filesystem(url)
    if not fs.exists(path):
        return []
    return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False))


def read_bytes(url: str) -> bytes:
    """A file's bytes; FileNotFoundError where there is none."""
    fs, path = filesystem(url)
    return bytes(fs.cat_file(path))


def write_bytes(url: str, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of one."""
    fs, path = filesystem(url)
    if not is_local(url):
        fs.pipe_file(path, content)  # object stores show an object only when it is whole
        return
    with _replacing(url, Path(path)) as beside:
        beside.write_bytes(content)


def write_many(files: Iterable[tuple[str, bytes]]) -> None:
    """Write small files as `write_bytes` does, several at once: beyond a network each one waits."""
    with ThreadPoolExecutor(WRITES_AT_ONCE) as pool:
        list(pool.map(lambda file: write_bytes(*file), files))  # raises what one of them has raised


@contextmanager
def writing(url: str) -> Iterator[IO[bytes]]:
    """A stream into a file that grows with the data: it appears whole where the block ends well, else not
    at all."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "file"
        with whole.open("wb") as stream:
            yield stream
        put_file(url, whole)


def write_pieces(url: str, pieces: Iterable[Buffer]) -> None:
    """Write a large file as `write_bytes` does, one piece in memory at a time."""
    if not is_local(url):
        with writing(url) as stream:
            stream.writelines(pieces)
        return
    with _replacing(url, Path(filesystem(url)[1])) as beside, beside.open("wb") as stream:
        stream.writelines(pieces)


def put_file(url: str, source: Path) -> None:
    """Copy a file of this machine to a URL, where a reader sees the old one or the new one."""
    fs, path = filesystem(url)
    if not is_local(url):
        # By default s3fs holds ten parts of 50 MB in memory.
        parts = {"max_concurrency": PARTS_AT_ONCE} if url.startswith("s3") else {}
        fs.put_file(str(source), path, **parts)
        return
    with _replacing(url, Path(path)) as beside:
        shutil.copyfile(source, beside)


@contextmanager
def _replacing(url: str, target: Path) -> Iterator[Path]:
    """Where to write beside a local file, which is exchanged for it where the block ends well; StorageError
    names the URL."""
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        beside.replace(target)
    except OSError as error:
        with suppress(OSError):  # it may be neither there nor removable
            beside.unlink()
        raise StorageError(f"Cannot write {url}: {error.strerror or error}.") from error


def failure(what: str, url: str, error: Exception) -> StorageError:
    """What to raise where something cannot be done at a URL. An object store may answer the next time; a
    disk that is full or may not be written stays so."""
    return StorageError(f"Cannot {what} at {url}: {error}.", may_pass=not is_local(url))


def modified_at(url: str) -> datetime:
    """When a file was written."""
    fs, path = filesystem(url)
    modified: datetime = fs.modified(path)
    return modified.astimezone(UTC)


def files_below(url: str) -> dict[str, datetime]:
    """Every file below a folder, by its path in it, with when it was written; none without a folder."""
    root, found = _listed(url)
    return {
        path.removeprefix(root).lstrip("/"): written_at(entry)
        for path, entry in found.items()
        if not path.endswith("/")
    }


def folder_markers(url: str) -> dict[str, datetime]:
    """By their keys what stands for folders below one in an object store: Spark leaves such objects, empty
    and named with a slash at the end, where a job of it has failed."""
    _, found = _listed(url)
    return {path: written_at(entry) for path, entry in found.items() if path.endswith("/")}


def _listed(url: str) -> tuple[str, dict[str, dict[str, Any]]]:
    fs, root = filesystem(url)
    return root, fs.find(root, detail=True)


def written_at(entry: dict[str, Any]) -> datetime:
    """When a file was written, from its entry in a listing."""
    if "LastModified" in entry:  # s3
        return datetime.fromisoformat(str(entry["LastModified"])).astimezone(UTC)
    return datetime.fromtimestamp(entry["mtime"], UTC)


def remove_file(url: str) -> None:
    """Remove a file; nothing happens where there is none."""
    fs, path = filesystem(url)
    with suppress(FileNotFoundError):
        fs.rm_file(path)


def remove_empty_folders(url: str, before: datetime) -> None:
    """Remove folders below one that hold nothing since a moment; of an object store, what stands for them."""
    fs, root = filesystem(url)
    if not is_local(url):
        for path, made_at in folder_markers(url).items():
            if made_at < before:
                fs.rm_file(path)
        return
    for folder, _, _ in os.walk(root, topdown=False):
        with suppress(OSError):  # it is not empty, or gone
            if Path(folder).stat().st_mtime < before.timestamp():
                Path(folder).rmdir()


def read_json(url: str) -> Any:
    """A JSON file's value, or None where there is no such file."""
    try:
        return json.loads(read_bytes(url))
    except FileNotFoundError:
        return None


def write_json(url: str, value: Any) -> None:
    """Write a value as a JSON file, whole or not at all."""
    write_bytes(url, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")


def remove_tree(url: str) -> None:
    """Remove a folder and what is in it; nothing happens where there is none. StorageError where some of it
    is left: s3fs says nothing of objects that a store refuses to delete.
    """
    fs, path = filesystem(url)
    if not fs.exists(path):
        return
    fs.rm(path, recursive=True)
    if not is_local(url) and fs.exists(path):
        raise StorageError(
            f"Cannot remove all of {url}: the store keeps some of it; check its keys."
        )


@contextmanager
def temporary_folder(parent: str, name: str) -> Iterator[str]:
    """The URL of a new folder below another, removed with what is in it at the end."""
    folder = join(parent, f"{name}-{uuid.uuid4().hex}")
    try:
        yield folder
    finally:
        remove_tree(folder)


def free_bytes(url: str) -> int | None:
    """Bytes free where the URL lies, or None for a store without a bound."""
    if not is_local(url):
        return None
    folder = Path(filesystem(url)[1])
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def delta_options(url: str) -> dict[str, str]:
    """What delta-rs needs beside the URL: an object store's address and keys, from the environment."""
    if is_local(url):
        return {}
    options = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {"AWS_CONDITIONAL_PUT": "etag", "AWS_ALLOW_HTTP": "true", **options}
