"""The report page, made from small real tables, and read back as a browser would."""

import io
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sightline import images, ledger, models, reporting, storage, tables
from sightline.catalog import Catalog
from sightline.errors import StorageError
from sightline.fine_tune_config import FineTuneSpec
from sightline.fine_tuning.checkpoints import Epoch
from sightline.fine_tuning.search import Trial
from sightline.reporting import charts, formats
from sightline.reporting.pictures import Gallery
from sightline.reporting.result import wilson_interval
from sightline.tables import Table, Writer

VERSION = "20261121-101500"
HOSTILE = "<script>alert('x')</script>"
LIMITS = images.Limits(size_bytes=2**20, pixels=10**6)


@dataclass
class World:
    """A trained dataset in a folder, with what the tests vary."""

    root: str
    labels: list[str] = field(default_factory=lambda: ["cat", "dog", "owl"])
    images_each: int = 8  # the last quarter of a class is its test split
    wrong: int = 2  # test images whose prediction is the next class
    image_size: tuple[int, int] = (90, 60)
    rejects: list[tuple[str, str, bytes | None]] = field(default_factory=list)  # uri, reason, jpeg
    reduction: dict[str, Any] | None = None
    description: str = ""
    source: dict[str, Any] = field(default_factory=lambda: {"type": "folder", "path": "photos"})
    weights: str = "random"
    with_records: bool = True
    seed: int = 0  # of the images
    more_metrics: list[tuple[str, str | None, float]] = field(default_factory=list)
    more_model: dict[str, Any] = field(default_factory=dict)  # of model.json

    def __post_init__(self) -> None:
        self.catalog = Catalog("pets", f"{self.root}/pets")

    def page(self) -> str:
        """Write the tables and the report; the page as text."""
        photos = self.write_images()
        self.write_splits(photos)
        self.write_rejects()
        self.write_predictions([photo for photo in photos if photo["split"] == "test"])
        self.write_model(photos)
        if self.with_records:
            self.write_records()
        return report_of(self.catalog)

    def write_images(self, images_per_row_group: int = 1000) -> list[dict[str, Any]]:
        random = np.random.default_rng(self.seed)
        photos = []
        for label in self.labels:
            for index in range(self.images_each):
                content = png(random, self.image_size)
                measured = images.measure(content, LIMITS)
                is_test = index >= self.images_each * 3 // 4
                photos.append(
                    {
                        **vars(measured),
                        "uri": f"https://host.example/{label}/{index}.png?token=s3cret",
                        "label": label,
                        "split_hint": None,
                        "content": content,
                        "size_bytes": len(content),
                        "rotation": 0,
                        "partition": "all",
                        "split": "test" if is_test else "train",
                    }
                )
        write(self.catalog.images, photos, "all", images_per_row_group)
        return photos

    def write_splits(self, photos: list[dict[str, Any]]) -> None:
        write(self.catalog.splits, [{**p, "group_id": p["image_id"]} for p in photos], None)

    def write_rejects(self) -> None:
        rows = [
            {
                "uri": uri,
                "label": None,
                "stage": "fetch_images",
                "reason": reason,
                "detail": "",
                "attempts": 1,
                "rejected_at": datetime(2026, 11, 5, tzinfo=UTC),
                "etag": None,
                "thumbnail": thumbnail,
                "partition": "all",
            }
            for uri, reason, thumbnail in self.rejects
        ]
        write(self.catalog.rejects, rows, "all")

    def write_predictions(self, tested: list[dict[str, Any]]) -> None:
        rows = []
        for index, photo in enumerate(tested):
            label = photo["label"]
            following = self.labels[(self.labels.index(label) + 1) % len(self.labels)]
            predicted = following if index < self.wrong else label
            rows.append(
                {
                    "image_id": photo["image_id"],
                    "model_version": VERSION,
                    "label": label,
                    "predicted": predicted,
                    "probability": 0.99 - index % 60 / 100,
                    "probabilities": [1.0],
                }
            )
        write(self.catalog.predictions, rows, VERSION)
        common = {"model_version": VERSION, "split": "test"}
        more = [{**common, "name": n, "label": of, "value": v} for n, of, v in self.more_metrics]
        write(self.catalog.metrics, metric_rows(rows, self.labels) + more, VERSION)
        self.accuracy = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
        self.tested = len(rows)

    def write_model(self, photos: list[dict[str, Any]]) -> None:
        backbone = {"name": "resnet18", "weights": self.weights, "seed": 7, "image_size": 64}
        model = {
            "version": VERSION,
            "dataset": "pets",
            "created_at": "2026-11-21T10:15:00+00:00",
            "backbone_id": "resnet18-5f3a-64px-fp32",
            "seed": 3,
            "spec": {
                "name": "pets",
                "description": self.description,
                "source": self.source,
                "backbone": backbone,
                "reduce": {"components": None, "explained_variance": 0.95},
            },
            "tables": {
                name: tables.current_version(getattr(self.catalog, name))
                for name in ("images", "splits")
            },
            "labels": self.labels,
            "reduction": self.reduction,
            "head": {
                "kind": "logistic_regression",
                "parameters": {"penalty": 0.03},
                "grid": [
                    {"penalty": 0.03, "accuracy": 0.9512, "log_loss": 0.4321},
                    {"penalty": 0.003, "accuracy": 0.9321},
                ],
            },
            "rows": {"train": len(photos) - self.tested, "test": self.tested},
            "metrics": {"accuracy": self.accuracy, "macro_f1": 0.8765, "top_5_accuracy": 0.9999},
            **self.more_model,
        }
        storage.write_json(storage.join(self.catalog.model(VERSION), "model.json"), model)

    def judge(self, **more: Any) -> None:
        """Let the gate have decided on a head and, as the better one, the network of this page."""
        plan = "20261121-plan"
        head = {"accuracy": 0.5, "duplicate_free_accuracy": 0.4875, "log_loss": 1.25}
        tuned = {"accuracy": 0.75, "plain_accuracy": 0.7, "calibration_error": 0.0625}
        decision = {
            "chosen": VERSION,
            "passed": True,
            "reasons": ["It is 0.2500 more accurate than champion old."],
            "candidates": [
                {"version": plan, "kind": "head", "metrics": head, "rows": {"test": 6}},
                {"version": VERSION, "kind": "fine_tuned", "metrics": tuned, "rows": {"test": 6}},
            ],
            "champion": {"version": "old", "kind": "head", "metrics": head, "rows": {"test": 4}},
            "between": {
                "images": 6, "gained": 2, "lost": 1, "difference": 0.25, "low": -0.1, "high": 0.5,
            },
            "gate": {"confidence": 0.9, "approval": False},
            **more,
        }  # fmt: skip
        models.write_decision(self.catalog, VERSION, decision)

    def write_records(self) -> None:
        self.record(
            "ingest_pets", "fetch_images", "10:00", 4.0, images=20, held_before=4, bytes=123456
        )
        self.record("ingest_pets", "featurize", "10:01", 2.5, images=24, featurized=0, known=24)
        self.record("train_pets", "train", "10:02", 61.0, rows=18)

    def record(self, dag_id: str, task: str, at: str, seconds: float, **counts: Any) -> None:
        run = ledger.TaskRun(dag_id, "run", task, "all")
        started_at = f"2026-11-21T{at}:00+00:00"
        record = ledger.Record(task, dag_id, "run", "all", started_at, seconds, counts)
        storage.write_json(ledger.record_url(self.catalog, run), vars(record))


def png(random: np.random.Generator, size: tuple[int, int]) -> bytes:
    width, height = size
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), "teal").save(buffer, "JPEG")
    return buffer.getvalue()


def metric_rows(predictions: list[dict[str, Any]], labels: list[str]) -> list[dict[str, Any]]:
    """What evaluate writes for each class: precision, recall, f1, support and the confusions."""
    pairs = Counter((row["label"], row["predicted"]) for row in predictions)
    named: list[tuple[str, str, float]]
    named = [(f"confusion:{predicted}", truth, n) for (truth, predicted), n in pairs.items()]
    for label in labels:
        support = sum(n for (truth, _), n in pairs.items() if truth == label)
        answers = sum(n for (_, predicted), n in pairs.items() if predicted == label)
        recall, precision = pairs[label, label] / support, pairs[label, label] / max(1, answers)
        f1 = 2 * precision * recall / ((precision + recall) or 1)
        values = {"support": support, "recall": recall, "precision": precision, "f1": f1}
        named += [(name, label, value) for name, value in values.items()]
    common = {"model_version": VERSION, "split": "test"}
    return [{**common, "name": name, "label": of, "value": value} for name, of, value in named]


def write(
    table: Table, rows: list[dict[str, Any]], partition: str | None, rows_per_batch: int = 1000
) -> None:
    """Rows into a table in the way that its writer uses."""
    batches = [
        pa.RecordBatch.from_pylist(rows[start : start + rows_per_batch], table.schema)
        for start in range(0, len(rows), rows_per_batch)
    ]
    urls = tables.write_batches(table, batches)
    if table.name in ("images", "splits"):
        tables.append_new(table, urls, partition, Writer("test"))
    else:
        tables.replace_partition(table, urls, partition, tables.claim(table, Writer("test")))


def spoil_content(path: str, row_group: int) -> None:
    """Overwrite the content column of one row group of a Parquet file."""
    groups = pq.ParquetFile(path).metadata.row_group(row_group)
    column = next(
        groups.column(index)
        for index in range(groups.num_columns)
        if groups.column(index).path_in_schema == "content"
    )
    start = column.dictionary_page_offset or column.data_page_offset
    whole = bytearray(Path(path).read_bytes())
    whole[start : start + column.total_compressed_size] = b"x" * column.total_compressed_size
    Path(path).write_bytes(whole)


def report_of(catalog: Catalog) -> str:
    url = reporting.write_report(catalog, VERSION, "ingest_pets", "train_pets", "run")
    return Path(url).read_text(encoding="utf-8")


class Page(HTMLParser):
    """A page taken apart: its elements, and the text of each section."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.sections: dict[str, str] = {}
        self.within: dict[str, list[tuple[str, dict[str, str]]]] = {}
        self._section = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = (tag, {name: value or "" for name, value in attributes})
        if tag == "section":
            self._section = element[1]["id"]
        self.elements.append(element)
        self.within.setdefault(self._section, []).append(element)

    def handle_data(self, data: str) -> None:
        text = f"{self.sections.get(self._section, '')} {data}"
        self.sections[self._section] = " ".join(text.split())

    def count(self, section: str, tag: str, css_class: str = "") -> int:
        """Elements of a section by tag and, if given, one of their classes."""
        return sum(
            name == tag and (not css_class or css_class in attributes.get("class", "").split())
            for name, attributes in self.within[section]
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


def test_the_page_and_its_latest_copy_lie_in_the_reports_folder(world: World) -> None:
    page = world.page()
    folder = Path(world.catalog.reports)
    assert sorted(path.name for path in folder.iterdir()) == [f"{VERSION}.html", "latest.html"]
    assert (folder / "latest.html").read_text(encoding="utf-8") == page


def test_the_result_says_how_good_the_model_is_and_what_it_is(world: World) -> None:
    text = Page(world.page()).sections["result"]
    assert "66.7%" in text
    assert "4 of 6 test images" in text
    assert "Macro F1 0.876" in text
    assert "Images 24" in text
    assert "Classes 3" in text
    assert "seeded random weights (seed 7), never trained" in text
    assert "Random weights." in text
    assert "resnet18-5f3a-64px-fp32" in text
    assert "Always naming the commonest class would score 33.3%" in text


def test_pretrained_weights_are_not_called_random(world: World) -> None:
    world.weights = "/models/resnet18.pth"
    text = Page(world.page()).sections["result"]
    assert "pretrained weights (resnet18.pth)" in text
    assert "andom" not in text


def test_top_5_is_left_out_where_it_says_nothing(world: World) -> None:
    assert "Top-5" not in Page(world.page()).sections["result"]


def test_top_5_is_shown_from_six_classes_on(tmp_path: Path) -> None:
    text = Page(World(str(tmp_path), labels=list("abcdef")).page()).sections["result"]
    assert "Top-5 accuracy >99.9%" in text


def test_nothing_is_fetched_from_anywhere(world: World) -> None:
    world.rejects = [("https://host.example/x.jpg?token=s3cret", "corrupt", jpeg())]
    html = world.page()
    resources = [
        value
        for _, attributes in Page(html).elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "poster", "data", "action")
    ]
    assert resources
    elsewhere = [one for one in resources if not one.startswith(("data:", "#"))]
    assert elsewhere == [f"../models/{VERSION}/ATTRIBUTION.csv"]  # a link, for a person to follow
    assert storage.exists(f"{world.catalog.reports}/{elsewhere[0]}")
    assert "url(" not in html
    assert "@import" not in html
    assert "<script" not in html
    assert "default-src 'none'" in html


def test_queries_logins_and_hosts_of_uris_stay_out_of_the_page(world: World) -> None:
    world.source = {
        "type": "folder",
        "path": "https://joe:pass@host.example/photos?sig=s3cret",
        "options": {"key": "s3cret"},
    }
    world.rejects = [("https://joe:pass@host.example/odd%20one.jpg?sig=s3cret", "corrupt", None)]
    html = world.page()
    assert "odd one.jpg" in html
    assert "https://host.example/photos" in html
    assert "s3cret" not in html
    assert "pass@" not in html


def test_what_strangers_wrote_is_escaped(tmp_path: Path) -> None:
    labels = [HOSTILE, "it's", 'a "quote" & more']
    world = World(str(tmp_path), labels=labels, description=f"Pets {HOSTILE}")
    world.rejects = [('"><img src=x onerror=y>.jpg', "corrupt", None)]
    html = world.page()
    page = Page(html)
    assert "<script" not in html
    assert [tag for tag, attributes in page.elements if "onerror" in attributes] == []
    for label in labels:
        assert label in page.sections["class_balance"]
        assert label in page.sections["samples"]
        assert label in page.sections["per_class"]
    assert page.count("samples", "img") == 18


def test_class_balance_counts_the_images_of_each_split(tmp_path: Path) -> None:
    page = Page(World(str(tmp_path), images_each=12).page())
    assert "owl 12 9 3" in page.sections["class_balance"]
    widths = [a["style"] for _, a in page.within["class_balance"] if a.get("class") == "train"]
    assert widths == ["width:75.0%"] * 3


def test_images_without_a_split_are_counted_as_not_used(world: World) -> None:
    photos = world.write_images()
    world.write_splits(photos[1:])
    world.write_predictions([photo for photo in photos[1:] if photo["split"] == "test"])
    world.write_model(photos)
    assert "cat 8 5 2 1" in Page(report_of(world.catalog)).sections["class_balance"]


def test_an_older_report_shows_the_tables_as_its_model_saw_them(world: World) -> None:
    world.page()
    World(world.root, labels=["fox"], seed=1).write_images()
    assert tables.count_rows(world.catalog.images) == 32
    page = Page(report_of(world.catalog))
    assert "Images 24" in page.sections["result"]
    assert "fox" not in page.sections["class_balance"]


def test_the_sample_grid_shows_six_of_each_class(world: World) -> None:
    page = Page(world.page())
    assert page.count("samples", "img") == 18
    alts = [attributes["alt"] for tag, attributes in page.within["samples"] if tag == "img"]
    assert all(re.fullmatch(r"(cat|dog|owl): \d\.png", alt) for alt in alts)
    assert "picked at random of" not in page.sections["samples"]


def test_small_images_stay_small_and_are_enlarged_with_sharp_pixels(tmp_path: Path) -> None:
    page = Page(World(str(tmp_path), image_size=(8, 8)).page())
    shown = [attributes for tag, attributes in page.within["samples"] if tag == "img"]
    assert {one.get("class") for one in shown} == {"pixelated"}
    assert all(one["src"].startswith("data:image/png;image=") for one in shown)


def test_many_classes_are_capped_and_the_page_says_so(tmp_path: Path) -> None:
    labels = [f"class {index}" for index in range(130)]
    world = World(str(tmp_path), labels=labels, images_each=4, wrong=60, image_size=(8, 8))
    page = Page(world.page())
    assert "the 20 largest and the 20 smallest of 130" in page.sections["class_balance"]
    assert page.sections["class_balance"].count("class 1") < 130
    assert "Shown are 12 classes, picked at random of 130" in page.sections["samples"]
    assert page.count("samples", "figure", "strip") == 12
    assert "the 30 most confused classes of 130" in page.sections["confusion"]
    assert page.count("confusion", "tr") == 32
    assert "the 100 weakest of 130 classes" in page.sections["per_class"]
    assert page.count("per_class", "tr") == 101


def test_rejects_are_counted_by_reason_with_names_and_thumbnails(world: World) -> None:
    world.rejects = [(f"photos/t{index}.jpg", "truncated", jpeg()) for index in range(3)]
    world.rejects += [(f"photos/u{index}.jpg", "truncated", None) for index in range(20)]
    world.rejects.append(("photos/odd.txt", "not_an_image", None))
    page = Page(world.page())
    text = page.sections["rejects"]
    assert "24 of 48 images were not taken (50.0%)" in text
    assert "truncated The image breaks off. 23 47.9%" in text
    assert "not an image The bytes are not those of an image. 1 2.1%" in text
    assert "odd.txt" in text
    assert page.count("rejects", "img") == 3
    assert "Rejects 24" in page.sections["result"]


def test_no_rejects_are_good_news(world: World) -> None:
    text = Page(world.page()).sections["rejects"]
    assert "None: every image that the source listed was taken, 24 of 24." in text


def test_issues_are_counted_and_the_worst_are_shown(world: World) -> None:
    assert "issues" not in Page(world.page()).sections  # nobody has looked for any
    photos = [row for batch in tables.read_batches(world.catalog.images, ["image_id"])
              for row in batch.to_pylist()]  # fmt: skip
    rows = [
        {**photo, "issue": issue, "score": 0.01 * n, "threshold": 0.5, "partition": "all",
         "other_image_id": photos[0]["image_id"] if issue == "near_duplicate" else None}
        for issue, count in (("dark", 8), ("near_duplicate", 2), ("greyscale", 24))
        for n, photo in enumerate(photos[:count])
    ]  # fmt: skip
    write(world.catalog.issues, rows, "all")
    page = Page(report_of(world.catalog))
    text = page.sections["issues"]
    assert "dark: 8 images (33.3%)" in text
    assert "greyscale: 24 images (100.0%)" in text
    assert "that is how this dataset is" in text
    assert page.count("issues", "img") == 6 + 2 * 2  # a near-duplicate beside what it is a copy of


def test_what_leaks_across_a_sources_own_split_is_said(world: World) -> None:
    assert "No group straddles two splits." in Page(world.page()).sections["splits"]
    photos = [
        {
            "image_id": f"{n}",
            "group_id": f"{n % 4}",
            "split": ("train", "test", "set_aside")[n // 4],
        }
        for n in range(9)
    ]
    write(world.catalog.splits, photos, None)
    storage.write_json(
        storage.join(world.catalog.model(VERSION), "model.json"),
        {**(models.read_model(world.catalog, VERSION) or {}), "tables": {"images": 1}},
    )
    text = Page(report_of(world.catalog)).sections["splits"]
    assert "tears 4 groups apart" in text
    assert "4 of 10 test images (40.0%)" in text
    assert "1 image is set aside" in text


def test_the_scree_plot_marks_the_chosen_count(world: World) -> None:
    ratios = [0.4, 0.3, 0.15, 0.1]
    world.reduction = {"components": 4, "dim": 512, "total_explained": 0.95}
    world.reduction["explained_variance_ratio"] = ratios
    page = Page(world.page())
    assert "4 components of 512 carry 95.0%" in page.sections["components"]
    assert "k = 4, 95.0%" in page.sections["components"]
    assert page.count("components", "rect", "bar") == 4
    assert page.count("components", "circle") == 1


def test_without_reduction_a_sentence_stands_for_the_scree_plot(world: World) -> None:
    page = Page(world.page())
    assert "were not reduced" in page.sections["components"]
    assert page.count("components", "svg") == 0


def test_the_confusion_matrix_counts_true_against_predicted(world: World) -> None:
    page = Page(world.page())
    text = page.sections["confusion"]
    assert "cat taken for dog (2 times)" in text
    assert "True cat dog owl cat 2 dog 2 owl 2" in text
    assert page.count("confusion", "td", "right-cell") == 2
    assert page.count("confusion", "td", "wrong-cell") == 1


def test_the_weakest_class_comes_first(world: World) -> None:
    text = Page(world.page()).sections["per_class"]
    assert "cat 0.000 0.000 0.000 2 dog 0.500 1.000 0.667 2 owl 1.000 1.000 1.000 2" in text


def test_predictions_are_marked_in_words_and_signs(tmp_path: Path) -> None:
    world = World(str(tmp_path), images_each=40, wrong=5)
    page = Page(world.page())
    wrong = page.count("predictions", "li", "wrong")
    assert page.count("predictions", "li") == 24
    assert page.count("predictions", "img") == 24
    assert page.count("predictions", "li", "right") == 24 - wrong
    text = page.sections["predictions"]
    assert text.count("✗ wrong") == wrong > 0
    assert text.count("✓ right") == 24 - wrong
    assert f"{24 - wrong} of them right" in text


def test_the_surest_mistakes_come_first_with_their_names(tmp_path: Path) -> None:
    world = World(str(tmp_path), images_each=80, wrong=15)
    page = Page(world.page())
    text = page.sections["mistakes"]
    assert "The 12 of 15 wrong predictions" in text
    assert page.count("mistakes", "li", "wrong") == page.count("mistakes", "li") == 12
    assert re.findall(r"wrong (\d+)%", text) == [str(99 - rank) for rank in range(12)]
    assert "60.png" in text


def test_no_mistakes_are_good_news(tmp_path: Path) -> None:
    page = Page(World(str(tmp_path), wrong=0).page())
    assert "None: no test image was named wrong." in page.sections["mistakes"]
    assert "No test image was taken for another class." in page.sections["confusion"]


def test_timings_show_speed_where_images_were_counted(world: World) -> None:
    text = Page(world.page()).sections["timings"]
    assert "fetch_images 20 taken, 4 known, not fetched again, 123.5 kB 4.0 s 5.0" in text
    assert "featurize 0 featurized, 24 known, not computed again 2.5 s Training" in text
    assert "train 18 rows 61 s" in text


def test_a_task_that_had_nothing_to_do_says_why(world: World) -> None:
    world.page()
    world.record("train_pets", "reduce", "10:01", 0.1, components=0, skipped="nothing to reduce")
    text = Page(report_of(world.catalog)).sections["timings"]
    assert "reduce skipped: nothing to reduce 0.1 s" in text


def test_a_missing_run_is_said(world: World) -> None:
    world.with_records = False
    assert "No record of an ingest run is held." in Page(world.page()).sections["timings"]


def test_provenance_names_versions_parameters_and_penalties(world: World) -> None:
    text = Page(world.page()).sections["provenance"]
    assert "images 1 24 splits 1 24" in text
    assert "penalty 0.003 93.21% – penalty 0.03 chosen 95.12% 0.432" in text
    assert "seed of this run 3" in text
    assert "reduce.explained_variance 0.95" in text
    assert "backbone.seed 7" in text


def test_headings_come_in_order(world: World) -> None:
    levels = [int(tag[1]) for tag, _ in Page(world.page()).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in zip(levels, levels[1:], strict=False))


def test_every_picture_has_an_alternative_text(world: World) -> None:
    world.rejects = [("photos/a.jpg", "corrupt", jpeg())]
    pictures = [attributes for tag, attributes in Page(world.page()).elements if tag == "img"]
    assert pictures
    assert all(one["alt"].strip() for one in pictures)


def test_a_model_that_is_not_there_is_named(world: World) -> None:
    with pytest.raises(StorageError, match="No model '20261121-101500' of dataset pets"):
        report_of(world.catalog)


def test_content_is_read_only_from_row_groups_that_hold_a_picture_shown(world: World) -> None:
    first, second = world.write_images(images_per_row_group=1)[:2]
    spoil_content(tables.file_urls(world.catalog.images)[0], row_group=1)
    gallery = Gallery(world.catalog.images, None)
    shown = gallery.picture(first["image_id"], 32)
    gone = gallery.picture("0" * 64, 32)
    gallery.load()
    assert shown.source.startswith("data:image/jpeg;image=")
    assert gone.source == ""
    gallery.picture(second["image_id"], 32)
    with pytest.raises(OSError):
        gallery.load()


def test_an_image_that_was_taken_down_leaves_a_gap_not_a_failure(world: World) -> None:
    photos = world.write_images()
    world.write_splits(photos)
    tested = [photo for photo in photos if photo["split"] == "test"]
    world.write_predictions([*tested, {"label": "owl", "image_id": "0" * 64}])
    world.write_model(photos)
    page = Page(report_of(world.catalog))
    assert page.count("predictions", "li") == 7
    assert page.count("predictions", "img") == 6
    assert page.count("predictions", "span", "no-picture") == 1


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/data/photos/cat/a b.jpg", "a b.jpg"),
        ("photos/a#1.jpg", "a#1.jpg"),
        ("s3://bucket/cat/a.jpg", "a.jpg"),
        ("https://joe:pw@host.example/a%20b.jpg?token=x#y", "a b.jpg"),
        ("https://joe:pw@host.example?token=x", "host.example"),
        ("zip://cat/a.jpg::https://host.example/all.zip?token=x", "a.jpg"),
    ],
)
def test_a_uri_is_shown_by_its_last_part(uri: str, name: str) -> None:
    assert formats.file_name(uri) == name


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0%"), (0.0001, "<0.1%"), (0.984, "98.4%"), (0.99999, ">99.9%"), (1.0, "100.0%")],
)
def test_a_percentage_is_0_or_100_only_where_the_share_is(share: float, text: str) -> None:
    assert formats.percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "<0.1 s"),
        (3.24, "3.2 s"),
        (119.6, "2 min 0 s"),
        (725, "12 min 5 s"),
        (4321, "1 h 12 min"),
    ],
)
def test_durations_are_read_in_the_fitting_unit(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


def test_the_wilson_interval_equals_published_values() -> None:
    # Newcombe (1998), table I: 81 of 263, and 0 of 20.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


@pytest.mark.parametrize("largest", [1e-6, 0.0137, 0.05, 0.999, 1, 7, 60, 2048, 131072])
def test_ticks_reach_the_largest_value_in_few_round_steps(largest: float) -> None:
    ticks = charts.ticks_up_to(largest)
    assert ticks[0] == 0
    assert largest * (1 - 1e-9) <= ticks[-1] < largest * 2
    assert 3 <= len(ticks) <= 6


def test_many_components_are_drawn_as_a_line() -> None:
    few, many = (charts.each_component([1 / count] * count) for count in (60, 61))
    assert len(few.bars) == 60
    assert few.line == ""
    assert many.bars == []
    assert len(many.line.split()) == 61


@pytest.mark.parametrize("count", [1, 2, 60, 61, 2048])
def test_a_chart_stays_inside_its_frame_and_small(count: int) -> None:
    ratios = [1 / count] * count
    for chart in (charts.each_component(ratios), charts.together(ratios, count)):
        points = [tuple(map(float, point.split(","))) for point in chart.line.split()]
        assert len(points) <= charts.MAX_POINTS
        assert all(
            charts.LEFT <= x <= charts.RIGHT and charts.TOP - 0.1 <= y <= charts.BOTTOM
            for x, y in points
        )
        assert all(x >= charts.LEFT and x + w <= charts.RIGHT for x, _, w, _ in chart.bars)
        assert chart.x_ticks[-1].text == f"{count:,}"


def test_a_harvest_is_shown_with_its_completeness(world: World) -> None:
    world.page()
    for day, missing, at in (("2026-11-04", 10, "09:00"), ("2026-11-05", 0, "09:30")):
        harvest = {
            "reported": 100, "unique": 100 - missing, "missing": missing, "duplicate": 1,
            "several_classes": 2, "without_url": 0, "queries": 7, "completeness": 1 - missing / 100,
        }  # fmt: skip
        task = ledger.TaskRun("ingest_pets", day, "list_images", day)
        record = ledger.Record(
            "list_images", "ingest_pets", day, day, f"2026-11-21T{at}:00", 1.0, {"harvest": harvest}
        )
        storage.write_json(ledger.record_url(world.catalog, task), vars(record))
    shown = Page(report_of(world.catalog)).sections["source"]
    assert "190 of 200 photos that the searches report were found: 95.0% complete" in shown
    assert "Not complete: 2026-11-04." in shown
    assert "4 photos found by several classes' searches went to the first" in shown


def test_what_open_images_says_is_shown(world: World) -> None:
    world.page()
    found = {
        "labels": [["Car", "verification", True, 30], ["Car", "<machine>", False, 4]],
        "several_classes": [["Car", "Tree", 3]],
        "ambiguous": "keep_as both",
        "images_by_class": {"Car": 27, "Tree": 12},
        "original_bytes": [1_000, 2_000, 3_000, 4_000, 5_000],
        "rotated": 2,
        "not_in_the_image_list": 1,
    }
    world.record("ingest_pets", "list_images", "09:00", 3.0, listed=39, exploration=found)
    page = report_of(world.catalog)
    shown = Page(page).sections["source"]
    assert "27 images of Car, 12 images of Tree. 2 images to be rotated." in shown
    assert "Car and Tree: 3." in shown and "labelled both" in shown
    assert "<machine>" not in page and "&lt;machine&gt;" in page


def test_a_source_that_says_nothing_has_no_section(world: World) -> None:
    world.page()
    page = report_of(world.catalog)
    assert "source" not in Page(page).sections
    assert "What the source says" not in page


def test_without_a_decision_there_is_no_section_of_one(world: World) -> None:
    assert not {"decision", "calibration", "slices"} & set(Page(world.page()).sections)


def test_the_decision_shows_the_candidates_beside_the_champion(world: World) -> None:
    world.judge()
    plain = {"accuracy": 0.7, "macro_f1": 0.65}
    rows = [
        {
            "model_version": VERSION,
            "split": "test_plain",
            "name": name,
            "label": None,
            "value": value,
        }
        for name, value in plain.items()
    ]
    world.page()
    urls = tables.write_batches(
        world.catalog.metrics, [pa.RecordBatch.from_pylist(rows, world.catalog.metrics.schema)]
    )
    tables.append_new(world.catalog.metrics, urls, VERSION, Writer("test"), "name")
    text = Page(report_of(world.catalog)).sections["decision"]
    assert "Proposed as champion. It is 0.2500 more accurate than champion old." in text
    assert "head on features 20261121-plan 50.00% 48.75% – 1.250 – 6" in text
    assert (
        f"fine-tuned network, with test-time augmentation this page {VERSION} 75.00% – – – 0.062 6"
    ) in text
    assert (
        f"fine-tuned network, without test-time augmentation {VERSION} 70.00% – 0.650 – – 6" in text
    )
    assert "champion before, head on features old 50.00% 48.75% – 1.250 – 4" in text
    assert "the network alone has 2 right and the head alone 1" in text
    assert "+25.00 points (90% interval -10.00 to +50.00)" in text


def test_a_refused_model_is_not_called_proposed(world: World) -> None:
    world.judge(passed=False, reasons=["Its accuracy 0.7500 is below gate.min, 0.9."])
    text = Page(world.page()).sections["decision"]
    assert "Not proposed as champion. Its accuracy 0.7500 is below gate.min, 0.9." in text
    assert "Proposed" not in text


def test_where_a_person_is_asked_the_page_says_so(world: World) -> None:
    world.judge(gate={"confidence": 0.95, "approval": True}, between=None, champion=None)
    text = Page(world.page()).sections["decision"]
    assert "Proposed as champion, if a person approves it in Airflow." in text
    assert "champion before" not in text
    assert "candidates" not in text


def test_the_page_is_of_the_candidate_that_was_chosen(world: World) -> None:
    world.page()
    world.judge()
    decision = models.read_decision(world.catalog, VERSION)
    assert decision is not None
    models.write_decision(world.catalog, "plan", decision)
    url = reporting.write_report(world.catalog, "plan", "ingest_pets", "train_pets", "run")
    assert Path(url).name == f"{VERSION}.html"


FINE_TUNING = {
    "precision": "bf16",
    "best_epoch": 4,
    "settings": {
        **FineTuneSpec(augmentation=({"HorizontalFlip": {}}, {"Blur": {}})).model_dump(mode="json"),
        "phases": [
            {"trainable": "head", "epochs": 2, "learning_rate": 0.01},
            {"trainable": "half", "epochs": 3, "learning_rate": 0.001},
        ],
    },
    "history": [
        vars(Epoch(number, 1 / number, 0.5, loss, 0.6, 1e-3, 30.0, 9.0))
        for number, loss in enumerate([2.0, 1.5, 0.9, 0.8, 0.85], start=1)
    ],
    "search": [
        vars(Trial({"learning_rate": rate, "optimizer": "sgd"}, accuracy, 0.5, 9.0))
        for rate, accuracy in ((0.01, 0.5), (0.003, 0.7))
    ],
}


def test_a_fine_tuned_network_has_a_page_of_its_own_kind(world: World) -> None:
    world.more_model = {"kind": "fine_tuned", "head": None, "fine_tuning": FINE_TUNING}
    page = Page(world.page())
    course = page.sections["training_course"]
    assert "the weights of epoch 4 are kept" in course
    assert "head for 2 epochs at 0.01; then half for 3 epochs at 0.001" in course
    assert "Albumentations: HorizontalFlip, Blur" in course
    assert page.count("training_course", "polyline", "line") == 2
    assert page.count("training_course", "polyline", "guide") == 2
    assert course.index("0.003") < course.rindex("0.01")  # trials, the best first
    assert "components" not in page.sections
    assert "fine-tuned on the train images, 5 epochs" in page.sections["result"]
    assert "Penalties tried" not in page.sections["provenance"]
    assert page.count("confusion", "td", "right-cell") == 2


def test_the_duplicate_free_score_stands_beside_the_raw_one(world: World) -> None:
    metrics = {"accuracy": 0.75, "duplicate_free_accuracy": 0.625}
    world.more_model = {"metrics": metrics, "rows": {"train": 18, "test": 6, "duplicate_free": 4}}
    assert "Duplicate-free: 62.5% of 4 test images" in Page(world.page()).sections["result"]
    same = {"train": 18, "test": 6, "duplicate_free": 6}
    world.more_model["rows"] = same
    world.write_model(world.write_images())
    text = Page(report_of(world.catalog)).sections["result"]
    assert "No test image is a near-copy of another image" in text


def test_the_reliability_plot_has_a_dot_for_each_bin(world: World) -> None:
    bins = {"8": (10, 0.5, 0.4), "12": (30, 0.8, 0.9), "15": (60, 0.98, 0.95)}
    for label, values in bins.items():
        names = ("images", "confidence", "accuracy")
        world.more_metrics += [
            (f"reliability:{name}", label, value) for name, value in zip(names, values, strict=True)
        ]
    world.more_model = {"metrics": {"accuracy": 0.88, "calibration_error": 0.058}}
    page = Page(world.page())
    text = page.sections["calibration"]
    assert "a probability of 87.8% on average, and 88.0% of them are right" in text
    assert "is 0.058" in text
    dots = [at for tag, at in page.within["calibration"] if tag == "circle"]
    assert [float(dot["cx"]) for dot in dots] == pytest.approx([228, 334.8, 398.9], abs=0.1)
    assert float(dots[0]["cy"]) == pytest.approx(206 - 0.4 * 188, abs=0.1)
    assert [dot["r"] for dot in dots] == ["4.6", "5.8", "7.0"]
    assert page.count("calibration", "rect", "bar") == 3
    assert page.count("calibration", "polyline", "guide") == 1


def test_slices_come_worst_first_and_small_ones_are_marked(world: World) -> None:
    found = [("size", "64 to 127 px", 120, 0.9), ("size", "128 to 255 px", 40, 0.75)]
    found += [("size", "under 64 px", 5, 0.8), ("licence", "CC0", 165, 0.85)]
    found += [("source", f"host{number}.example", 8, 1 - number / 100) for number in range(25)]
    for kind, name, number, accuracy in found:
        world.more_metrics += [
            (f"slice:{kind}:images", name, number), (f"slice:{kind}:accuracy", name, accuracy),
        ]  # fmt: skip
    page = Page(world.page())
    text = page.sections["slices"]
    assert "128 to 255 px 40 75.0% 59.8% to 85.8% under 64 px few 5 80.0%" in text
    assert text.index("under 64 px") < text.index("64 to 127 px")
    assert "Licence" not in text  # all images are of one
    assert "The 20 worst of 25." in text
    assert "host24.example" in text and "host3.example" not in text
    assert page.count("slices", "tr", "few") == 21


@pytest.mark.parametrize("counts", [[1], [0, 3], [5] * 15, [0] * 14 + [12345]])
def test_a_histogram_stays_inside_its_frame(counts: list[int]) -> None:
    chart = charts.histogram(counts)
    assert len(chart.bars) == sum(count > 0 for count in counts)
    assert all(x >= charts.LEFT and x + w <= charts.RIGHT for x, _, w, _ in chart.bars)
    assert all(y >= charts.TOP - 0.1 for _, y, _, _ in chart.bars)
    assert all(float(tick.text.replace(",", "")) % 1 == 0 for tick in chart.y_ticks)
