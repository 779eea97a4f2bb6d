"""The report on what is in doubt: labels, conflicts, drift; nothing is said where nothing is."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sightline import tables
from tests.test_reporting import VERSION, Page, World, report_of, world, write

__all__ = ["world"]


def doubtful(world: World, count: int) -> list[dict[str, Any]]:
    """Suspicious rows of the world's first images; the last of them is an outlier alone."""
    batches = tables.read_batches(world.catalog.images, ["image_id", "label"])
    images = [row for batch in batches for row in batch.to_pylist()][:count]
    rows = [
        {
            "image_id": image["image_id"], "model_version": VERSION, "split": "train",
            "label": image["label"], "suggested": "<b>other", "score": 0.01 * rank,
            "label_probability": 0.01 * rank, "suggested_probability": 0.9, "is_label_issue": True,
            "distance": 5.0, "is_outlier": False, "is_excluded": rank == 1, "rank": rank,
        }
        for rank, image in enumerate(images, 1)
    ]  # fmt: skip
    rows[-1] |= {"is_label_issue": False, "label_probability": 0.95, "score": 0.95}
    rows[-1] |= {"is_outlier": True, "distance": 99.5}
    return rows


def test_without_an_audit_a_conflict_or_a_measure_there_is_no_such_section(world: World) -> None:
    page = Page(world.page())
    assert not {"suspicious_labels", "conflicts", "drift"} & page.sections.keys()


def test_suspicious_labels_come_worst_first_beside_what_was_left_out(world: World) -> None:
    world.more_model = {"excluded": {"suspicious": 1, "list": "excluded.json"}}
    world.page()
    write(world.catalog.suspicious_labels, doubtful(world, 5), VERSION)
    world.record("train_pets", "audit_labels", "10:02", 1.0, judged=24, accuracy=0.75, outliers=1)
    html = report_of(world.catalog)
    page, text = Page(html), Page(html).sections["suspicious_labels"]
    assert "24 labels, of which it names 75.0% of the train split's as they are given" in text
    assert "1 train image with the worst labels was left out" in text
    assert "All 4, worst first" in text
    assert page.count("suspicious_labels", "li") == page.count("suspicious_labels", "img") == 5
    assert text.index("1%") < text.index("2%") < text.index("4%") < text.index("distance 99.5")
    assert text.count("left out") == 2
    assert "<b>other" not in html


def test_an_audit_that_found_nothing_says_so(world: World) -> None:
    world.page()
    world.record("train_pets", "audit_labels", "10:02", 1.0, judged=24, accuracy=1.0, outliers=0)
    text = Page(report_of(world.catalog)).sections["suspicious_labels"]
    assert "None: every image is likelier of its own class" in text
    assert "excludes no suspicious label" in text


def test_conflicts_show_both_labels_and_what_is_made_of_them(world: World) -> None:
    world.page()
    batches = tables.read_batches(world.catalog.images, ["uri", "label"])
    image = next(row for batch in batches for row in batch.to_pylist())
    row = {"uri": "https://host.example/twin.png?token=s3cret", "label": "unicorn", "attempts": 1}
    row |= {
        "stage": "fetch_images",
        "reason": "conflict",
        "detail": f"same bytes as {image['uri']}",
    }
    row |= {"rejected_at": datetime(2026, 11, 5, tzinfo=UTC), "partition": "all"}
    write(world.catalog.rejects, [row], "all")
    html = report_of(world.catalog)
    text = Page(html).sections["conflicts"]
    assert "the bytes of 1 image under two labels" in text
    assert "neither trained nor tested on" in text
    assert "unicorn" in text and image["label"] in text and "twin.png" in text
    assert "s3cret" not in html


def test_drift_is_shown_by_partition_with_what_warned(tmp_path: Path) -> None:
    world = World(str(tmp_path))
    world.page()
    for day, value, verdict in (("2026-11-05", 0.013, "fine"), ("2026-11-06", 0.52, "warn")):
        common = {"partition": day, "warn": 0.25, "images": 300, "reference_images": 900}
        rows = [
            {**common, "name": "classes", "value": value, "chance": 0.02, "verdict": verdict},
            {**common, "name": "size_bytes", "value": None, "verdict": "too few"},
        ]
        write(world.catalog.drift, [{**row, "reference": "x"} for row in rows], day)
    text = Page(report_of(world.catalog)).sections["drift"]
    assert text.index("2026-11-06") < text.index("0.52 warn") < text.index("2026-11-05")
    assert "Size bytes" in text and "too few" in text and "warn from 0.25" in text
    assert "0.01 warn" not in text
