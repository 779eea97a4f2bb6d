"""A competition's submission: the champion's answers in the sample file's own form.

Of every line of the sample all stays as it is but the answer: header, order, ids, quotes, line endings.
"""

import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from sightline import ledger, rejection, storage, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import SourceError, TrainingError
from sightline.ledger import Record
from sightline.source_config import KaggleSource
from sightline.sources import Access, kaggle

log = logging.getLogger(__name__)

SHOWN = 3  # examples in a sentence
QUOTE = '"'
# An image that is rejected as a duplicate has the answer of the one that holds its bytes.
ANSWERED = """
    SELECT m.uri, i.image_id, a.predicted FROM manifest m
    LEFT JOIN rejects r ON r.uri = m.uri AND r.reason = 'duplicate'
    LEFT JOIN images i ON i.uri = coalesce({holder}, m.uri)
    LEFT JOIN (SELECT image_id, predicted FROM answers WHERE model_version = {version}) a
        ON a.image_id = i.image_id
    WHERE m.split_hint = 'predict'
"""
COMMONEST = """
    SELECT i.label, count(*) AS images FROM images i
    JOIN splits s ON s.image_id = i.image_id AND s.split = 'train'
    WHERE i.label IS NOT NULL GROUP BY i.label ORDER BY images DESC, i.label LIMIT 1
"""


@dataclass(frozen=True)
class Line:
    """A line of the sample: all before its answer, the image's id, whether the answer is in quotes."""

    before: str
    image: str
    is_quoted: bool
    ending: str

    def filled(self, answer: str) -> str:
        """The line with another answer."""
        if self.is_quoted or any(mark in answer for mark in ',"\r\n'):
            answer = f'"{answer.replace(QUOTE, QUOTE * 2)}"'
        return f"{self.before}{answer}{self.ending}"


def submit(spec: DatasetSpec, catalog: Catalog, record: Record, version: str) -> str:
    """Write a model's submission; returns where it lies. An image that was rejected gets the commonest
    class of the train split.

    SourceError where the sample cannot be read, or asks for an image that the source does not list.
    """
    assert isinstance(spec.source, KaggleSource) and spec.source.submission  # else no such task
    listed = ledger.last_record(catalog, f"ingest_{spec.name}", "list_images")
    access = Access(catalog, listed["partition"])
    sample = kaggle.read_text(spec.source, access, spec.source.submission, "source.submission")
    header, lines = read_sample(sample, spec.source.submission)
    answers = find_answers(catalog, version, spec.source.submission, {one.image for one in lines})
    rejected = [image for image, answer in answers.items() if answer is None]
    commonest = _commonest_class(catalog) if rejected else ""
    if rejected:
        log.warning("submission: %d images were rejected (%s) and get the commonest class, %s",
                    len(rejected), ", ".join(rejected[:SHOWN]), commonest)  # fmt: skip
    url = storage.join(catalog.predicted, f"{version}-submission.csv")
    filled = (one.filled(answers[one.image] or commonest) for one in lines)
    storage.write_bytes(url, "".join([header, *filled]).encode())
    record.read(catalog.answers)
    record.counts = {"rows": len(lines), "rejected": len(rejected), "url": url}
    return url


def read_sample(text: str, name: str) -> tuple[str, list[Line]]:
    """The header as it is, and the lines; SourceError where it is no table of two columns."""
    header, *rest = io.StringIO(text, newline="").readlines() or [""]
    lines = list(_lines(rest))
    if not lines or len(_cells(header)) != 2 or any(not line.image for line in lines):
        raise SourceError(
            f"{name} is no table of an image and its class, such as Id,Category; correct "
            "source.submission."
        )
    twice = len(lines) - len({line.image for line in lines})
    if twice:
        raise SourceError(f"{name} asks for {twice} images twice; correct source.submission.")
    return header, lines


def find_answers(
    catalog: Catalog, version: str, name: str, asked: set[str]
) -> dict[str, str | None]:
    """The class of each image that is asked for by its file's name, with or without ending or folders;
    None where it was rejected."""
    found: dict[str, tuple[str, str | None]] = {}  # image: its uri and class
    statement = ANSWERED.format(version=tables.literal(version), holder=rejection.HOLDER)
    names = ("manifest", "rejects", "images", "answers")
    with tables.stream_query(**{one: getattr(catalog, one) for one in names}) as sql:
        for batch in sql(statement):
            for row in batch.to_pylist():
                if row["image_id"] and not row["predicted"]:
                    raise TrainingError(
                        f"Model {version} has no answer on {row['uri']}; run "
                        f"predict_{catalog.dataset} again."
                    )
                for image in asked & set(_names(row["uri"])):
                    other = found.setdefault(image, (row["uri"], row["predicted"]))[0]
                    _refuse_two(name, image, other, row["uri"])
    unknown = sorted(asked - set(found))
    if unknown:
        raise SourceError(
            f"{name} asks for {len(unknown)} images that the source does not list "
            f"({', '.join(unknown[:SHOWN])}); correct source.submission or source.unlabelled."
        )
    return {image: answer for image, (_, answer) in found.items()}


def _lines(rows: list[str]) -> Iterator[Line]:
    for row in rows:
        bare = row.rstrip("\r\n")
        if not bare:
            continue
        cells = _cells(bare)
        image, answer = cells if len(cells) == 2 else ("", "")
        is_quoted = bare.endswith('"')
        written = f'"{answer.replace(QUOTE, QUOTE * 2)}"' if is_quoted else answer
        yield Line(bare[: len(bare) - len(written)], image, is_quoted, row[len(bare) :])


def _cells(line: str) -> list[str]:
    return next(csv.reader([line.removeprefix("\ufeff").rstrip("\r\n")]), [])


def _names(uri: str) -> Iterator[str]:
    """What may stand for an image: the ends of its path, each with the file's ending and without."""
    parts = uri.split("/")
    for start in range(len(parts)):
        path = "/".join(parts[start:])
        yield path
        yield path.rpartition(".")[0]


def _refuse_two(name: str, image: str, one: str, other: str) -> None:
    if one != other:
        raise SourceError(
            f"{name} asks for {image}, which may be {one} or {other}; name a narrower folder in "
            "source.unlabelled."
        )


def _commonest_class(catalog: Catalog) -> str:
    with tables.query(images=catalog.images, splits=catalog.splits) as sql:
        return str(sql(COMMONEST)["label"][0].as_py())
