"""Which images are new, and what they are compared with: the champion's train images, or older partitions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable

from sightline import models, tables
from sightline.catalog import Catalog
from sightline.tables import Table, literal

OLDER = "older partitions"
MOST_IMAGES = 20_000  # of a side that are looked at, chosen by their hash

# What the source wants predicted trains nobody.
WANTED = "coalesce(i.split_hint, '') <> 'predict'"
UNKNOWN = "LEFT ANTI JOIN splits s ON s.image_id = i.image_id"  # neither trained nor tested on
TRAINED = "JOIN splits s ON s.image_id = i.image_id AND s.split = 'train'"


@dataclass(frozen=True)
class Sides:
    """Two sets of images, each as SQL from FROM on; conditions can be added."""

    catalog: Catalog
    splits: Table | DeltaTable
    reference: str  # what it is called: a model's version, or OLDER
    new_sql: str
    reference_sql: str
    new_images: int
    reference_images: int

    @property
    def samples(self) -> tuple[str, str]:
        """Both sides' SQL for MOST_IMAGES of them, the same ones every time."""
        new = f"{self.new_sql} AND {_sampled(self.new_images)}"
        return new, f"{self.reference_sql} AND {_sampled(self.reference_images)}"

    @contextmanager
    def query(self, **more: Table) -> Iterator[Callable[[str], pa.RecordBatchReader]]:
        """Run SQL over images, splits and more tables."""
        with tables.stream_query(images=self.catalog.images, splits=self.splits, **more) as sql:
            yield sql


def choose_sides(catalog: Catalog, partition: str) -> Sides:
    """What there is to compare for a partition."""
    name = literal(partition)
    champion = models.read_champion(catalog)
    if champion is None:
        ours, others = (
            f"FROM images i WHERE {WANTED} AND i.partition {how} {name}" for how in ("=", "<")
        )
        return _counted(catalog, catalog.splits, OLDER, ours, others)
    ours = f"FROM images i {UNKNOWN} WHERE {WANTED} AND i.partition = {name}"
    trained = f"FROM images i {TRAINED} WHERE {WANTED}"
    splits = tables.version_or_newest(catalog.splits, champion["tables"]["splits"])
    return _counted(catalog, splits, champion["version"], ours, trained)


def _counted(
    catalog: Catalog, splits: Table | DeltaTable, reference: str, new_sql: str, reference_sql: str
) -> Sides:
    with tables.query(images=catalog.images, splits=splits) as sql:
        new, old = (sql(f"SELECT count(*) AS n {side}")["n"][0].as_py()
                    for side in (new_sql, reference_sql))  # fmt: skip
    return Sides(catalog, splits, reference, new_sql, reference_sql, new, old)


def _sampled(count: int) -> str:
    """The SQL condition for about MOST_IMAGES of so many: an image's id is a hash of its bytes."""
    if count <= MOST_IMAGES:
        return "true"
    return f"i.image_id < '{int(MOST_IMAGES / count * 16**8):08x}'"
