"""What lies beside an exported model as JSON: what goes in, what comes out, where it comes from."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch

from sightline import __version__, backbones, tables
from sightline.catalog import Catalog
from sightline.exporting.comparison import Comparison, backbone_of, precision_of, tolerance_of
from sightline.exporting.formats import FORMATS

LICENCES = """
    SELECT coalesce(m.licence, 'not given') AS licence, count(*) AS images FROM images i
    JOIN splits s ON s.image_id = i.image_id AND s.split = 'train'
    LEFT JOIN (SELECT uri, max(licence) AS licence FROM manifest GROUP BY uri) m ON m.uri = i.uri
    WHERE i.label IS NOT NULL GROUP BY licence ORDER BY images DESC, licence
"""


def describe(
    catalog: Catalog, model: dict[str, Any], kind: str, compared: Comparison
) -> dict[str, Any]:
    """The description of a file."""
    spec = backbone_of(model)
    geometry = backbones.preprocessing_of(spec).geometry
    assert geometry is not None  # else there is no file
    height, width = geometry.crop
    return {
        "dataset": catalog.dataset,
        "version": model["version"],
        "kind": model["kind"],
        "trained_at": model["created_at"],
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "labels": model["labels"],
        "input": {
            "name": "pixels",
            "type": "uint8",
            "shape": ["height", "width", 3],
            "meaning": "one picture of any size, upright, RGB, 0 to 255; turn it by its EXIF "
            "orientation first",
        },
        "output": {
            "name": "probabilities",
            "type": "float32",
            "shape": [len(model["labels"])],
            "meaning": "one for each entry of labels, in that order",
        },
        "preprocessing": f"Inside the file: the shorter side is resized to {geometry.resize} pixels "
        f"({geometry.interpolation}, antialiased), the centre of {height} x {width} is cropped, colours "
        f"are normalised by mean {list(geometry.mean)} and standard deviation {list(geometry.std)}.",
        "format": FORMATS[kind].runtime,
        "precision": "fp32",
        "compared": {
            **asdict(compared),
            "with": f"our own answers, made in {precision_of(model)}, without test-time augmentation",
            "tolerance": tolerance_of(model),
        },
        "metrics": model["metrics"],
        "backbone": {"name": spec.name, "weights": spec.weights},
        "licences_of_train_images": _licences(catalog, model),
        "licence_of_weights": "as their publisher grants; Sightline grants none",
        "made_with": {"sightline": __version__, "torch": torch.__version__},
        "fingerprint": model["fingerprint"],
    }


def _licences(catalog: Catalog, model: dict[str, Any]) -> dict[str, int]:
    """Train images by the licence that their source gives."""
    images = tables.version_or_newest(catalog.images, model["tables"]["images"])
    with tables.query(images=images, splits=catalog.splits, manifest=catalog.manifest) as sql:
        return {row["licence"]: row["images"] for row in sql(LICENCES).to_pylist()}
