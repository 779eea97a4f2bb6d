"""Traces of images outside of the tables: lines of CSV files, pictures and names in pages, downloads.

A picture in a page carries a mark, a hash of what it shows, as a parameter of its data URI; so it can be
found again without looking at it. What is taken out of a text leaves "(taken down)" in its place.
"""

import base64
import csv
import hashlib
import html
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import unquote

import pyarrow as pa

from sightline import removals, storage
from sightline.catalog import Catalog
from sightline.erasure import Doomed
from sightline.spreadsheets import bare, line_writer

TAKEN_DOWN = "(taken down)"
GREY_PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAMzMzAAAACwAAAAAAQABAAACAkQBADs="
MARKED = re.compile(r"data:image/[a-z]+;image=([0-9a-f]{64});base64,[A-Za-z0-9+/=]+")
HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{32}")  # the name of a file that storage is writing
NOTICES = re.compile(r"(<!-- notices of (\S+) -->).*?(<!-- end of notices -->)", re.DOTALL)
KEPT_WHOLE = (".zip", ".tar", ".tar.gz", ".tgz")
IN_ARCHIVES = ("archive://", "kaggle://")


def data_uri(kind: str, content: bytes, shows: str) -> str:
    """A picture inside a page; `shows` is the id of the image, or its uri where it has no id."""
    return f"data:image/{kind};image={_mark(shows)};base64,{base64.b64encode(content).decode()}"


def scrub(catalog: Catalog, doomed: Doomed) -> int:
    """Take every trace of these images out of a dataset's files; returns how many files have changed."""
    if not doomed.uris and not doomed.image_ids:
        return 0
    return sum(_scrub_file(catalog, url, doomed) for url in _files(catalog))


def _files(catalog: Catalog) -> Iterator[str]:
    """Every file of a dataset but those of its tables and of the take-downs at work."""
    fs, root = storage.filesystem(catalog.root)
    apart = [table.url for table in catalog.tables] + [catalog.take_downs]
    inside = tuple(f"{one.removeprefix(catalog.root).strip('/')}/" for one in apart)
    for path in sorted(fs.find(root)):
        below = str(path).removeprefix(root).lstrip("/")
        if not below.startswith(inside):
            yield storage.join(catalog.root, below)


def _scrub_file(catalog: Catalog, url: str, doomed: Doomed) -> bool:
    """Whether the file has changed, or was removed."""
    if url.startswith(f"{catalog.source}/") and _is_source_of(url, doomed):
        return _remove(url)
    if HALF_WRITTEN.fullmatch(url.rsplit("/", 1)[-1]):
        content = storage.read_bytes(url)
        texts = doomed.image_ids | doomed.uris
        return any(text.encode() in content for text in texts) and _remove(url)
    for suffix, clean in CLEANING.items():
        if url.endswith(suffix):
            return clean(url, doomed)
    return False


def _is_source_of(url: str, doomed: Doomed) -> bool:
    """Whether a kept file is one of the images, or a whole download that holds some of them."""
    if url in doomed.uris or f"file://{url}" in doomed.uris:
        return True
    return url.endswith(KEPT_WHOLE) and any(uri.startswith(IN_ARCHIVES) for uri in doomed.uris)


def _clean_csv(url: str, doomed: Doomed) -> bool:
    """Without the lines that name one of them; the file is written again only where there are any."""
    texts = doomed.image_ids | doomed.uris

    def is_ours(line: list[str]) -> bool:
        return any(bare(cell) in texts for cell in line)

    if not any(is_ours(line) for line in _lines(url)):
        return False
    with storage.writing(url) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        line_writer(text).writerows(line for line in _lines(url) if not is_ours(line))
        text.flush()
        text.detach()
    return True


def _lines(url: str) -> Iterator[list[str]]:
    fs, path = storage.filesystem(url)
    with (
        fs.open(path, "rb") as stream,
        io.TextIOWrapper(stream, encoding="utf-8", newline="") as text,
    ):
        yield from csv.reader(text)


def _clean_page(url: str, doomed: Doomed) -> bool:
    marks = {_mark(one) for one in doomed.image_ids | doomed.uris}
    names = {one for uri in doomed.uris for one in _file_names(uri)}

    def clean(page: str) -> str:
        page = MARKED.sub(lambda found: GREY_PIXEL if found[1] in marks else found[0], page)
        return _redacted(_redacted(page, doomed.image_ids | doomed.uris), names, r"(?<![\w.-])")

    return _rewrite(url, clean)


def _clean_text(url: str, doomed: Doomed) -> bool:
    return _rewrite(url, lambda text: _redacted(text, doomed.image_ids | doomed.uris))


def _clean_work(url: str, doomed: Doomed) -> bool:
    """Work of a job that was killed; a job that runs is tried again without it."""
    columns = ["image_id", "uri"]
    try:
        is_ours = removals.count_unwanted(url, columns, doomed.mask) > 0
    except (pa.ArrowInvalid, OSError):
        is_ours = True
    return is_ours and _remove(url)


CLEANING: dict[str, Callable[[str, Doomed], bool]] = {
    ".csv": _clean_csv,
    ".html": _clean_page,
    ".json": _clean_text,
    ".txt": _clean_text,
    ".parquet": _clean_work,
}


def _rewrite(url: str, change: Callable[[str], str]) -> bool:
    before = storage.read_bytes(url).decode()
    after = change(before)
    if after != before:
        storage.write_bytes(url, after.encode())
    return after != before


def _redacted(text: str, strangers: Iterable[str], before: str = "") -> str:
    """A text without these ids, uris or names, however they are escaped; one may begin another one, which
    stays. `before` is a pattern for what may stand in front."""
    for one in strangers:
        for spelled in _spellings(one):
            if spelled in text:
                text = re.sub(rf"{before}{re.escape(spelled)}(?![\w/%-])", TAKEN_DOWN, text)
    return text


def _spellings(text: str) -> set[str]:
    quoted = json.dumps(text)[1:-1]
    escaped = {html.escape(one) for one in (text, quoted)}
    numbered = {one.replace("&quot;", "&#34;").replace("&#x27;", "&#39;") for one in escaped}
    return {text, quoted, *escaped, *numbered}


def _file_names(uri: str) -> set[str]:
    """How a page may call an image by the last part of its uri."""
    last = re.split("[?#]", uri, maxsplit=1)[0].rstrip("/").rsplit("/", 1)[-1]
    return {last, unquote(last)} - {""}


def _mark(shows: str) -> str:
    return hashlib.sha256(f"shows/{shows}".encode()).hexdigest()


def _remove(url: str) -> bool:
    fs, path = storage.filesystem(url)
    fs.rm_file(path)
    return True


def post_notices(catalog: Catalog, sentences: dict[str, list[str]]) -> None:
    """Put these sentences on top of the pages of these models, in place of those that stand there."""
    for name in storage.list_names(catalog.reports):
        if name.endswith(".html"):
            _rewrite(
                storage.join(catalog.reports, name), lambda page: _with_notices(page, sentences)
            )


def _with_notices(page: str, sentences: dict[str, list[str]]) -> str:
    def noticed(found: re.Match[str]) -> str:
        if found[2] not in sentences:
            return found[0]
        lines = "".join(
            f'<p class="notice">{html.escape(one)}</p>\n' for one in sentences[found[2]]
        )
        return f"{found[1]}\n{lines}{found[3]}"

    return NOTICES.sub(noticed, page)
