"""Which images predict_<dataset> asks a model about, and what there is of them to predict from.

Wanted are the images that nobody has labelled, on request all or those of a partition, and what the model
has answered before: so a run exchanges a model's answers for at least as many.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from sightline import label_overrides, models, rejection, tables
from sightline.catalog import Catalog
from sightline.errors import ConfigError

UNLABELLED, ALL = "unlabelled", "all"

# An image to predict may be rejected because its bytes are held under another uri: that one answers.
ASKED = """
    SELECT {columns} FROM {images} i
    {how} JOIN {source} p ON p.image_id = i.image_id AND p.{condition}
    LEFT JOIN (SELECT image_id FROM answers WHERE model_version = {version}) a
        ON a.image_id = i.image_id
    LEFT JOIN (
        SELECT DISTINCT {holder} AS uri FROM rejects r
        JOIN manifest m ON m.uri = r.uri AND m.split_hint = 'predict'
        WHERE r.reason = 'duplicate'
    ) t ON t.uri = i.uri
    WHERE ({wanted} OR t.uri IS NOT NULL OR a.image_id IS NOT NULL)
"""


@dataclass(frozen=True)
class Wanted:
    """What a run of predict_<dataset> works on: fixed when it begins."""

    version: str  # of the model
    images_version: int
    images: str = UNLABELLED
    partition: str | None = None  # whose images are wanted, too

    @property
    def condition(self) -> str:
        """The SQL condition for an image i."""
        if self.images == ALL:
            return "true"
        unlabelled = "i.label IS NULL OR i.split_hint = 'predict'"
        if self.partition is None:
            return unlabelled
        return f"{unlabelled} OR i.partition = {tables.literal(self.partition)}"

    def as_text(self) -> str:
        """For the command line of a Spark job, and the next task."""
        return json.dumps(asdict(self))


def from_text(text: str) -> Wanted:
    """What `as_text` has written."""
    return Wanted(**json.loads(text))


def of_champion(catalog: Catalog, images: str, partition: str | None) -> Wanted:
    """What to ask the champion of now; TrainingError where there is none, ConfigError where the partition
    is unknown."""
    champion = models.require_champion(catalog)
    if partition is not None and not tables.count_rows(catalog.images, partition=partition):
        raise ConfigError(
            f"Dataset {catalog.dataset} holds no images of partition {partition!r}; give one such as "
            "2026-11-05, or none."
        )
    version = tables.current_version(catalog.images) or 0
    return Wanted(champion["version"], version, images, partition)


def count(catalog: Catalog, model: dict[str, Any], wanted: Wanted) -> int:
    """How many images are wanted."""
    reader = _ask(catalog, model, wanted, "count(*) AS images", "LEFT")
    return int(sum(batch["images"][0].as_py() for batch in reader if batch.num_rows))


def missing_ids(catalog: Catalog, model: dict[str, Any], wanted: Wanted) -> frozenset[str]:
    """Those of which the model has nothing to predict from yet: features, or scores of its own."""
    batches = _ask(catalog, model, wanted, "i.image_id", "LEFT", "p.image_id IS NULL")
    return frozenset(one for batch in batches for one in batch["image_id"].to_pylist())


def rows(catalog: Catalog, model: dict[str, Any], wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """Batches of image_id, uri, label and values: a head's embeddings, or a network's probabilities, those
    with test-time augmentation where it has them. None is empty."""
    of_kind = {
        models.HEAD: "p.embedding",
        models.FINE_TUNED: "coalesce(p.augmented, p.probabilities)",
    }
    columns = f"i.image_id, i.uri, i.label, {of_kind[model['kind']]} AS values"
    batches = _ask(catalog, model, wanted, columns, "INNER")
    yield from (batch for batch in batches if batch.num_rows)


def _ask(
    catalog: Catalog, model: dict[str, Any], wanted: Wanted, columns: str, how: str, also: str = ""
) -> Iterator[pa.RecordBatch]:
    if model["kind"] == models.HEAD:
        source, condition = "features", f"backbone_id = {tables.literal(model['backbone_id'])}"
    else:
        source, condition = "scores", f"model_version = {tables.literal(wanted.version)}"
    statement = ASKED.format(
        columns=columns,
        how=how,
        source=source,
        condition=condition,
        version=tables.literal(wanted.version),
        wanted=wanted.condition,
        holder=rejection.HOLDER,
        images=label_overrides.IMAGES,
    )
    images = tables.open_table(catalog.images, wanted.images_version)
    names = (source, "answers", "rejects", "manifest", "label_overrides")
    read = {name: getattr(catalog, name) for name in names}
    with tables.stream_query(images=images or catalog.images, **read) as sql:
        yield from sql(f"{statement} AND {also}" if also else statement)
