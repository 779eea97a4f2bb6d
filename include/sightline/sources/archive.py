"""Images in one archive, in class folders: SUN397 and the many data sets that are shared like it."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from sightline.errors import SourceError
from sightline.images import Rejected
from sightline.source_config import ArchiveSource, SplitLists
from sightline.sources import archives, downloads
from sightline.sources.access import Access, Survey, in_lists
from sightline.sources.archives import Member, Read
from sightline.sources.downloads import Wanted

log = logging.getLogger(__name__)

LIST_BYTES = 64 * 2**20  # the longest list of a split
Row = dict[str, Any]


def survey(source: ArchiveSource, access: Access) -> Survey:
    """Whether the files are there or can be had, and their size; classes are known after the listing."""
    sizes = [downloads.size_of(wanted, access.catalog) for wanted in _files(source)]
    fact = f"{source.name} is kept whole and read where it lies"
    copies = 1 if source.file else 2  # kept, and stored
    size = None if sizes[0] is None else copies * sizes[0]
    return Survey(size_bytes=size, facts=(fact,))


def list_images(source: ArchiveSource, access: Access) -> Iterator[list[Row]]:
    """Yield a row for each image of the archive; SourceError at the end where it turns out damaged."""
    yield from in_lists(row for row, _ in _rows(source, access))


def stream_images(
    source: ArchiveSource, access: Access, is_wanted: Callable[[str], bool], most_bytes: int
) -> Iterator[tuple[Row, bytes | Rejected]]:
    """Yield the wanted images' rows and bytes, at most most_bytes + 1, in one pass over the archive."""
    for row, read in _rows(source, access):
        if is_wanted(row["uri"]):
            yield row, read(most_bytes)


def _files(source: ArchiveSource) -> list[Wanted]:
    """The archive, and the archive of the lists."""
    wanted = [Wanted(source.name, source.urls, source.file, source.md5, source.sha256)]
    if lists := source.split_lists:
        wanted.append(Wanted(_last_part(lists.urls[0]), lists.urls, lists.file))
    return wanted


def _last_part(url: str) -> str:
    return url.split("?")[0].rsplit("/", 1)[-1]


def _rows(source: ArchiveSource, access: Access) -> Iterator[tuple[Row, Read]]:
    """Manifest rows of the members that lie in a class folder."""
    path, *more = [downloads.keep(wanted, access.catalog) for wanted in _files(source)]
    hints = _read_hints(source.split_lists, more[0]) if source.split_lists else {}
    counts = Counter[str]()
    for member, read in archives.walk(path):
        row = _row(source, member, hints)
        counts["listed" if row["label"] else "stray"] += 1
        counts["hinted"] += row["split_hint"] is not None
        if row["label"]:
            yield row, read
    if counts["stray"]:
        log.warning("%s: left out %d images that are in no class folder", path, counts["stray"])
    if not counts["listed"]:
        raise SourceError(
            f"{path} holds no image in a class folder below {source.skip_folders} folders; "
            "check source.skip_folders."
        )
    if hints and not counts["hinted"]:
        raise SourceError(f"No line of {more[0]} names an image of {path}; check split_lists.")


def _row(source: ArchiveSource, member: Member, hints: dict[str, str]) -> Row:
    return {
        "uri": f"archive://{source.name}/{member.name}",
        "label": "/".join(member.name.strip("/").split("/")[source.skip_folders : -1]),
        "split_hint": _hint(member.name, hints),
        "size_bytes": member.size_bytes,
        "etag": member.etag,
    }


def _hint(name: str, hints: dict[str, str]) -> str | None:
    """The split of the list that names the member by the tail of its path."""
    parts = PurePosixPath(name).parts if hints else ()
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((hints[tail] for tail in tails if tail in hints), None)


def _read_hints(lists: SplitLists, path: str) -> dict[str, str]:
    """Path below the images' folder -> train or test."""
    files = {lists.train: "train", lists.test: "test"}
    hints: dict[str, str] = {}
    found = set[str]()
    for member, read in archives.walk(path, suffixes=(".txt",)):
        name = member.name.rsplit("/", 1)[-1]
        if name in files and name not in found:
            content = read(LIST_BYTES)
            if isinstance(content, Rejected):
                raise SourceError(f"{name} in {path} cannot be read: {content.detail}.")
            found.add(name)
            lines = content.decode("utf-8", "replace").split("\n")
            hints |= {line.strip().lstrip("/"): files[name] for line in lines if line.strip()}
    if missing := sorted(set(files) - found):
        raise SourceError(f"{path} holds no {missing[0]}; check split_lists in the dataset file.")
    return hints
