"""ATTRIBUTION.csv beside a model: every image that it was trained on, with title, author and licence.

Streamed, in the order of the uris, and the same file whoever writes it again.
"""

import io
import logging
from typing import Any

from sightline import models, storage, tables
from sightline.catalog import Catalog
from sightline.errors import TrainingError
from sightline.spreadsheets import defuse, line_writer

log = logging.getLogger(__name__)

NAME = "ATTRIBUTION.csv"
HEADER = ("image_id", "uri", "title", "author", "licence", "landing_url")
# A uri can stand in the manifest of several partitions: the newest one says.
TRAINED_ON = """
    SELECT i.image_id, i.uri, m.title, m.author, m.licence, m.landing_url FROM images i
    JOIN splits s ON s.image_id = i.image_id AND s.split = 'train'
    LEFT JOIN (
        SELECT *, row_number() OVER (PARTITION BY uri ORDER BY "partition" DESC) AS place FROM manifest
    ) m ON m.uri = i.uri AND m.place = 1
    LEFT ANTI JOIN (SELECT image_id FROM exclusions WHERE model_version = {plan}) e
        ON e.image_id = i.image_id
    WHERE i.label IS NOT NULL ORDER BY i.uri
"""


def url_of(catalog: Catalog, version: str) -> str:
    """Where a model's attribution lies."""
    return storage.join(catalog.model(version), NAME)


def write_attribution(catalog: Catalog, version: str) -> str:
    """Write a model's attribution; returns its URL.

    TrainingError where there is no such model, StorageError where images that it was made of were taken
    down since.
    """
    model = models.read_model(catalog, version)
    if model is None:
        raise TrainingError(f"Model {version} of {catalog.dataset} is not trained.")
    url, images = url_of(catalog, version), 0
    others = {"manifest": catalog.manifest, "exclusions": catalog.exclusions}
    with (
        storage.writing(url) as stream,
        tables.stream_query(**others, **_as_trained(catalog, model)) as sql,
    ):
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        lines = line_writer(text)
        lines.writerow(HEADER)
        for batch in sql(TRAINED_ON.format(plan=tables.literal(models.plan_of(version)))):
            rows = batch.to_pylist()
            lines.writerows([defuse(row[name] or "") for name in HEADER] for row in rows)
            images += len(rows)
        text.flush()
        text.detach()  # the stream is closed by who opened it
    log.info("attribution of %d images: %s", images, url)
    return url


def _as_trained(catalog: Catalog, model: dict[str, Any]) -> dict[str, Any]:
    """The images and splits at the versions that the model was made of."""
    used = model.get("tables", {})
    return {
        table.name: tables.open_table(table, used.get(table.name)) or table
        for table in (catalog.images, catalog.splits)
    }
