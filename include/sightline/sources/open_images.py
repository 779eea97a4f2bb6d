"""Open Images: the images of a subset that people have verified to show one of some classes.

Its tables are kept as they come (up to gigabytes), cut down to Parquet batch by batch, and joined in
Spark. https://storage.googleapis.com/openimages/web/download_v7.html says what their columns mean.
"""

import difflib
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from sightline import spark, storage, tables
from sightline.errors import SourceError
from sightline.source_config import OpenImagesSource
from sightline.sources import downloads
from sightline.sources.access import Access, Survey, in_lists
from sightline.sources.downloads import Wanted
from sightline.sources.text_tables import read_text_table
from sightline.tables import Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row

log = logging.getLogger(__name__)

CLASSES = "v5/class-descriptions-boxable.csv"  # identifier and name, without a header
LABELS = "v5/{}-annotations-human-imagelabels-boxable.csv"
IMAGES = {
    "train": "2018_04/train/train-images-boxable-with-rotation.csv",
    "validation": "2018_04/validation/validation-images-with-rotation.csv",
    "test": "2018_04/test/test-images-with-rotation.csv",
}
LABEL_SCHEMA = pa.schema(
    [
        ("ImageID", pa.string()),  # 16 hexadecimal digits
        ("Source", pa.string()),
        ("LabelName", pa.string()),  # the class's identifier
        ("Confidence", pa.string()),  # of a person: 1 seen, 0 not there; written 1 or 1.0
    ]
)
IMAGE_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in (
            "ImageID", "OriginalLandingURL", "License", "Author", "Title", "OriginalSize", "Rotation",
        )
    ]
)  # fmt: skip


def survey(source: OpenImagesSource, access: Access) -> Survey:
    """Whether the classes are known and the tables are there; how many images is known after the join."""
    names = sorted(set(_read_classes(source, access).values()))
    sizes = [
        downloads.size_of(_wanted(source, path), access.catalog) or 0 for path in _paths(source)
    ]
    megabytes = sum(sizes) / 1e6
    fact = f"Open Images {source.subset}: {', '.join(names)}; tables of {megabytes:,.0f} MB"
    return Survey(facts=(fact,))


def list_images(source: OpenImagesSource, access: Access) -> Iterator[list[dict[str, Any]]]:
    """Yield a row for each image that carries one of the classes; runs in a Spark job."""
    names = _read_classes(source, access)
    labels, images = (
        downloads.keep(_wanted(source, path), access.catalog) for path in _paths(source)
    )
    folder = storage.join(access.catalog.staging, f"open-images-{uuid.uuid4().hex}")
    try:
        join = Join(source, names, _cut_labels(labels, names, folder), _cut_images(images, folder))
        access.metrics["exploration"] = join.explore()
        found = join.select().toLocalIterator()
        yield from in_lists(_manifest_row(row, source) for row in found)
    finally:
        storage.remove_tree(folder)


def _paths(source: OpenImagesSource) -> list[str]:
    return [LABELS.format(source.subset), IMAGES[source.subset]]


def _wanted(source: OpenImagesSource, path: str) -> Wanted:
    return Wanted(path.rsplit("/", 1)[-1], [storage.join(source.tables, path)])


def _read_classes(source: OpenImagesSource, access: Access) -> dict[str, str]:
    """Identifier -> name of the wanted classes; SourceError where a name is not among Open Images'."""
    path = downloads.keep(_wanted(source, CLASSES), access.catalog)
    known = {
        row["id"]: row["name"]
        for batch in read_text_table(path, ["id", "name"], names=["id", "name"])
        for row in batch.to_pylist()
    }
    for name in source.classes:
        if name not in known.values():
            close = difflib.get_close_matches(name, known.values(), n=3)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
            raise SourceError(
                f"Open Images has no class {name!r} among its {len(known)} boxable ones{hint}"
            )
    return {mid: name for mid, name in known.items() if name in source.classes}


def _cut_labels(path: str, names: dict[str, str], folder: str) -> list[str]:
    """The labels of the wanted classes, whatever they say."""
    wanted = pa.array(list(names))
    batches = (
        batch.filter(pc.is_in(batch["LabelName"], wanted))
        for batch in read_text_table(path, LABEL_SCHEMA.names)
    )
    return tables.write_batches(Table("labels", folder, LABEL_SCHEMA), batches)


def _cut_images(path: str, folder: str) -> list[str]:
    batches = read_text_table(path, IMAGE_SCHEMA.names)
    return tables.write_batches(Table("images", folder, IMAGE_SCHEMA), batches)


@dataclass(frozen=True)
class Join:
    """The labels and the list of images of a subset, as Parquet files."""

    source: OpenImagesSource
    names: dict[str, str]  # identifier -> class
    label_files: list[str]
    image_files: list[str]

    def select(self) -> "DataFrame":
        """ImageID, label, and the image's own columns (null where the list does not hold it), by ImageID."""
        from pyspark.sql import functions as F  # noqa: N812  (Spark's own name for it)

        labelled = self._by_image()
        if self.source.ambiguous == "drop":
            labelled = labelled.where(F.size("classes") == 1)
        label = F.col("classes")[0]
        if self.source.ambiguous.startswith("keep_as "):
            kept = F.lit(self.source.ambiguous.removeprefix("keep_as "))
            label = F.when(F.size("classes") > 1, kept).otherwise(label)
        labelled = labelled.select("ImageID", label.alias("label"))
        return labelled.join(self._images(), "ImageID", "left").orderBy("ImageID")

    def explore(self) -> dict[str, Any]:
        """What the labels and images hold, for the report: counts, none of them larger than the classes."""
        from pyspark.sql import functions as F  # noqa: N812

        by_source = self._labels().groupBy("label", "Source", "is_there").count().collect()
        by_image = self._by_image()
        together = by_image.where(F.size("classes") > 1).groupBy("classes").count().collect()
        chosen = self.select()
        size = F.col("OriginalSize").cast("long")
        sizes = chosen.select(
            F.percentile_approx(size, [0.0, 0.25, 0.5, 0.75, 1.0]).alias("bytes"),
            F.count(F.when(F.col("Rotation").cast("double").between(1, 359), 1)).alias("rotated"),
            F.count(F.when(F.col("License").isNull(), 1)).alias("not_in_the_image_list"),
        ).first()
        assert sizes is not None
        return {
            "labels": sorted(
                [row["label"], row["Source"], row["is_there"], row["count"]] for row in by_source
            ),
            "several_classes": sorted([*row["classes"], row["count"]] for row in together),
            "ambiguous": self.source.ambiguous,
            "images_by_class": {
                row["label"]: row["count"] for row in chosen.groupBy("label").count().collect()
            },
            "original_bytes": list(sizes["bytes"] or []),
            "rotated": sizes["rotated"],
            "not_in_the_image_list": sizes["not_in_the_image_list"],
        }

    def _labels(self) -> "DataFrame":
        """label, Source, is_there and ImageID of every label about a wanted class."""
        from pyspark.sql import functions as F  # noqa: N812

        read = spark.read_files(_session(), self.label_files, LABEL_SCHEMA)
        names = F.create_map(*[F.lit(part) for pair in self.names.items() for part in pair])
        is_there = F.col("Confidence").cast("double") >= self.source.confidence
        return read.select(
            "ImageID",
            "Source",
            names[F.col("LabelName")].alias("label"),
            is_there.alias("is_there"),
        )

    def _by_image(self) -> "DataFrame":
        """ImageID and its classes in the dataset file's order; none that somebody says is not there."""
        from pyspark.sql import functions as F  # noqa: N812

        labels = self._labels()
        if self.source.sources:
            labels = labels.where(F.col("Source").isin(*self.source.sources))
        agreed = labels.groupBy("ImageID", "label").agg(F.min("is_there").alias("is_there"))
        order = F.array(*[F.lit(name) for name in self.source.classes])
        seen = agreed.where("is_there").groupBy("ImageID").agg(F.collect_set("label").alias("seen"))
        return seen.select("ImageID", F.array_intersect(order, "seen").alias("classes"))

    def _images(self) -> "DataFrame":
        return spark.read_files(_session(), self.image_files, IMAGE_SCHEMA)


def _session() -> Any:
    return spark.start_session("open images")


def _manifest_row(row: "Row", source: OpenImagesSource) -> dict[str, Any]:
    return {
        "uri": storage.join(source.images, source.subset, f"{row['ImageID']}.jpg"),
        "label": row["label"],
        "rotation": _degrees(row["Rotation"]),
        "licence": row["License"],
        "author": row["Author"],
        "landing_url": row["OriginalLandingURL"],
        "title": row["Title"],
    }


def _degrees(text: str | None) -> int | None:
    """Counter-clockwise degrees; `nan` stands where nobody knows."""
    return None if text is None or text == "nan" else round(float(text))
