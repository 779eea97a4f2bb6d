"""The training photos that are most like another one, by the cosine of their embeddings.

All train embeddings of the model's backbone lie in memory, within a bound: where they are too many for it
they are projected at random to fewer dimensions, which keeps cosines nearly as they are.
"""

from typing import Any

import numpy as np

from sightline import tables
from sightline.batches import to_matrix
from sightline.catalog import Catalog
from sightline.models import plan_of
from sightline.reporting.pictures import Gallery
from sightline.serving.questions import Neighbour

Array = np.ndarray[Any, Any]
MOST_BYTES = 256 * 2**20  # of the embeddings in memory
LEAST_DIMENSIONS = (
    64  # fewer say little; of more photos than fit so, the first by their id are known
)
PICTURE_SIDE = 112  # pixels
KEPT_PICTURES = 1000  # of some 5 kB each

TRAINED_ON = """
    SELECT i.image_id, i.label FROM images i
    JOIN splits s ON s.image_id = i.image_id AND s.split = 'train'
    LEFT ANTI JOIN (SELECT image_id FROM exclusions WHERE model_version = {plan}) e
        ON e.image_id = i.image_id
    WHERE i.label IS NOT NULL ORDER BY i.image_id LIMIT {most}
"""


class Neighbours:
    """Finds them; reads the tables again once they have changed, so that what was taken down is gone."""

    def __init__(
        self, catalog: Catalog, model: dict[str, Any], most_bytes: int = MOST_BYTES
    ) -> None:
        self.catalog = catalog
        self.model = model
        self.most_bytes = most_bytes
        self._versions: tuple[int | None, ...] | None = None
        self._ids: list[str] = []
        self._labels: dict[str, str] = {}
        self._kept: dict[str, str] = {}
        self._projection: Array | None = None  # (dim, fewer), or None where all dimensions fit
        self._embeddings = np.zeros((0, 1), np.float32)  # (photos, dimensions), of length 1 each

    def nearest(self, embedding: Array, count: int, with_pictures: bool) -> list[Neighbour]:
        """So many training photos, the most alike first, for an embedding (dim,)."""
        self._refresh(len(embedding))
        if not self._ids:
            return []
        similarities = self._embeddings @ self._projected(embedding[None])[0]
        best = np.argsort(-similarities, kind="stable")[:count]
        ids = [self._ids[place] for place in best]
        pictures = self._pictures(ids) if with_pictures else {}
        return [
            Neighbour(
                one, self._labels[one], min(1.0, float(similarities[place])), pictures.get(one)
            )
            for one, place in zip(ids, best, strict=True)
        ]

    def _refresh(self, dim: int) -> None:
        read = (self.catalog.features, self.catalog.images, self.catalog.splits)
        versions = tuple(tables.current_version(table) for table in read)
        if versions == self._versions:
            return
        self._kept = {}
        self._labels = self._train_labels()
        fitting = max(LEAST_DIMENSIONS, self.most_bytes // (4 * max(1, len(self._labels))))
        self._projection = None
        if fitting < dim:
            drawn = np.random.default_rng(0).normal(size=(dim, fitting)) / np.sqrt(fitting)
            self._projection = drawn.astype(np.float32)
        self._ids, self._embeddings = self._read(min(dim, fitting))
        self._versions = versions

    def _train_labels(self) -> dict[str, str]:
        plan = tables.literal(plan_of(self.model["version"]))
        most = self.most_bytes // (4 * LEAST_DIMENSIONS)
        # Splits as they were for the model: what came later it has not seen.
        version = self.model["tables"].get("splits")
        with tables.query(
            images=self.catalog.images,
            splits=tables.version_or_newest(self.catalog.splits, version),
            exclusions=self.catalog.exclusions,
        ) as sql:
            found = sql(TRAINED_ON.format(plan=plan, most=most))
        pairs = zip(found["image_id"].to_pylist(), found["label"].to_pylist(), strict=True)
        return dict(pairs)

    def _read(self, dimensions: int) -> tuple[list[str], Array]:
        """The embeddings that are there of the train images; memory is filled once, without copies."""
        ids: list[str] = []
        matrix = np.empty((len(self._labels), dimensions), np.float32)
        batches = tables.read_batches(
            self.catalog.features,
            ["image_id", "embedding"],
            batch_rows=1024,
            partition=self.model["backbone_id"],
        )
        for batch in batches:
            held = batch["image_id"].to_pylist()
            rows = [row for row, one in enumerate(held) if one in self._labels]
            if rows:
                chosen = self._projected(to_matrix(batch["embedding"])[rows])
                matrix[len(ids) : len(ids) + len(rows)] = chosen
                ids += [held[row] for row in rows]
        return ids, matrix[: len(ids)]

    def _projected(self, embeddings: Array) -> Array:
        """Embeddings (n, dim) in the dimensions that are kept, of length 1 each."""
        kept = embeddings if self._projection is None else embeddings @ self._projection
        lengths = np.linalg.norm(kept, axis=1, keepdims=True)
        return np.asarray(kept / np.maximum(lengths, 1e-12), dtype=np.float32)

    def _pictures(self, ids: list[str]) -> dict[str, str]:
        """Thumbnails as data URIs; those shown last are kept, for the same photos are near to many."""
        missing = [one for one in ids if one not in self._kept]
        gallery = Gallery(self.catalog.images, None)
        wanted = {one: gallery.picture(one, PICTURE_SIDE) for one in missing}
        gallery.load()  # reads nothing where nothing is wanted
        found = {one: picture.source for one, picture in wanted.items() if picture.source}
        known = {**self._kept, **found}
        self._kept = dict([*known.items()][-KEPT_PICTURES:])
        return {one: known[one] for one in ids if one in known}
