"""Sources: what a folder holds, on a disk, in S3 or behind a web server, and how they say no."""

import functools
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
import pytest

from sightline import sources
from sightline.catalog import Catalog, open_catalog
from sightline.errors import SourceError
from sightline.images import Limits
from sightline.schemas import WORK
from sightline.source_config import SOURCE_SPECS, DigitsSource, FetchSpec, FolderSource
from sightline.sources import Access, digits, folder
from sightline.sources.fetching import Fetching, fetch_batches, to_batch
from tests.conftest import QuietHandler, web_server, write_photos

ODD_NAMES = ["a b.jpg", "ünï ☂.jpg", "50%.jpg", "%41.jpg", "no#1.jpg", "who?.jpg", "a+b&c=d;e'.jpg"]

Offer: TypeAlias = Callable[[Path], FolderSource]


@pytest.fixture
def pages() -> Iterator[tuple[str, dict[str, Any]]]:
    """A web server that answers with what a dict holds: a page, or a status as a number."""
    answers: dict[str, Any] = {}

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            answer = answers.get(self.path, 404)
            self.send_response(answer if isinstance(answer, int) else 200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"" if isinstance(answer, int) else answer.encode())

    with web_server(Handler) as url:
        yield url, answers


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """An S3 server of this machine's own."""
    from tests.servers.aws import aws_server  # moto takes a second

    with aws_server() as address:
        yield address


@pytest.fixture
def s3(s3_address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty bucket; the server is named by the environment, as for a user."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    fsspec.filesystem("s3").clear_instance_cache()
    bucket = "bucket-" + "".join(filter(str.isalnum, tmp_path.name.lower()))[-40:]
    fsspec.filesystem("s3").mkdir(bucket)
    yield f"s3://{bucket}"
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(params=["local", "s3", "http"])
def offer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Offer]:
    """Offers a local folder as a source: as it lies, copied into S3, or through a web server."""
    if request.param == "local":
        yield lambda path: FolderSource(type="folder", path=str(path))
    elif request.param == "s3":
        bucket = request.getfixturevalue("s3")

        def upload(path: Path) -> FolderSource:
            s3 = fsspec.filesystem("s3")
            for file in sorted(path.rglob("*")):
                if file.is_file():
                    s3.pipe_file(f"{bucket}/{file.relative_to(tmp_path)}", file.read_bytes())
            return FolderSource(type="folder", path=f"{bucket}/{path.relative_to(tmp_path)}")

        yield upload
    else:
        with web_server(functools.partial(QuietHandler, directory=tmp_path)) as url:
            yield lambda path: FolderSource(
                type="folder", path=f"{url}/{path.relative_to(tmp_path)}/"
            )


def test_the_first_folder_below_the_path_is_the_class(offer: Offer, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", {"cats/old/1999": 1, "cats": 2, "big dogs": 1})
    for stray in (".DS_Store", "cats/.hidden.jpg", "cats/Thumbs.db", "dogs/.git/x.jpg", "a.jpg"):
        (photos / stray).parent.mkdir(parents=True, exist_ok=True)
        (photos / stray).write_bytes(b"x")
    rows = listed(offer(photos))
    assert [(row["label"], name_of(row)) for row in rows] == [
        ("big dogs", "0000.jpg"),
        ("cats", "0000.jpg"),
        ("cats", "0001.jpg"),
        ("cats", "0000.jpg"),
    ]
    assert len({row["uri"] for row in rows}) == 4
    assert "/cats/old/1999/" in rows[-1]["uri"]


def test_odd_file_names_survive_from_the_list_to_the_bytes(offer: Offer, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", {"a?#%20 ü": len(ODD_NAMES)})
    contents = set()
    for name, file in zip(ODD_NAMES, sorted(photos.rglob("*.jpg")), strict=True):
        contents.add(file.read_bytes())
        file.rename(file.with_name(name))
    rows = listed(offer(photos))
    assert {row["label"] for row in rows} == {"a?#%20 ü"}
    held, rejects = fetched(rows)
    assert rejects == []
    assert {row["content"] for row in held} == contents
    assert {row["uri"] for row in held} == {row["uri"] for row in rows}


def test_names_that_are_special_to_fsspec_are_plain_names_on_a_disk(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "pho::tos", {"zip::cats": 1})
    (photos / "zip::cats" / "0000.jpg").rename(photos / "zip::cats" / "file::http:.jpg")
    held, rejects = fetched(listed(FolderSource(type="folder", path=str(photos))))
    assert ([row["label"] for row in held], rejects) == (["zip::cats"], [])


@pytest.mark.parametrize("offer", ["local", "s3"], indirect=True)
def test_rows_carry_size_and_an_etag_that_changes_with_the_bytes(
    offer: Offer, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", {"cats": 2})
    before = listed(offer(photos))
    assert [row["size_bytes"] for row in before] == sizes(photos)
    repaired = photos / "cats" / "0001.jpg"
    repaired.write_bytes(repaired.read_bytes() + b"more")
    after = listed(offer(photos))
    assert [row["size_bytes"] for row in after] == sizes(photos)
    assert after[0]["etag"] == before[0]["etag"] is not None
    assert after[1]["etag"] != before[1]["etag"]


def test_a_survey_counts_classes_and_the_bytes_where_they_are_known(
    offer: Offer, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", {"cats": 3, "dogs": 2})
    source = offer(photos)
    found = folder.survey(source, access())
    assert found.images_by_class == {"cats": 3, "dogs": 2}
    assert found.size_bytes == (None if source.path.startswith("http") else sum(sizes(photos)))


def test_a_folder_that_is_not_there_is_named_with_the_way_out(offer: Offer, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", {"cats": 1})
    source = offer(tmp_path / "photos")
    absent = source.model_copy(update={"path": source.path.rstrip("/") + "-absent"})
    assert refusal(absent) == (
        f"Folder {absent.path} does not exist; put photos into {absent.path}/<class>/ "
        "or change source.path."
    )


def test_a_file_in_the_place_of_the_folder_is_named(offer: Offer, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", {"cats": 1})
    source = offer(tmp_path / "photos")
    file = source.model_copy(update={"path": source.path.rstrip("/") + "/cats/0000.jpg"})
    what = "shows no list of files" if file.path.startswith("http") else "is a file, not a folder"
    assert refusal(file).startswith(f"{file.path} {what}; put photos into ")


def test_an_unreachable_host_is_named_in_one_sentence() -> None:
    url = f"http://127.0.0.1:{closed_port()}/photos"
    sentence = refusal(FolderSource(type="folder", path=url))
    assert sentence.startswith(f"Cannot list {url}: ")
    assert sentence.endswith(
        "; check source.path, source.options, and that this machine may read there."
    )
    assert "\n" not in sentence


def test_an_unreachable_bucket_is_named_in_one_sentence() -> None:
    options = {
        "endpoint_url": f"http://127.0.0.1:{closed_port()}",
        "anon": True,
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    source = FolderSource(type="folder", path="s3://photos-of-mine/2026", options=options)
    assert refusal(source).startswith("Cannot list s3://photos-of-mine/2026: Could not connect to ")


def test_a_bucket_that_is_not_there_is_named(s3: str) -> None:
    sentence = refusal(FolderSource(type="folder", path=f"{s3}-absent/photos"))
    assert sentence.startswith(f"Folder {s3}-absent/photos does not exist; ")


def test_a_protocol_that_nobody_knows_is_named() -> None:
    sentence = refusal(FolderSource(type="folder", path="smoke://signals/photos"))
    assert sentence.startswith("Cannot list smoke://signals/photos: Protocol not known: smoke; ")


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_class_folder_that_may_not_be_read_stops_the_listing(
    pages: tuple[str, dict[str, Any]], status: int
) -> None:
    url, answers = pages
    answers["/photos"] = '<a href="cats/">cats/</a> <a href="dogs/">dogs/</a>'
    answers["/photos/cats/"] = '<a href="1.jpg">1.jpg</a>'
    answers["/photos/dogs/"] = status
    sentence = refusal(FolderSource(type="folder", path=f"{url}/photos"))
    assert sentence.startswith(f"Cannot list {url}/photos: ") and str(status) in sentence


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_local_class_folder_that_may_not_be_read_stops_the_listing(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", {"cats": 1, "dogs": 1})
    (photos / "dogs").chmod(0)
    assert "Permission denied" in refusal(FolderSource(type="folder", path=str(photos)))


def test_links_that_sort_a_web_index_or_lead_elsewhere_are_no_images(
    pages: tuple[str, dict[str, Any]],
) -> None:
    url, answers = pages
    answers["/photos"] = '<a href="/">Parent</a> <a href="?C=N;O=D">Name</a> <a href="cats/">c</a>'
    answers["/photos/cats"] = answers["/photos/cats/"] = (
        '<a href="?C=M;O=A">Modified</a> <a href="/photos/">Parent</a> <a href="#top">Top</a>'
        '<a href="1%3F.jpg">1?.jpg</a> <a href="http://elsewhere.invalid/2.jpg">2.jpg</a>'
    )
    rows = listed(FolderSource(type="folder", path=f"{url}/photos"))
    assert [(row["label"], row["uri"]) for row in rows] == [("cats", f"{url}/photos/cats/1%3F.jpg")]


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", {"cats": 2})
    write_photos(tmp_path / "elsewhere", {"wolves/grey": 1})
    (photos / "dogs").symlink_to(tmp_path / "elsewhere" / "wolves")
    (photos / "cats" / "again").symlink_to(photos)
    (photos / "cats" / "own").symlink_to("own")
    (photos / "cats" / "two.jpg").symlink_to(photos / "cats" / "0001.jpg")
    (photos / "cats" / "gone.jpg").symlink_to("nowhere.jpg")
    rows = listed(FolderSource(type="folder", path=str(photos)))
    places = [row["uri"].removeprefix(f"{photos}/") for row in rows]
    assert "dogs/grey/0000.jpg" in places
    assert len(places) == len(set(places)) <= 20
    held, rejects = fetched([row for row in rows if "/cats/" in row["uri"][: len(str(photos)) + 6]])
    unreadable = {row["uri"].rsplit("/", 1)[-1] for row in rejects}
    assert unreadable == {"gone.jpg", "own"}
    two = next(row for row in rows if row["uri"].endswith("/two.jpg"))
    assert two["size_bytes"] == (photos / "cats" / "0001.jpg").stat().st_size


def test_pipes_and_names_that_are_no_text_are_left_out_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = write_photos(tmp_path / "photos", {"cats": 1})
    os.mkfifo(photos / "cats" / "pipe.jpg")
    (photos / "loose.jpg").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(photos) + b"/cats/caf\xe9.jpg")).write_bytes(b"x")
    rows = listed(FolderSource(type="folder", path=str(photos)))
    assert [name_of(row) for row in rows] == ["0000.jpg"]
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"{photos}: left out 1 files or folders whose names are not UTF-8",
        f"{photos}: left out 1 files that are in no class folder",
        f"{photos}: left out 1 pipes, sockets or devices",
    ]


def test_a_relative_path_is_taken_from_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path))
    write_photos(tmp_path / "photos", {"cats": 1})
    rows = listed(FolderSource(type="folder", path="photos"))
    assert [row["uri"] for row in rows] == [f"{tmp_path}/photos/cats/0000.jpg"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert listed(FolderSource(type="folder", path="~/photos")) == rows
    assert listed(FolderSource(type="folder", path=f"file://{tmp_path}/photos")) == rows


def test_what_is_new_in_a_bucket_is_seen_by_the_next_listing(s3: str) -> None:
    bucket = fsspec.filesystem("s3", skip_instance_cache=True)
    source = FolderSource(type="folder", path=s3)
    bucket.pipe_file(f"{s3}/cats/1.jpg", b"1")
    bucket.pipe_file(f"{s3}/cats/", b"")  # as consoles mark a folder
    assert [name_of(row) for row in listed(source)] == ["1.jpg"]
    bucket.pipe_file(f"{s3}/cats/2.jpg", b"2")
    assert [name_of(row) for row in listed(source)] == ["1.jpg", "2.jpg"]


def test_digits_are_counted_as_scikit_learn_has_them() -> None:
    from sklearn.datasets import load_digits

    target = list(load_digits().target)
    expected = {str(digit): target.count(digit) for digit in range(10)}
    assert digits.survey(DigitsSource(type="digits"), access()).images_by_class == expected


def test_digits_are_written_once_and_completed_after_a_kill() -> None:
    catalog = open_catalog("digits")
    first = listed(DigitsSource(type="digits"), catalog)
    surveyed = digits.survey(DigitsSource(type="digits"), access())
    assert Counter(row["label"] for row in first) == surveyed.images_by_class
    assert sum(row["size_bytes"] for row in first) <= (surveyed.size_bytes or 0)
    root = Path(catalog.root) / "source"
    written = {path: path.stat().st_mtime_ns for path in root.rglob("*.png")}
    assert listed(DigitsSource(type="digits"), catalog) == first
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.png")} == written

    (root / ".complete").unlink()  # a kill half-way leaves no mark, and some files
    contents = {path: path.read_bytes() for path in written}
    for path in sorted(written)[900:]:
        path.unlink()
    again = listed(DigitsSource(type="digits"), catalog)
    assert {row["uri"] for row in again} == {row["uri"] for row in first}
    assert {path: path.read_bytes() for path in root.rglob("*.png")} == contents


def test_every_source_of_the_registry_surveys_and_lists() -> None:
    assert set(sources.SOURCES) == set(SOURCE_SPECS)
    assert all(callable(source.survey) for source in sources.SOURCES.values())


def listed(
    source: FolderSource | DigitsSource, catalog: Catalog | None = None
) -> list[dict[str, Any]]:
    """All rows that a source lists for a dataset without a manifest."""
    module = sources.SOURCES[source.type]
    batches = module.list_images(source, access(catalog))
    return [row for rows in batches for row in rows]


def access(catalog: Catalog | None = None) -> Access:
    """What a source is given for a dataset without a manifest."""
    return Access(catalog or open_catalog("empty"), "all")


def fetched(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Image rows and reject rows of what a source has listed."""
    rejects: list[dict[str, Any]] = []
    web = FetchSpec.model_validate({"allow_addresses": ["127.0.0.1/32"]})
    fetch = fetch_batches(Fetching(Limits(2**20, 10**6), web), rejects.extend)
    batch = to_batch([{**row, "partition": "all"} for row in rows], WORK)
    return [row for held in fetch(iter([batch])) for row in held.to_pylist()], rejects


def refusal(source: FolderSource) -> str:
    """The sentence with which a source refuses."""
    with pytest.raises(SourceError) as caught:
        folder.survey(source, access())
    return str(caught.value)


def name_of(row: dict[str, Any]) -> str:
    return str(row["uri"]).rsplit("/", 1)[-1]


def sizes(photos: Path) -> list[int]:
    return [path.stat().st_size for path in sorted(photos.rglob("*.jpg"))]


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
