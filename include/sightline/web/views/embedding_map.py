"""The embeddings as points of a plane: their first two principal components, of a bounded sample.

The sample is the images with the smallest ids. An id is a hash of the bytes, so that is a draw by lot, and
the same one as long as the images are the same.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline import models, tables
from sightline.catalog import Catalog
from sightline.classifiers import Pca
from sightline.config import ReduceSpec
from sightline.principal_components import fit_pca, sum_moments
from sightline.web.recent import Recent
from sightline.web.views.neighbours import backbone_of, embedding_batches

MOST_POINTS = 20_000
FITTED_ON = 4_000  # where no model has principal components already
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Points:
    """A point an image; labels as places in `classes`, -1 where there is none."""

    image_ids: list[str]
    x: list[float]  # 0..1
    y: list[float]
    labels: list[int]
    classes: list[str]
    images: int  # that have an embedding
    components: str  # of which these are two


_maps: Recent[Points | None] = Recent(8)


def read_points(catalog: Catalog) -> Points | None:
    """The map; None where there are fewer than three embeddings."""
    backbone_id = backbone_of(catalog)
    if backbone_id is None:
        return None
    names = ("features", "images", "label_overrides")
    versions = (tables.current_version(getattr(catalog, name)) for name in names)
    champion = models.read_champion(catalog)
    key = (catalog.root, backbone_id, champion and champion["version"], *versions)
    return _maps.get(key, lambda: _make(catalog, backbone_id, champion))


def _make(catalog: Catalog, backbone_id: str, champion: dict[str, Any] | None) -> Points | None:
    images = tables.count_rows(catalog.features, partition=backbone_id)
    if images < 3:
        return None
    label_of = _labels(catalog)
    limit = _limit(catalog, backbone_id, images, MOST_POINTS)
    pca, name = _components(catalog, backbone_id, images, champion)
    ids, placed = list[str](), list[Array]()
    for batch_ids, embeddings in embedding_batches(catalog, backbone_id):
        rows = [row for row, one in enumerate(batch_ids) if one <= limit and one in label_of]
        ids += [batch_ids[row] for row in rows]
        placed.append(pca.project(embeddings[rows]))
    if len(ids) < 3:
        return None
    plane = _scaled(np.concatenate(placed))
    classes = sorted({label for one in ids if (label := label_of[one]) is not None})
    place = {label: number for number, label in enumerate(classes)}
    labels = [place.get(label_of[one] or "", -1) for one in ids]
    return Points(ids, plane[:, 0].tolist(), plane[:, 1].tolist(), labels, classes, images, name)


def _labels(catalog: Catalog) -> dict[str, str | None]:
    with tables.query(images=catalog.images, label_overrides=catalog.label_overrides) as sql:
        found = sql(
            "SELECT i.image_id, coalesce(o.label, i.label) AS label FROM images i "
            f"LEFT JOIN label_overrides o ON o.image_id = i.image_id ORDER BY 1 LIMIT {MOST_POINTS}"
        )
    return dict(zip(found["image_id"].to_pylist(), found["label"].to_pylist(), strict=True))


def _limit(catalog: Catalog, backbone_id: str, images: int, most: int) -> str:
    """The largest id of a sample of so many."""
    if images <= most:
        return "g"  # behind every hexadecimal digit
    with tables.query(features=catalog.features) as sql:
        found = sql(
            f"SELECT image_id FROM features WHERE backbone_id = {tables.literal(backbone_id)} "
            f"ORDER BY image_id LIMIT 1 OFFSET {most - 1}"
        )
    return str(found["image_id"][0].as_py())


def _components(
    catalog: Catalog, backbone_id: str, images: int, champion: dict[str, Any] | None
) -> tuple[Pca, str]:
    """Two principal components: those that the champion works on, or of the first of the sample."""
    if champion and champion["kind"] == models.HEAD and champion["backbone_id"] == backbone_id:
        held = models.load_pca(catalog, champion["version"])
        if held is not None and len(held.components) >= 2:
            pca = Pca(held.mean, held.components[:2], held.explained_variance_ratio[:2])
            return pca, f"model {champion['version']}"
    limit = _limit(catalog, backbone_id, images, FITTED_ON)
    fitted = np.concatenate([
        embeddings[[row for row, one in enumerate(ids) if one <= limit]]
        for ids, embeddings in embedding_batches(catalog, backbone_id)
    ])  # fmt: skip
    shift = fitted[0].astype(np.float64)
    components = min(2, len(fitted) - 1, fitted.shape[1])
    pca = fit_pca(sum_moments([fitted], shift), shift, ReduceSpec(components=components))
    return pca, f"{len(fitted):,} of the images"


def _scaled(points: Array) -> Array:
    """Between 0 and 1, with the same scale in both directions; (n, 2)."""
    plane = np.zeros((len(points), 2))
    plane[:, : points.shape[1]] = points
    low, high = plane.min(axis=0), plane.max(axis=0)
    width = float((high - low).max()) or 1.0
    middle = (low + high) / 2
    return np.asarray(np.round((plane - middle) / width + 0.5, 4))
