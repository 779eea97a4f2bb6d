"""Images of a Kaggle dataset or competition, read inside the zips that Kaggle hands out."""

import csv
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sightline import storage
from sightline.errors import SourceError
from sightline.images import Rejected
from sightline.source_config import KaggleSource
from sightline.sources import archives, downloads, kaggle_api
from sightline.sources.access import Access, Survey, in_lists
from sightline.sources.archives import Member, Read, kind_of
from sightline.sources.downloads import Wanted

log = logging.getLogger(__name__)

LABELS_BYTES = 256 * 2**20  # the longest file of labels
Row = dict[str, Any]


def survey(source: KaggleSource, access: Access) -> Survey:
    """Whether the login, the rules, the name and the version are right, and the size of the download."""
    with kaggle_api.opened(source, access) as api:
        files = api.files()
    sizes = [file.size_bytes for file in files]
    size = None if None in sizes else 2 * sum(size or 0 for size in sizes)  # kept, and stored
    names = ", ".join(file.name or file.kept_name for file in files[:5])
    return Survey(size_bytes=size, facts=(f"Kaggle offers {names}",))


def list_images(source: KaggleSource, access: Access) -> Iterator[list[Row]]:
    """Download what is not kept yet, then yield a row for each image."""
    paths = _keep(source, access)
    yield from in_lists(row for row, _ in _rows(source, access, paths))


def stream_images(
    source: KaggleSource, access: Access, is_wanted: Callable[[str], bool], most_bytes: int
) -> Iterator[tuple[Row, bytes | Rejected]]:
    """Yield the wanted images' rows and bytes, at most most_bytes + 1, from what the listing has kept: a
    Spark job needs no login.
    """
    for row, read in _rows(source, access, _kept_paths(access)):
        if is_wanted(row["uri"]):
            yield row, read(most_bytes)


def read_text(source: KaggleSource, access: Access, name: str, key: str) -> str:
    """A text file as the listing of the partition has kept it; `key` is where the dataset file names it."""
    return _find_text(name, _kept_paths(access), key)


def _keep(source: KaggleSource, access: Access) -> list[str]:
    """Where the files lie, downloaded, and noted for the task that reads them."""
    with kaggle_api.opened(source, access) as api:
        paths = [
            downloads.keep(Wanted(file.kept_name, [api.mirror(file)]), access.catalog)
            for file in api.files()
        ]
    storage.write_json(_noted(access), paths)
    return paths


def _kept_paths(access: Access) -> list[str]:
    paths: list[str] | None = storage.read_json(_noted(access))
    if paths is None:
        raise SourceError(
            f"Kaggle's files for partition {access.partition} of {access.catalog.dataset} are not kept; "
            "run the task list_images again."
        )
    return paths


def _noted(access: Access) -> str:
    return storage.join(access.catalog.root, "source", f"kaggle-{access.partition}.json")


def _rows(source: KaggleSource, access: Access, paths: list[str]) -> Iterator[tuple[Row, Read]]:
    labels = _read_labels(source, paths)
    zips = [path for path in paths if path.endswith(".zip")]
    layout = _find_layout(source, zips)
    counts = Counter[str]()
    for path in zips:
        for member, read in archives.walk(path):
            if row := layout.row(source, member):
                yield _labelled(row, labels, counts), read
    access.metrics.update(counts)
    if counts["labels_corrected"]:
        log.warning(
            "%d images: %s overrules their folder", counts["labels_corrected"], source.labels
        )


# --- folders -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """The folder in which the folders of the dataset file were found, and those, by split."""

    parent: str
    folders: dict[str, str]

    def row(self, source: KaggleSource, member: Member) -> Row | None:
        """The manifest row of a member, None where it lies elsewhere."""
        if not member.name.startswith(self.parent):
            return None
        below = member.name[len(self.parent) :]
        for split, folder in self.folders.items():
            start = f"{folder}/" if folder else ""
            if below.startswith(start):
                reference = source.dataset or f"competitions/{source.competition}"
                classes = below[len(start) :].split("/")[:-1]
                return {
                    "uri": f"kaggle://{reference}/{below.lstrip('/')}",
                    "label": classes[0] if classes and split != "predict" else None,
                    "split_hint": None if split == "any" else split,
                    "size_bytes": member.size_bytes,
                    "etag": member.etag,
                }
        return None


def _find_layout(source: KaggleSource, zips: list[str]) -> _Layout:
    """The place that has all folders, and the most images; a wrapper's name changes by version."""
    folders = {split: folder.strip("/") for split, folder in source.folders.items()}
    wanted: dict[str, str] = {str(split): folder for split, folder in folders.items()}
    if source.unlabelled:
        wanted["predict"] = source.unlabelled.strip("/")
    images: dict[str, Counter[str]] = {}
    for path in zips:
        for member, _ in archives.walk(path):
            for folder in wanted.values():
                for parent in _parents(member.name, folder):
                    images.setdefault(parent, Counter())[folder] += 1
    whole = {
        parent: found for parent, found in images.items() if set(found) >= set(wanted.values())
    }
    if not whole:
        missing = ", ".join(sorted(set(wanted.values())))
        raise SourceError(
            f"{', '.join(zips)}: no folder holds all of {missing}; check source.folders and "
            "source.unlabelled."
        )
    parent = max(whole, key=lambda one: (whole[one].total(), one))
    log.info("images found in /%s: %s; places like it: %d", parent, dict(whole[parent]), len(whole))
    return _Layout(parent, wanted)


def _parents(name: str, folder: str) -> Iterator[str]:
    """Each folder of the path, '' or 'a/b/', that holds `folder` on the way to the file."""
    if not folder:
        yield ""
        return
    parts, looked_for = name.split("/")[:-1], folder.split("/")
    for start in range(len(parts) - len(looked_for) + 1):
        if parts[start : start + len(looked_for)] == looked_for:
            yield "".join(f"{part}/" for part in parts[:start])


# --- labels ------------------------------------------------------------------------------------------


def _labelled(row: Row, labels: dict[str, str], counts: Counter[str]) -> Row:
    """The row with the label of the table, which wins over the folder's."""
    if not labels or row["split_hint"] == "predict":
        return row
    path = PurePosixPath(row["uri"])
    label = labels.get(path.name) or labels.get(path.stem)
    if label is None:
        counts["labels_missing"] += 1
        return row
    counts["labels_corrected"] += row["label"] not in (None, label)
    return {**row, "label": label}


def _read_labels(source: KaggleSource, paths: list[str]) -> dict[str, str]:
    """File name -> class, from the first two columns; empty where the dataset file names no table."""
    if source.labels is None:
        return {}
    text = _find_text(source.labels, paths, "source.labels")
    rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))[1:]
    if not rows or any(len(row) < 2 for row in rows if row):
        raise SourceError(f"{source.labels} is no table of Id,Category; correct source.labels.")
    return {row[0]: row[1] for row in rows if row}


def _find_text(name: str, paths: list[str], key: str) -> str:
    """A text file that lies beside the archives or in one; Kaggle zips some on the way."""
    plain = name.rsplit("/", 1)[-1]
    for path in paths:
        is_it = path.endswith(f"-{name.replace('/', '-')}")
        if is_it and kind_of(storage.read_bytes(path)[:512]) != "zip":
            return storage.read_bytes(path).decode("utf-8", "replace")
        if is_it or path.endswith(".zip"):
            for member, read in archives.walk(path, suffixes=(plain.lower(),)):
                if member.name.rsplit("/", 1)[-1] == plain:
                    content = read(LABELS_BYTES)
                    if isinstance(content, bytes):
                        return content.decode("utf-8", "replace")
    raise SourceError(f"Kaggle offers no {name}; correct {key} in the dataset file.")
