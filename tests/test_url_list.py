"""Lists of addresses: CSV and Parquet, whole or broken, from a disk or a web server."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sightline.catalog import open_catalog
from sightline.errors import SourceError
from sightline.source_config import UrlListSource
from sightline.sources import Access, url_list

ROWS = [
    {"url": "https://example.org/a.jpg", "label": "NA", "by": "Doe, Jane"},
    {"url": "s3://bucket/b c.jpg", "label": "dog", "by": None},
    {"url": "near/c.jpg", "label": "dog", "by": "two\nlines"},
]
CSV = 'url,ignored,label,by\r\nhttps://example.org/a.jpg,1,NA,"Doe, Jane"\r\n' \
    's3://bucket/b c.jpg,2,dog,\r\nnear/c.jpg,3,dog,"two\nlines"\r\n'  # fmt: skip


def source_of(path: Path | str, **more: Any) -> UrlListSource:
    return UrlListSource.model_validate(
        {"type": "url_list", "path": str(path), "columns": {"author": "by"}, **more}
    )


def listed(source: UrlListSource) -> list[dict[str, Any]]:
    access = Access(open_catalog("pets"), "all")
    return [row for some in url_list.list_images(source, access) for row in some]


@pytest.mark.parametrize("name", ["list.csv", "list.csv.gz", "list.parquet", "marked.csv"])
def test_every_kind_of_list_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "list.parquet":
        pq.write_table(pa.Table.from_pylist([{**row, "ignored": 1} for row in ROWS]), path)
    elif name == "list.csv.gz":
        path.write_bytes(gzip.compress(CSV.encode()))
    else:
        path.write_bytes((b"\xef\xbb\xbf" if name == "marked.csv" else b"") + CSV.encode())
    assert listed(source_of(path)) == [
        {"uri": "https://example.org/a.jpg", "label": "NA", "author": "Doe, Jane"},
        {"uri": "s3://bucket/b c.jpg", "label": "dog", "author": None},
        {"uri": f"{tmp_path}/near/c.jpg", "label": "dog", "author": "two\nlines"},
    ]


def test_a_survey_counts_the_classes(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(CSV)
    found = url_list.survey(source_of(tmp_path / "list.csv"), Access(open_catalog("pets"), "all"))
    assert found.images_by_class == {"NA": 1, "dog": 2}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"list.csv does not exist; correct the path in the dataset file\."),
        ("address,label,by\nx,y,z\n", r"list.csv cannot be read .*columns url, label, by: .*'url'"),
        (
            "url,label,by\n,cat,me\n",
            r"A row of the list in .* has no address: uri None, label 'cat'",
        ),
        ("", r"list.csv cannot be read as a table"),
        ("url,label,by\na,b\n", r"list.csv cannot be read as a table .*Expected 3 columns"),
    ],
)
def test_a_broken_list_is_refused_in_a_sentence(
    tmp_path: Path, content: str | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "list.csv").write_text(content)
    with pytest.raises(SourceError, match=sentence):
        listed(source_of(tmp_path / "list.csv"))


def test_a_rotation_that_is_no_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,label,turn\na,cat,90.0\nb,cat,left\n")
    turned = {"columns": {"rotation": "turn"}}
    with pytest.raises(SourceError, match=r"Rotation 'left' of b is no number of degrees"):
        listed(source_of(tmp_path / "list.csv", **turned))
    (tmp_path / "list.csv").write_text("url,label,turn\na,cat,90.0\nb,cat,\n")
    rows = listed(source_of(tmp_path / "list.csv", **turned))
    assert [row["rotation"] for row in rows] == [90, None]
