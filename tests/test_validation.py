"""Validation: bad rows are counted and named, good ones pass, and Data Docs show both without a network."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sightline import storage, tables, validation
from sightline.catalog import Catalog
from sightline.config import LimitsSpec, dataset_files
from sightline.errors import CheckFailed, ConfigError
from sightline.ledger import TaskRun
from sightline.settings import load_settings
from sightline.tables import Table, Writer
from sightline.validation import data_docs, frames
from sightline.validation.checking import Finding, import_great_expectations
from sightline.validation.suites import Check, load_suite

LIMITS = LimitsSpec(rejected_share=0.1)
NIGHT = "2026-11-05"
BACKBONE = "resnet18/random:0 64px"
DIMENSION = 3
NOW = datetime(2026, 11, 6, tzinfo=UTC)

Row = dict[str, Any]


def task_of(partition: str) -> TaskRun:
    """A validation of a partition."""
    return TaskRun("ingest_pets", "run-1", "validate", partition)


TONIGHT = task_of(NIGHT)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A dataset without tables."""
    return Catalog("pets", str(tmp_path / "pets"))


@pytest.fixture
def own_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the suites, in use instead of the repository's."""
    folder = tmp_path / "home" / "include" / "expectations"
    shutil.copytree(load_settings().home / "include" / "expectations", folder)
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    return folder


def listed(name: str, **changes: Any) -> Row:
    """A row of the manifest."""
    return {"uri": f"/photos/{name}", "label": "cat", "partition": NIGHT, **changes}


def held(name: str, **changes: Any) -> Row:
    """A row of images."""
    digits = name.encode().hex().rjust(64, "0")
    good = {"image_id": digits, "uri": f"/photos/{name}", "label": "cat", "content": b"bytes",
            "size_bytes": 5, "format": "JPEG", "height": 8, "width": 8, "n_channels": 3,
            "mode": "RGB", "exif_orientation": 1, "rotation": 0, "phash": digits[-16:],
            "partition": NIGHT}  # fmt: skip
    return {**good, **changes}


def rejected(name: str, reason: str = "corrupt", **changes: Any) -> Row:
    """A row of rejects."""
    row = {
        "uri": f"/photos/{name}",
        "stage": "fetch_images",
        "reason": reason,
        "attempts": 1,
        "rejected_at": NOW,
    }
    return {**row, "partition": NIGHT, **changes}


def embedded(name: str, embedding: list[float], backbone: str = BACKBONE) -> Row:
    """A row of features."""
    return {"image_id": held(name)["image_id"], "backbone_id": backbone, "embedding": embedding}


def fill(table: Table, rows: list[Row]) -> None:
    """Give a table these rows, in as many partitions as they name."""
    assert table.partition_by is not None
    for partition in {row[table.partition_by] for row in rows}:
        mine = [row for row in rows if row[table.partition_by] == partition]
        columns = {name: [row.get(name) for row in mine] for name in table.schema.names}
        batch = pa.RecordBatch.from_pydict(columns, schema=table.schema)
        claim = tables.claim(table, Writer(f"test:{partition}"))
        tables.replace_partition(table, tables.write_batches(table, [batch]), partition, claim)


def refusal(validate: Callable[..., Any], *arguments: Any) -> str:
    """What a validation says when it fails."""
    with pytest.raises(CheckFailed) as caught:
        validate(*arguments)
    return str(caught.value)


def broken(said: str) -> dict[tuple[str, str], tuple[str, set[str]]]:
    """What a refusal tells of each check: by column and words, how many rows, and the examples."""
    sentence = r"Columns? (.+?): (\S+ of \S+ rows.*?) break '(.+?)', for example (.+?)\.(?= [CD])"
    return {
        (column, because): (count, set(examples.split(", ")))
        for column, count, because, examples in re.findall(sentence, said)
    }


def test_a_good_manifest_passes_and_leaves_a_page(catalog: Catalog) -> None:
    full = listed("a", split_hint="train", rotation=270, size_bytes=0)
    fill(catalog.manifest, [full, listed("b")])
    outcome = validation.validate_manifest(catalog, TONIGHT, LIMITS)
    assert (outcome.rows, outcome.checks) == (2, 8)
    assert Path(outcome.page).is_file()
    assert Path(outcome.page).is_relative_to(catalog.checks)


def test_each_broken_row_of_a_manifest_is_counted_and_named(catalog: Catalog) -> None:
    rows = [
        listed("good"),
        listed("twice"),
        listed("twice"),
        listed("bell\a"),
        listed("no-label", label=None),
        listed("blank", label=" \t"),
        listed("holdout", split_hint="holdout"),
        *(listed(f"tilted-{degrees}", rotation=degrees) for degrees in (1, 2, 3, 4)),
        listed("minus", size_bytes=-1),
    ]
    fill(catalog.manifest, rows)
    said = refusal(validation.validate_manifest, catalog, TONIGHT, LIMITS)
    assert said.startswith(
        f"Dataset pets, partition {NIGHT}: table manifest fails 7 checks. Column uri: 2 of 12 rows "
        "break 'a uri is listed once', for example /photos/twice, /photos/twice. Column uri: "
    )
    assert broken(said) == {
        ("uri", "a uri is listed once"): ("2 of 12 rows", {"/photos/twice"}),
        ("uri", "a uri has no control characters"): ("1 of 12 rows", {r"'/photos/bell\x07'"}),
        ("label", "every image has a label"): ("1 of 12 rows", {"/photos/no-label"}),
        ("label", "a label is not blank"): ("1 of 12 rows", {"/photos/blank"}),
        ("split_hint", "a split that the source declares is train, val, test or predict"): (
            "1 of 12 rows",
            {"/photos/holdout"},
        ),
        ("rotation", "a rotation that the source declares is 0, 90, 180 or 270 degrees"): (
            "4 of 12 rows",
            {"/photos/tilted-1", "/photos/tilted-2", "/photos/tilted-3"},
        ),
        ("size_bytes", "a size that the source declares is 0 bytes or more"): (
            "1 of 12 rows",
            {"/photos/minus"},
        ),
    }
    page = said.rpartition("Data Docs: ")[2]
    assert "tilted-4" in Path(page).read_text(encoding="utf-8")


def test_a_night_without_images_passes_and_says_so(
    catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    fill(catalog.manifest, [listed("bad", label=None, partition="2026-11-04")])
    with caplog.at_level("INFO", logger="sightline"):
        assert validation.validate_manifest(catalog, TONIGHT, LIMITS).rows == 0
    assert "on 0 rows, there being none" in caplog.text
    assert validation.validate_images(catalog, TONIGHT, LIMITS).rows == 0
    assert validation.validate_features(catalog, TONIGHT, BACKBONE, DIMENSION, LIMITS).rows == 0


def test_an_image_in_neither_table_or_in_both_is_named(catalog: Catalog) -> None:
    fill(catalog.manifest, [listed(name) for name in ("a", "lost", "both")])
    fill(catalog.images, [held("a"), held("both")])
    fill(catalog.rejects, [rejected("both")])
    said = refusal(validation.validate_images, catalog, TONIGHT, LimitsSpec(rejected_share=1))
    assert broken(said) == {
        ("outcome", "every image of the manifest is held or rejected"): (
            "1 of 3 rows",
            {"/photos/lost"},
        ),
        ("outcome", "no image is both held and rejected"): ("1 of 3 rows", {"/photos/both"}),
    }


def test_an_image_that_another_night_rejected_and_this_one_took_is_in_order(
    catalog: Catalog,
) -> None:
    fill(catalog.manifest, [listed("late"), listed("final")])
    fill(catalog.images, [held("late")])
    earlier = [
        rejected("late", "unreadable", partition="2026-11-04"),
        rejected("final", partition="2026-11-04"),
    ]
    fill(catalog.rejects, earlier)
    assert validation.validate_images(catalog, TONIGHT, LimitsSpec(rejected_share=0.5)).rows == 2


@pytest.mark.parametrize(("corrupt", "passes"), [(1, True), (2, False)])
def test_the_failure_budget_counts_rejects_but_no_duplicates(
    catalog: Catalog, corrupt: int, passes: bool
) -> None:
    names = [f"{number:02d}" for number in range(10)]
    fill(catalog.manifest, [listed(name) for name in names])
    bad, double, good = names[:corrupt], names[corrupt:5], names[5:]
    fill(catalog.rejects, [rejected(name) for name in bad]
         + [rejected(name, "duplicate") for name in double[1:]]
         + [rejected(name, "conflict") for name in double[:1]])  # fmt: skip
    fill(catalog.images, [held(name) for name in good])
    if passes:
        assert validation.validate_images(catalog, TONIGHT, LIMITS).rows == 10
    else:
        said = refusal(validation.validate_images, catalog, TONIGHT, LIMITS)
        assert broken(said) == {
            ("outcome", "an image is taken, or was held already"): (
                "2 of 10 rows (20.0%, where 10.0% may)",
                {"/photos/00", "/photos/01"},
            )
        }


def test_each_broken_column_of_images_is_named(catalog: Catalog) -> None:
    wrong: dict[str, Any] = {"image_id": "abc", "size_bytes": 0, "format": "TIFF", "height": 0,
                              "width": -1, "n_channels": 0, "exif_orientation": 9,
                              "phash": "0123456789abcdeg"}  # fmt: skip
    rows = [held(name, **{name: value}) for name, value in wrong.items()]
    rows += [held("one", image_id="f" * 64), held("same", image_id="f" * 64)]
    fill(catalog.images, rows)
    fill(catalog.manifest, [listed(row["uri"].rpartition("/")[2]) for row in rows])
    said = refusal(validation.validate_images, catalog, TONIGHT, LIMITS)
    found = broken(said)
    assert found.pop(("image_id", "an image is held once")) == (
        "2 of 10 rows",
        {"/photos/one", "/photos/same"},
    )
    assert {column: told for (column, _), told in found.items()} == {
        column: ("1 of 10 rows", {f"/photos/{column}"}) for column in wrong
    }


def test_sound_embeddings_pass(catalog: Catalog) -> None:
    fill(catalog.images, [held("a"), held("b"), held("later", partition="2026-11-06")])
    sound = [embedded("a", [1, 2, 3]), embedded("b", [-1, 0, 1])]
    fill(catalog.features, [*sound, embedded("a", [float("nan")], "another backbone")])
    outcome = validation.validate_features(catalog, TONIGHT, BACKBONE, DIMENSION, LIMITS)
    assert (outcome.rows, outcome.checks) == (2, 5)


def test_each_broken_embedding_is_named(catalog: Catalog) -> None:
    names = ["none", "two", "good", "narrow", "empty", "nan", "infinite", "zero", "constant"]
    fill(catalog.images, [held(name) for name in names])
    nan, infinity = float("nan"), float("inf")
    features = {"two": [1, 2, 3], "good": [1, 2, 3], "narrow": [1, 2], "empty": [],
                "nan": [1, nan, 3], "infinite": [-infinity, 2, 3], "zero": [0, 0, 0],
                "constant": [0.5, 0.5, 0.5]}  # fmt: skip
    rows = [embedded(name, embedding) for name, embedding in features.items()]
    fill(catalog.features, [*rows, embedded("two", [4, 5, 6])])
    said = refusal(validation.validate_features, catalog, TONIGHT, BACKBONE, DIMENSION, LIMITS)

    def ids(*of: str) -> set[str]:
        return {str(held(name)["image_id"]) for name in of}

    assert broken(said) == {
        ("embeddings", "an image has one embedding of the backbone"): (
            "2 of 9 rows",
            {"/photos/none", "/photos/two"},
        ),
        ("dimension", "an embedding is as wide as the backbone's features"): (
            "2 of 9 rows",
            ids("narrow", "empty"),
        ),
        ("is_finite", "an embedding has neither NaN nor infinity"): (
            "2 of 9 rows",
            ids("nan", "infinite"),
        ),
        ("norm", "an embedding is not all zero"): ("2 of 9 rows", ids("empty", "zero")),
        ("spread", "the values of an embedding are not all the same"): (
            "3 of 9 rows",
            ids("empty", "zero", "constant"),
        ),
    }


def test_embeddings_measured_row_by_row_and_all_at_once_agree() -> None:
    values = [[1.0, -2.0, 2.0], [0.25, 0.5, 0.75], [3e38, 3e38, -3e38]]
    schema = pa.schema([("image_id", pa.string()), ("embedding", pa.list_(pa.float32()))])

    def measured(embeddings: list[list[float]]) -> list[Row]:
        ids = [str(number) for number in range(len(embeddings))]
        batch = pa.RecordBatch.from_pydict({"image_id": ids, "embedding": embeddings}, schema)
        rows: list[Row] = frames.measure_embeddings(batch).to_pylist()
        return rows

    at_once = measured(values)
    assert measured([*values, []])[:3] == at_once  # the row of another width takes the slow path
    assert [row["norm"] for row in at_once[:2]] == pytest.approx([3, 0.875**0.5])
    assert [row["spread"] for row in at_once[:2]] == [4, 0.5]
    assert all(row["is_finite"] for row in at_once)


def test_counts_and_shares_are_summed_over_slices(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:02d}" for number in range(15)]
    fill(catalog.manifest, [listed(name, rotation=45 * (name >= "08")) for name in names])
    fill(catalog.images, [held(name) for name in names[5:]])
    fill(catalog.rejects, [rejected(name) for name in names[:5]])
    monkeypatch.setattr(frames, "SLICE_ROWS", 5)
    said = refusal(validation.validate_manifest, catalog, TONIGHT, LIMITS)
    assert "Column rotation: 7 of 15 rows" in said
    # A slice of nothing but rejects is within a budget of a third of all rows.
    assert validation.validate_images(catalog, TONIGHT, LimitsSpec(rejected_share=0.34)).rows == 15
    said = refusal(validation.validate_images, catalog, TONIGHT, LimitsSpec(rejected_share=0.33))
    assert "5 of 15 rows (33.3%, where 33.0% may)" in said


def test_a_slice_is_never_larger_than_its_limit(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(catalog.manifest, [listed(str(number)) for number in range(25)])
    monkeypatch.setattr(frames, "SLICE_ROWS", 10)
    [frame] = frames.manifest_frames(catalog, NIGHT)
    slices = list(frame.slices(["label"]))
    assert [len(rows) for rows in slices] == [10, 10, 5]
    assert list(slices[0].columns) == ["label", "uri"]


def test_a_partition_with_a_quotation_mark_is_read(catalog: Catalog) -> None:
    fill(catalog.manifest, [listed("a", partition="o'clock"), listed("b", label=None)])
    assert validation.validate_manifest(catalog, task_of("o'clock"), LIMITS).rows == 1


def test_a_third_party_adds_an_expectation_in_the_suite(catalog: Catalog, own_suites: Path) -> None:
    add(own_suites / "manifest.yaml", "expect_column_value_lengths_to_be_between",
        "{column: licence, min_value: 2, mostly: 0.5}", "most photos name a licence")  # fmt: skip
    licences = ["", "", "", "CC BY 4.0", None]
    fill(catalog.manifest, [listed(str(n), licence=name) for n, name in enumerate(licences)])
    said = refusal(validation.validate_manifest, catalog, TONIGHT, LIMITS)
    assert broken(said) == {
        ("licence", "most photos name a licence"): (
            "3 of 4 rows (75.0%, where 50.0% may)",
            {"/photos/0", "/photos/1", "/photos/2"},
        )
    }


def test_an_expectation_may_compare_two_columns(catalog: Catalog, own_suites: Path) -> None:
    add(own_suites / "images.yaml", "expect_column_pair_values_a_to_be_greater_than_b",
        "{column_A: width, column_B: height, or_equal: true}", "no portraits")  # fmt: skip
    fill(catalog.manifest, [listed("a"), listed("b")])
    fill(catalog.images, [held("a"), held("b", height=9)])
    said = refusal(validation.validate_images, catalog, TONIGHT, LIMITS)
    assert (
        "Columns width and height: 1 of 2 rows break 'no portraits', for example /photos/b" in said
    )


@pytest.mark.parametrize(
    ("expectation", "arguments", "complaint"),
    [
        ("expect_column_values_to_be_uniq", "{column: uri}",
         "no expectation 'expect_column_values_to_be_uniq'; "
         "did you mean expect_column_values_to_be_unique?"),
        ("expect_column_mean_to_be_between", "{column: rotation, min_value: 0}",
         "expect_column_mean_to_be_between looks at a whole table at once"),
        ("expect_column_values_to_be_in_set", "{colum: label, column: label, value_set: [a]}",
         "expect_column_values_to_be_in_set: argument 'colum': extra fields not permitted"),
        ("expect_column_values_to_be_unique", "{column: colour}",
         "expect_column_values_to_be_unique looks at colour, but may look at: uri, label,"),
        ("expect_column_values_to_be_between", "{column: rotation, min_value: {$PARAMETER: least}}",
         "known parameters: accepted_share"),
        ("expect_column_values_to_be_between", "{column: label, min_value: 1}",
         "expect_column_values_to_be_between cannot be judged on label: "),
    ],
)  # fmt: skip
def test_a_suite_that_cannot_be_used_is_refused_with_its_file(
    catalog: Catalog, own_suites: Path, expectation: str, arguments: str, complaint: str
) -> None:
    path = own_suites / "manifest.yaml"
    add(path, expectation, arguments, "anything")
    fill(catalog.manifest, [listed("a", rotation=90)])
    with pytest.raises(ConfigError) as caught:
        validation.validate_manifest(catalog, TONIGHT, LIMITS)
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("expectations: [", "cannot be read: while parsing"),
        ("expectations: [{expectation: x, kwargs: {}}]", "expectations.0.because: field required"),
        ("expectations: [{expectation: x, kwargs: {}, because: y, severity: z}]",
         "expectations.0.severity: extra inputs are not permitted"),
        ("", "the file: input should be"),
    ],
)  # fmt: skip
def test_a_suite_file_that_cannot_be_read_is_named(
    own_suites: Path, text: str, complaint: str
) -> None:
    (own_suites / "manifest.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=complaint):
        load_suite("manifest", "pets")


def test_results_are_kept_and_the_index_lists_them(catalog: Catalog) -> None:
    fill(catalog.manifest, [listed("a", label=None)])
    refusal(validation.validate_manifest, catalog, TONIGHT, LIMITS)
    fill(catalog.manifest, [listed("a")])
    page = validation.validate_manifest(catalog, TONIGHT, LIMITS).page
    results = sorted((Path(catalog.checks) / "results" / "manifest").glob("*.json"))
    assert [json.loads(path.read_bytes())["success"] for path in results] == [False, True]
    assert linked_from_index(catalog) == {
        f"validations/manifest/{path.stem}.html" for path in results
    }
    assert Path(page).stem == results[1].stem
    assert (Path(page).parent / Page(page).links["Home"]).resolve() == index_of(catalog).resolve()


def test_pages_need_no_network_and_hold_no_markup_of_strangers(
    catalog: Catalog, own_suites: Path
) -> None:
    markup = "<script>alert(1)</script>"
    add(own_suites / "manifest.yaml", "expect_column_values_to_not_match_regex",
        "{column: title, regex: '<script>alert.'}", markup)  # fmt: skip
    row = listed(markup, label=None, rotation=1, title=markup, partition=markup)
    fill(catalog.manifest, [row])
    page = refusal(validation.validate_manifest, catalog, task_of(markup), LIMITS).rpartition(" ")[
        2
    ]
    for path in (Path(page), index_of(catalog)):
        text = path.read_text(encoding="utf-8")
        assert "<script>alert" not in text
        assert text.count("<script>") == 1  # ours
        assert re.findall(r"""(?:src=|<link\b|url\(|@import)[^>]*//[^>]*""", text) == []
        assert ".table" in text  # its own style
    assert f"1 in /photos/{markup}" in Page(page).text
    assert "&lt;" not in Page(page).text


def test_validation_opens_no_connection(catalog: Catalog, connections: list[str]) -> None:
    fill(catalog.manifest, [listed("a")])
    validation.validate_manifest(catalog, TONIGHT, LIMITS)
    assert connections == []


def test_validations_that_end_together_are_all_in_the_index(catalog: Catalog) -> None:
    import_great_expectations()
    check = Check(expectation="expect_column_values_to_be_unique", kwargs={"column": "uri"},
                  because="a uri is listed once")  # fmt: skip

    def publish(number: int) -> str:
        finding = Finding(check, "uri", rows=1, judged=1, arguments={"column": "uri"})
        return data_docs.publish(catalog, "manifest", f"night/{number}", [finding])

    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(publish, range(16)))
    assert linked_from_index(catalog) == {
        f"validations/manifest/{Path(page).name}" for page in pages
    }
    assert {path.suffix for path in Path(catalog.checks).rglob("*.*")} == {".html", ".json"}


class Meantime(MemoryFileSystem):
    """Storage on which another validation ends whenever an index is written for the first time."""

    protocol = "meantime"
    other = "20261105T030000-passed-another-0123abcd"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("meantime://", "memory://")))

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        """Write a file, as in memory."""
        super().pipe_file(path, value, **options)
        if path.endswith("index.html"):
            super().pipe_file(path.replace("index", f"validations/images/{self.other}"), b"")


def test_a_validation_that_ends_while_the_index_is_written_is_listed_too() -> None:
    import_great_expectations()
    fsspec.register_implementation("meantime", Meantime, clobber=True)
    catalog = Catalog("pets", "meantime://test_meantime/pets")
    page = data_docs.publish(catalog, "features", NIGHT, [])
    index = storage.read_bytes(storage.join(catalog.checks, "index.html")).decode()
    assert Path(page).name in index
    assert Meantime.other in index


def test_data_docs_are_kept_on_storage_that_is_not_local() -> None:
    import_great_expectations()
    catalog = Catalog("pets", "memory://test_validation/pets")
    page = data_docs.publish(catalog, "features", NIGHT, [])
    assert page.startswith("memory://test_validation/pets/checks/validations/features/")
    memory = fsspec.filesystem("memory")
    assert memory.exists(page)
    assert Path(page).name in memory.cat("memory://test_validation/pets/checks/index.html").decode()


def test_a_program_without_a_file_fails_and_does_not_end_as_if_all_were_well() -> None:
    program = "from sightline.validation.checking import import_great_expectations as load; load()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "ConfigError: Great Expectations cannot be imported by `python -c`" in ended.stderr


def add(suite: Path, expectation: str, arguments: str, because: str) -> None:
    """Add an entry to a suite, as a person would."""
    with suite.open("a", encoding="utf-8") as file:
        file.write(
            f"\n  - expectation: {expectation}\n    kwargs: {arguments}\n    because: {because}\n"
        )


@pytest.fixture(scope="module")
def audited() -> list[str]:
    """Connections that the process has tried to open; an audit hook stays until it ends."""
    seen: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo"):
            seen.append(f"{event} {arguments}")

    sys.addaudithook(note)
    return seen


@pytest.fixture
def connections(audited: list[str]) -> Iterator[list[str]]:
    """Connections that this test tries to open."""
    audited.clear()
    yield audited


class Page(HTMLParser):
    """The words of a page, and where its links lead."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.text = ""
        self.links: dict[str, str] = {}
        self._open = ""
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._open = dict(attributes).get("href") or "" if tag == "a" else ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and data.strip():
            self.links[data.strip()] = self._open


def index_of(catalog: Catalog) -> Path:
    """The first page of the Data Docs."""
    return Path(catalog.checks) / "index.html"


def linked_from_index(catalog: Catalog) -> set[str]:
    """The pages that the index leads to."""
    return set(re.findall(r'<a href="([^"]*)"', index_of(catalog).read_text(encoding="utf-8")))


OWN = """
manifest:
  - expectation: expect_column_values_to_match_regex
    kwargs: {column: uri, regex: '^/photos/'}
    because: our photos lie in one folder
images:
  - expectation: expect_column_values_to_be_in_set
    kwargs: {column: outcome, value_set: [image], mostly: 0.5}
    because: half are images
without: [a label is not blank]
"""


def test_a_dataset_adds_replaces_and_leaves_out_expectations(own_places: Path) -> None:
    beside = own_places / "datasets" / "pets.expectations.yaml"
    beside.write_text(OWN)
    defaults, ours = load_suite("manifest", "other"), load_suite("manifest", "pets")
    assert {check.because for check in ours} == (
        {check.because for check in defaults} - {"a label is not blank"}
    ) | {"our photos lie in one folder"}
    outcomes = [
        check.because for check in load_suite("images", "pets") if "outcome" in check.columns
    ]
    assert "half are images" in outcomes
    assert "an image is taken, or was held already" not in outcomes
    assert load_suite("features", "pets") == load_suite("features", "other")
    assert dataset_files() == []


def test_expectations_of_a_dataset_that_are_wrong_are_said(own_places: Path) -> None:
    beside = own_places / "datasets" / "pets.expectations.yaml"
    beside.write_text("without: [a label is not blunk]")
    with pytest.raises(ConfigError, match="no default expectation says 'a label is not blunk'; did you "
                       "mean 'a label is not blank'"):  # fmt: skip
        load_suite("manifest", "pets")
    beside.write_text("manifesto: []")
    with pytest.raises(ConfigError, match="pets.expectations.yaml: manifesto: extra inputs"):
        load_suite("manifest", "pets")


def test_every_result_is_kept_and_a_second_try_takes_the_place_of_the_first(
    catalog: Catalog, own_places: Path
) -> None:
    (own_places / "datasets" / "pets.expectations.yaml").write_text(OWN)
    fill(catalog.manifest, [listed("a"), listed("b", uri="/elsewhere/b")])
    said = refusal(validation.validate_manifest, catalog, TONIGHT, LIMITS)
    assert "our photos lie in one folder" in said
    [ours] = results(catalog, "our photos lie in one folder")
    assert (ours["success"], ours["rows"], ours["unexpected"]) == (False, 2, 1)
    assert (ours["observed"], ours["least"]) == (0.5, 1.0)
    assert (ours["suite"], ours["column"], ours["partition"]) == ("manifest", "uri", NIGHT)
    assert ours["run"] == "ingest_pets/run-1"

    fill(catalog.manifest, [listed("a"), listed("b")])
    checks = validation.validate_manifest(catalog, TONIGHT, LIMITS).checks
    assert len(results(catalog)) == checks
    [again] = results(catalog, "our photos lie in one folder")
    assert (again["success"], again["observed"]) == (True, 1.0)
    other = TaskRun("ingest_pets", "run-2", "validate", NIGHT)
    validation.validate_manifest(catalog, other, LIMITS)
    assert len(results(catalog)) == 2 * checks


def results(catalog: Catalog, because: str | None = None) -> list[Row]:
    """The history of checks, or of one."""
    with tables.query(kept=catalog.check_results) as sql:
        found: list[Row] = sql("SELECT * FROM kept").to_pylist()
    return [row for row in found if because in (None, row["because"])]
