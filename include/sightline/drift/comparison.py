"""Both sides read and compared: their classes, the properties of their images, their embeddings."""

from collections import Counter
from typing import Any

import numpy as np

from sightline import tables
from sightline.batches import to_matrix
from sightline.config import ReduceSpec
from sightline.drift.numbers import (
    EDGES,
    Number,
    bin_count,
    bin_of,
    separation,
    stability,
    told_apart,
)
from sightline.drift.sides import Sides
from sightline.embeddings import first_embedding
from sightline.principal_components import Moments, add_rows, fit_pca

Array = np.ndarray[Any, Any]

# An image's properties, as SQL; where one is null the image does not count.
PROPERTIES = (
    ("shorter_side", "least(i.height, i.width)"),
    ("aspect_ratio", "CAST(i.width AS DOUBLE) / i.height"),
    ("size_bytes", "i.size_bytes"),
    ("n_channels", "i.n_channels"),
    ("brightness_p5", "i.brightness_p5"),
    ("brightness_p99", "i.brightness_p99"),
    ("entropy", "i.entropy"),
    ("laplacian_variance", "i.laplacian_variance"),
)
WIDTH = 32  # components; more would need more images to be told from chance


def compare_classes(sides: Sides, least: int) -> Number | None:
    """The stability index of the classes, of all labelled images."""
    new, reference = (_count_classes(sides, side) for side in (sides.new_sql, sides.reference_sql))
    if min(new.total(), reference.total()) < least:
        return None
    labels = sorted(new | reference)
    counts = (np.array([side[label] for label in labels]) for side in (new, reference))
    return stability(*counts)


def compare_properties(sides: Sides, least: int) -> dict[str, Number | None]:
    """The stability index of each property, in bins by the tenths of both sides."""
    new, reference = (_read_properties(sides, side) for side in sides.samples)
    return {name: compare_values(new[name], reference[name], least) for name, _ in PROPERTIES}


def compare_embeddings(sides: Sides, backbone_id: str, least: int) -> Number | None:
    """How well the embeddings of both sides are told apart, on the components of both together."""
    files = tables.file_urls(sides.catalog.features, partition=backbone_id)
    shift = first_embedding(files)
    both = Moments.empty(len(shift))
    sums = []
    for side in sides.samples:
        before = both
        both = _add_embeddings(sides, side, backbone_id, both, shift)
        sums.append((both.count - before.count, both.sums - before.sums))
    (new, new_sums), (reference, reference_sums) = sums
    if min(new, reference) < least:
        return None
    pca = fit_pca(both, shift, ReduceSpec(components=min(WIDTH, len(shift))))
    offset = pca.mean - shift
    whole = both.gramian.trace() / both.count - float(offset @ offset)
    between = pca.components @ (new_sums / new - reference_sums / reference)
    variances = pca.explained_variance_ratio * whole
    square = separation(between, variances, new, reference)
    return told_apart(square, len(variances), new, reference)


def _count_classes(sides: Sides, side: str) -> Counter[str]:
    with sides.query() as sql:
        found = sql(
            f"SELECT i.label, count(*) AS n {side} AND i.label IS NOT NULL GROUP BY i.label"
        )
        return Counter({row["label"]: row["n"] for row in found.read_all().to_pylist()})


def _read_properties(sides: Sides, side: str) -> dict[str, Array]:
    """Each property's values (n,), without the nulls."""
    columns = ", ".join(f"CAST({what} AS DOUBLE) AS {name}" for name, what in PROPERTIES)
    with sides.query() as sql:
        found = sql(f"SELECT {columns} {side}").read_all()
    return {name: found[name].drop_null().to_numpy() for name, _ in PROPERTIES}


def compare_values(new: Array, reference: Array, least: int) -> Number | None:
    """The stability index of a property's values (n,) on each side; None where one has fewer than `least`."""
    if min(len(new), len(reference)) < least:
        return None
    both = np.concatenate(
        [new, reference]
    )  # the reference's own tenths would suit it better by chance
    edges = np.unique(np.percentile(both, EDGES))
    counts = (
        np.bincount(bin_of(values, edges), minlength=bin_count(edges))
        for values in (new, reference)
    )
    return stability(*counts)


def _add_embeddings(
    sides: Sides, side: str, backbone_id: str, both: Moments, shift: Array
) -> Moments:
    with sides.query(features=sides.catalog.features) as sql:
        found = sql(
            f"SELECT f.embedding FROM features f JOIN (SELECT i.image_id {side}) k "
            f"ON k.image_id = f.image_id WHERE f.backbone_id = {tables.literal(backbone_id)}"
        )
        for batch in found:
            if batch.num_rows:
                both = add_rows(both, to_matrix(batch["embedding"]), shift)
    return both
