"""Open Images: labels, classes and the list of images joined in Spark, from tables in their true layout."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sightline.catalog import open_catalog
from sightline.errors import SourceError
from sightline.source_config import OpenImagesSource
from sightline.sources import Access, open_images
from tests.servers.open_images import Bucket

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CAR, TREE, CAT = "/m/0k4j", "/m/07j7r", "/m/01yrx"
SEEN, ABSENT = "1", "0.0"
PEOPLE = "verification"


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    """Eight images: plain ones, one of both classes, negatives, machine labels, oddities of the list."""
    made = Bucket(tmp_path / "open_images")
    made.add(1, (PEOPLE, CAR, SEEN), rotation="90.0")
    made.add(2, (PEOPLE, TREE, "1.0"), (PEOPLE, CAR, ABSENT), rotation="nan")
    made.add(3, (PEOPLE, CAR, SEEN), (PEOPLE, TREE, SEEN))
    made.add(4, (PEOPLE, CAR, ABSENT))
    made.add(5, ("machine", CAR, "0.9"))
    made.add(6, (PEOPLE, CAR, SEEN), (PEOPLE, CAR, ABSENT))
    made.add(7, (PEOPLE, TREE, SEEN), listed=False)
    made.add(8, (PEOPLE, CAT, SEEN))
    made.write_tables()
    return made


def listed(bucket: Bucket, **options: Any) -> tuple[dict[int, dict[str, Any]], Access]:
    """The rows by the image's number, and the access with its metrics."""
    access = Access(open_catalog("streets"), "all")
    with bucket.served() as address:
        source = OpenImagesSource.model_validate(
            {
                "type": "open_images",
                "subset": bucket.subset,
                "classes": ["Car", "Tree"],
                "tables": f"{address}/tables",
                "images": f"{address}/bucket/",
                **options,
            }
        )
        rows = [row for some in open_images.list_images(source, access) for row in some]
    assert len({row["uri"] for row in rows}) == len(rows)
    return {int(row["uri"][-20:-4], 16): row for row in rows}, access


def test_verified_labels_become_rows_with_licence_author_and_rotation(
    spark: "SparkSession", bucket: Bucket
) -> None:
    rows, access = listed(bucket)  # an image of both classes is dropped
    assert {number: row["label"] for number, row in rows.items()} == {
        1: "Car",
        2: "Tree",
        7: "Tree",
    }
    assert rows[1]["uri"].endswith("/bucket/validation/0000000000000001.jpg")
    assert {name: rows[1][name] for name in ("rotation", "author", "title", "landing_url")} == {
        "rotation": 90,
        "author": 'Doe, "J" Jane',
        "title": "Line one\nline, two",
        "landing_url": "https://www.flickr.com/photos/somebody/1",
    }
    assert rows[1]["licence"] == "https://creativecommons.org/licenses/by/2.0/"
    assert (rows[2]["rotation"], rows[7]["licence"]) == (None, None)
    found = access.metrics["exploration"]  # labels, sources, sizes and rotations are counted
    assert found["several_classes"] == [["Car", "Tree", 1]]
    assert found["labels"] == [
        ["Car", "machine", False, 1],
        ["Car", PEOPLE, False, 3],
        ["Car", PEOPLE, True, 3],
        ["Tree", PEOPLE, True, 3],
    ]
    assert found["images_by_class"] == {"Car": 1, "Tree": 2}
    assert (found["rotated"], found["not_in_the_image_list"]) == (1, 1)
    assert found["original_bytes"] == [1001, 1001, 1001, 1002, 1002]


@pytest.mark.parametrize(("ambiguous", "label"), [("first", "Car"), ("keep_as both", "both")])
def test_an_image_of_both_classes_follows_the_policy(
    spark: "SparkSession", bucket: Bucket, ambiguous: str, label: str
) -> None:
    rows, access = listed(bucket, ambiguous=ambiguous)
    assert rows[3]["label"] == label
    assert access.metrics["exploration"]["several_classes"] == [["Car", "Tree", 1]]


def test_less_sure_labels_and_other_sources_are_taken_when_asked_for(
    spark: "SparkSession", bucket: Bucket
) -> None:
    rows, _ = listed(bucket, sources=["machine"], confidence=0.5)
    assert {number: row["label"] for number, row in rows.items()} == {5: "Car"}
    rows, _ = listed(bucket, sources=[], confidence=0.5)
    assert sorted(rows) == [1, 2, 5, 7]


def test_an_unknown_class_is_refused_with_the_nearest(bucket: Bucket) -> None:
    with pytest.raises(
        SourceError, match=r"no class 'Tre' among its 3 boxable ones; did you mean 'Tree'"
    ):
        listed(bucket, classes=["Car", "Tre"])


def test_the_survey_tells_the_classes_and_the_size_of_the_tables(bucket: Bucket) -> None:
    with bucket.served() as address:
        source = OpenImagesSource.model_validate(
            {
                "type": "open_images",
                "subset": "validation",
                "classes": ["Tree"],
                "tables": f"{address}/tables",
            }
        )
        found = open_images.survey(source, Access(open_catalog("streets"), "all"))
    assert found.facts == ("Open Images validation: Tree; tables of 0 MB",)


def test_the_true_tables_rows_are_read(
    spark: "SparkSession", tmp_path: Path, shared_data: Path
) -> None:
    real = shared_data / "openimages"
    bucket = Bucket(tmp_path / "true", "train")
    bucket.write_tables()
    tables = bucket.folder / "tables" / "v5"
    names, labels = "class-descriptions-boxable.csv", "human-imagelabels-boxable.rows.csv"
    shutil.copy(real / names, tables / names)
    shutil.copy(real / labels, tables / "train-annotations-human-imagelabels-boxable.csv")
    known = dict(line.split(",", 1) for line in (real / names).read_text().splitlines())
    rows = [line.split(",") for line in (real / labels).read_text().splitlines()[1:]]
    seen = {(image, mid) for image, _, mid, sure in rows if float(sure) == 1 and mid in known}
    assert len(seen) > 1
    classes = sorted({known[mid] for _, mid in seen})
    found, _ = listed(bucket, classes=classes, ambiguous="first")
    assert set(found) == {int(image, 16) for image, _ in seen}
