"""Images as <path>/<class>/<file>, on a local disk or wherever fsspec reaches: s3://, http://, ..."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.core import url_to_fs

from sightline import storage
from sightline.errors import SourceError
from sightline.source_config import FolderSource
from sightline.sources.access import Access, Survey, in_lists

log = logging.getLogger(__name__)

NOT_IMAGES = ("thumbs.db", "desktop.ini")  # what file managers leave behind; dot files too


def survey(source: FolderSource, access: Access) -> Survey:
    """Count the files of each class."""
    images_by_class: Counter[str] = Counter()
    size_bytes: int | None = 0
    for row in _walk(source):
        images_by_class[row["label"]] += 1
        known = size_bytes is not None and row["size_bytes"] is not None
        size_bytes = size_bytes + row["size_bytes"] if known else None
    return Survey(dict(images_by_class), size_bytes=size_bytes)


def list_images(source: FolderSource, access: Access) -> Iterator[list[dict[str, Any]]]:
    """Yield a row for each file."""
    yield from in_lists(_walk(source))


def _walk(source: FolderSource) -> Iterator[dict[str, Any]]:
    """Every file below a class folder, in a fixed order, as a manifest row."""
    path = storage.located(source.path)
    left_out = Counter[str]()
    try:
        fs, root = _open_folder(path, source)
        for top in _entries(fs, root, left_out):
            if top["type"] != "directory":
                left_out["files that are in no class folder"] += 1
                continue
            for info in _files(fs, top["name"], left_out, set()):
                yield _row(fs, info, _name(top))
    except SourceError:
        raise
    except Exception as error:  # each file system raises its own: OSError, botocore's, aiohttp's
        problem = getattr(error, "strerror", None) or f"{error}" or type(error).__name__
        raise SourceError(
            f"Cannot list {path}: {' '.join(problem.split())[:200].rstrip('.')}; check source.path, "
            "source.options, and that this machine may read there."
        ) from error
    for what, count in left_out.items():
        log.warning("%s: left out %d %s", path, count, what)


def _open_folder(path: str, source: FolderSource) -> tuple[Any, str]:
    """The file system and the folder in it; SourceError where there is no such folder."""
    if storage.is_local(path):
        fs, root = fsspec.filesystem("file"), path
    else:
        fs, root = url_to_fs(path, **source.options)
    fs.invalidate_cache()  # an earlier listing in this process may be out of date
    root = root.rstrip("/")
    way_out = f"put photos into {source.path.rstrip('/')}/<class>/ or change source.path."
    try:
        listed = fs.ls(root, detail=True)
    except FileNotFoundError:
        raise SourceError(f"Folder {path} does not exist; {way_out}") from None
    if [info["name"] for info in listed if info["type"] == "file"] == [root]:
        raise SourceError(f"{path} is a file, not a folder; {way_out}")
    if not listed and not fs.isdir(root):
        raise SourceError(f"{path} shows no list of files; {way_out}")  # a web page
    return fs, root


def _files(
    fs: Any, folder: str, left_out: Counter[str], seen: set[str]
) -> Iterator[dict[str, Any]]:
    """The files below a folder; a folder that links lead to again is walked once."""
    place = str(Path(folder).resolve()) if _is_local(fs) else folder
    if place in seen:
        return
    seen.add(place)
    for info in _entries(fs, folder, left_out):
        if info["type"] == "directory":
            yield from _files(fs, info["name"], left_out, seen)
        else:
            yield info


def _entries(fs: Any, folder: str, left_out: Counter[str]) -> list[dict[str, Any]]:
    """What lies in a folder and may concern us, by name."""
    found = []
    for info in fs.ls(folder, detail=True):
        name = _name(info)
        if info["name"].rstrip("/") == folder.rstrip("/"):
            continue  # S3's marker of an empty folder
        if _is_web(info) and set("?#") & set(info["name"][len(folder) :]):
            continue  # a link of a web index that sorts it
        if name.startswith(".") or name.lower() in NOT_IMAGES:
            continue
        if not _is_text(name):
            left_out["files or folders whose names are not UTF-8"] += 1
            continue
        info = _followed(fs, info) if info.get("islink") else info
        if info["type"] == "other":
            left_out["pipes, sockets or devices"] += 1
            continue
        found.append(info)
    return sorted(found, key=lambda info: str(info["name"]))


def _followed(fs: Any, info: dict[str, Any]) -> dict[str, Any]:
    """What a link leads to, under the link's own name; a broken one stays, to be rejected as unreadable."""
    try:
        return dict(fs.info(info["name"]))
    except OSError:
        return {**info, "type": "file"}


def _row(fs: Any, info: dict[str, Any], label: str) -> dict[str, Any]:
    size = info.get("size")
    etag = info.get("ETag") or info.get("etag")
    if etag is None and info.get("mtime") is not None:
        etag = f"{size}-{info['mtime']}"
    name = info["name"]
    return {
        "uri": name if _is_local(fs) else fs.unstrip_protocol(name),
        "label": label,
        "size_bytes": size,
        "etag": etag,
    }


def _name(info: dict[str, Any]) -> str:
    """The last part of a path; a web server's are written as in a URL."""
    name = str(info["name"]).rstrip("/").rsplit("/", 1)[-1]
    return unquote(name) if _is_web(info) else name


def _is_web(info: dict[str, Any]) -> bool:
    return str(info["name"]).startswith(("http://", "https://"))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_local(fs: Any) -> bool:
    return "file" in fs.protocol
