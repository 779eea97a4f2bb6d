"""Slices: where an image falls, and what is counted of each slice."""

from typing import Any

import pytest

from sightline import slices
from sightline.slices import SliceCounts


def image(**more: Any) -> dict[str, Any]:
    return {"uri": "a.jpg", "height": 300, "width": 200, "licence": None, "is_right": True, **more}


@pytest.mark.parametrize(
    ("height", "width", "name"),
    [
        (63, 900, "under 64 px"),
        (64, 64, "64 to 127 px"),
        (900, 255, "128 to 255 px"),
        (1023, 1023, "512 to 1023 px"),
        (4000, 1024, "1024 px and more"),
    ],
)
def test_the_shorter_side_makes_the_size(height: int, width: int, name: str) -> None:
    assert slices.size_of(image(height=height, width=width)) == name


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/data/photos/cat/a.jpg", "files"),
        ("https://joe:pw@Live.example:8080/a.jpg?token=x", "live.example"),
        ("s3://bucket/cat/a.jpg", "bucket"),
        ("zip://cat/a.jpg::https://host.example/all.zip?token=x", "host.example"),
        ("zip://cat/a.jpg::/data/all.zip", "files"),
    ],
)
def test_the_source_is_the_host_without_login_and_query(uri: str, name: str) -> None:
    assert slices.source_of(image(uri=uri)) == name


def test_images_and_accuracy_of_each_slice_are_counted_over_batches() -> None:
    counts = SliceCounts()
    counts.add([image(licence="CC0"), image(licence="CC0", is_right=False)])
    counts.add([image(licence="CC0", is_right=False), image()])
    rows = {(row["name"], row["label"]): row["value"] for row in counts.metric_rows()}
    assert rows["slice:licence:images", "CC0"] == 3
    assert rows["slice:licence:accuracy", "CC0"] == pytest.approx(1 / 3)
    assert rows["slice:licence:accuracy", "not given"] == 1
    assert rows["slice:size:accuracy", "128 to 255 px"] == 0.5


def test_of_many_slices_the_small_ones_are_counted_together() -> None:
    counts = SliceCounts()
    for number in range(slices.MOST):
        counts.add([image(licence=str(number))] * 2)
    counts.add([image(licence=f"rare {number}", is_right=number == 0) for number in range(4)])
    rows = {
        row["label"]: row["value"]
        for row in counts.metric_rows()
        if row["name"] == "slice:licence:accuracy"
    }
    assert len(rows) == slices.MOST + 1
    assert rows["others"] == 0.25
