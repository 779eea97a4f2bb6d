"""The images that are most alike to one, by the angle of their embeddings: one pass over the features."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline import delta, lookup, models, tables
from sightline.batches import to_matrix
from sightline.catalog import Catalog
from sightline.tables import literal
from sightline.web.recent import Recent

SHOWN = 12
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Neighbour:
    """An image, and how alike it is."""

    image_id: str
    uri: str
    label: str | None
    similarity: float  # cosine: 1 is the same direction


_found: Recent[list[Neighbour]] = Recent(512)


def find_neighbours(catalog: Catalog, image_id: str) -> list[Neighbour] | None:
    """The nearest images, the most alike first; None where the image has no embedding yet."""
    backbone_id = backbone_of(catalog)
    if backbone_id is None:
        return None
    names = ("features", "images", "label_overrides")
    versions = (tables.current_version(getattr(catalog, name)) for name in names)
    key = (catalog.root, backbone_id, image_id, *versions)
    return _found.get(key, lambda: _find(catalog, backbone_id, image_id)) or None


def backbone_of(catalog: Catalog) -> str | None:
    """The champion's backbone; without a champion one that has embeddings, None where none has."""
    champion = models.read_champion(catalog)
    held = sorted(filter(None, delta.urls_by_partition(catalog.features)))
    if champion is not None and champion["backbone_id"] in held:
        return str(champion["backbone_id"])
    return held[-1] if held else None


def embedding_batches(catalog: Catalog, backbone_id: str) -> Iterator[tuple[list[str], Array]]:
    """Ids and embeddings (n, dim) of a backbone, batch by batch."""
    for batch in tables.read_batches(
        catalog.features, ["image_id", "embedding"], partition=backbone_id
    ):
        if batch.num_rows:
            yield batch["image_id"].to_pylist(), to_matrix(batch["embedding"])


def _find(catalog: Catalog, backbone_id: str, image_id: str) -> list[Neighbour]:
    rows = lookup.rows_of(catalog.features, "image_id", [image_id]).to_pylist()
    own = next((row["embedding"] for row in rows if row["backbone_id"] == backbone_id), None)
    if own is None:
        return []
    direction = _directions(np.array([own], np.float32))[0]
    best: list[tuple[float, str]] = []
    for ids, embeddings in embedding_batches(catalog, backbone_id):
        similarities = _directions(embeddings) @ direction
        nearest = np.argsort(-similarities)[: SHOWN + 1]
        best += [(float(similarities[row]), ids[row]) for row in nearest if ids[row] != image_id]
        best = sorted(best, key=lambda one: (-one[0], one[1]))[:SHOWN]
    return _described(catalog, best)


def _described(catalog: Catalog, best: list[tuple[float, str]]) -> list[Neighbour]:
    listed = ", ".join(literal(image_id) for _, image_id in best) or "''"
    with tables.query(images=catalog.images, label_overrides=catalog.label_overrides) as sql:
        found = sql(
            "SELECT i.image_id, i.uri, coalesce(o.label, i.label) AS label FROM images i "
            "LEFT JOIN label_overrides o ON o.image_id = i.image_id "
            f"WHERE i.image_id IN ({listed})"
        )
    known = {row["image_id"]: row for row in found.to_pylist()}
    return [
        Neighbour(**known[image_id], similarity=similarity)
        for similarity, image_id in best
        if image_id in known
    ]


def _directions(embeddings: Array) -> Array:
    """Vectors of length 1, but for those of length 0."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(lengths > 0, lengths, 1))
