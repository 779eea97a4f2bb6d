"""Issues of images: as cleanvision calls them, written once however often the task runs."""

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance

from sightline import issue_list, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.inspection import inspect_images
from sightline.schemas import IMAGES
from sightline.tables import Table, Writer
from tests.conftest import (
    catalog_of,
    image_row,
    made_up_image_row,
    make_task,
    store_rows,
    write_dataset,
)

PROPERTIES = ("view_hashes", "brightness_p5", "brightness_p99", "entropy", "laplacian_variance",
              "histogram_deviation")  # fmt: skip


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", "source: {type: folder, path: photos}\n")


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    return catalog_of(spec)


def photo(
    seed: int = 0, size: tuple[int, int] = (200, 150), patches: tuple[int, int] = (24, 32)
) -> Image.Image:
    """A picture with edges and colours; of few patches it has no edges."""
    coarse = np.random.default_rng(seed).integers(0, 256, (*patches, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, image_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, quality=95)
    return buffer.getvalue()


def inspect(spec: DatasetSpec, catalog: Catalog, partition: str = "all") -> dict[str, Any]:
    task, record = make_task("inspect_images", partition)
    inspect_images(spec, catalog, task, record)
    return record.counts


def issues(catalog: Catalog) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows by the image's label and the issue."""
    with tables.query(issues=catalog.issues, images=catalog.images) as sql:
        rows = sql(
            "SELECT i.label, x.* FROM issues x JOIN images i ON i.image_id = x.image_id"
        ).to_pylist()
    found = {(row["label"], row["issue"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def faulty() -> dict[str, bytes]:
    """One image with each fault, by the name of its issue."""
    plain = Image.new("RGB", (200, 150), (120, 130, 140))
    return {
        "dark": encoded(ImageEnhance.Brightness(photo(1)).enhance(0.2)),
        "light": encoded(Image.eval(photo(2), lambda level: 250 + level // 52)),
        "blurry": encoded(photo(4, patches=(3, 4))),
        "low_information": encoded(plain, "PNG"),
        "odd_aspect_ratio": encoded(photo(5, (400, 75))),
        "odd_size": encoded(photo(6, (1600, 1200))),
        "greyscale": encoded(photo(7).convert("L")),
    }


def test_each_fault_is_found_and_good_images_have_none(spec: DatasetSpec, catalog: Catalog) -> None:
    good = [image_row(encoded(photo(100 + n, (200 + n, 150))), f"good {n}") for n in range(20)]
    bad = [image_row(content, name) for name, content in faulty().items()]
    store_rows(catalog.images, [*good, *bad])
    counts = inspect(spec, catalog)
    found = issues(catalog)
    assert {(name, name) for name in faulty()} <= found.keys()
    assert not [label for label, _ in found if label.startswith("good")]
    assert all(0 <= row["score"] < row["threshold"] <= 1 for row in found.values())
    assert (counts["images"], counts["issues"]) == (27, len(found))
    version = tables.count_rows(catalog.issues)
    assert inspect(spec, catalog) == counts
    assert tables.count_rows(catalog.issues) == version


def test_thresholds_come_from_the_dataset_file(own_places: Path) -> None:
    text = "source: {type: folder, path: photos}\nquality: {dark: null, light: 1.0, greyscale: false}\n"
    spec = write_dataset(own_places, "photos", text)
    catalog = catalog_of(spec)
    store_rows(catalog.images, [image_row(content, name) for name, content in faulty().items()])
    inspect(spec, catalog)
    found = [issue for _, issue in issues(catalog)]
    assert not {"dark", "greyscale"} & set(found)
    assert found.count("light") > 4


def test_near_duplicates_are_named_across_partitions(spec: DatasetSpec, catalog: Catalog) -> None:
    first, second = photo(1), photo(2)
    store_rows(
        catalog.images, [image_row(encoded(first), "one"), image_row(encoded(second), "two")]
    )
    inspect(spec, catalog)
    assert not issues(catalog)
    copy = encoded(first.resize((120, 90)))
    store_rows(catalog.images, [image_row(copy, "copy", partition="tonight")], "tonight")
    counts = inspect(spec, catalog, "tonight")
    found = issues(catalog)
    assert counts["near_duplicate"] == 1
    row = found["copy", "near_duplicate"]
    assert row["other_image_id"] == image_row(encoded(first), "one")["image_id"]
    (listed,) = issue_list.read_issues(catalog, "near_duplicate", 5).worst or []
    assert listed.other_uri and listed.other_uri.startswith("mem://one/")
    assert issue_list.read_issues(catalog, None, 5).counts["near_duplicate"] == 1


def test_exact_duplicates_are_counted_from_the_rejects(spec: DatasetSpec, catalog: Catalog) -> None:
    store_rows(catalog.images, [image_row(encoded(photo(1)), "one")])
    rows = [
        {"uri": f"mem://{n}", "stage": "fetch_images", "reason": "duplicate" if n else "corrupt",
         "attempts": 1, "rejected_at": datetime(2026, 11, 5, tzinfo=UTC), "partition": "all"}
        for n in range(4)
    ]  # fmt: skip
    batch = pa.RecordBatch.from_pylist(rows, schema=catalog.rejects.schema)
    urls = tables.write_batches(catalog.rejects, [batch])
    tables.append_new(catalog.rejects, urls, "all", Writer("tests"), key="uri")
    assert inspect(spec, catalog)["exact_duplicate"] == 3
    assert issue_list.read_issues(catalog, None, 5).describe() == ["        3  exact_duplicate"]


def test_a_table_from_before_the_columns_is_read_and_written(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    names = [name for name in IMAGES.names if name not in PROPERTIES]
    before = Table(
        "images", catalog.images.url, IMAGES.empty_table().select(names).schema, "partition"
    )
    store_rows(
        before,
        [{name: made_up_image_row(1)[name] for name in names if name in made_up_image_row(1)}],
    )
    assert inspect(spec, catalog)["images"] == 1
    store_rows(catalog.images, [image_row(encoded(photo(1)), "new")])
    assert inspect(spec, catalog)["images"] == 2
    with tables.query(images=catalog.images) as sql:
        rows = sql("SELECT label, entropy, view_hashes FROM images ORDER BY label").to_pylist()
    assert [(row["label"], row["entropy"] is None) for row in rows] == [("a", True), ("new", False)]


def test_an_empty_partition_has_no_issues(spec: DatasetSpec, catalog: Catalog) -> None:
    assert inspect(spec, catalog) == {"images": 0, "issues": 0, "exact_duplicate": 0}
