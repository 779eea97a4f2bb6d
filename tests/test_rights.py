"""Licences: what may not be held is not fetched, and goes when its licence changes; attribution."""

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from sightline import (
    attribution,
    exclusions,
    ingestion,
    models,
    rejection,
    rights,
    storage,
    tables,
    tombstones,
)
from sightline.catalog import Catalog, open_catalog
from sightline.config import DatasetSpec
from sightline.errors import ConfigError
from sightline.licence_config import LicencesSpec
from sightline.sources import Access
from tests.conftest import (
    QuietHandler,
    made_up_image_row,
    make_task,
    store_partition,
    store_rows,
    web_server,
    write_dataset,
    write_photos,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.parametrize(
    ("block", "licence", "allowed"),
    [
        ({}, "anything", True),
        ({}, None, True),
        ({"unknown": "reject"}, None, False),
        ({"unknown": "reject"}, "", False),
        ({"allow": ["CC0*", "cc-by-2.0"]}, "CC0-1.0", True),
        ({"allow": ["CC0*", "cc-by-2.0"]}, "CC-BY-2.0", True),
        ({"allow": ["CC0*", "cc-by-2.0"]}, "CC-BY-NC-2.0", False),
        ({"deny": ["*-NC-*", "*-ND-*"]}, "CC-BY-NC-SA-2.0", False),
        ({"deny": ["*-NC-*", "*-ND-*"]}, "CC-BY-2.0", True),
        ({"allow": ["https://creativecommons.org/licenses/by/*"]},
         "https://creativecommons.org/licenses/by/2.0/", True),
    ],
)  # fmt: skip
def test_a_policy_names_licences(block: dict[str, Any], licence: str | None, allowed: bool) -> None:
    assert LicencesSpec(**block).allows(licence) == allowed
    assert LicencesSpec(**block).allows_all == (block == {})


def test_an_unknown_key_is_refused_with_the_nearest_one(own_places: Path) -> None:
    text = "source: {type: digits}\nlicences: {denied: [x]}\n"
    with pytest.raises(ConfigError, match="unknown key 'licences.denied'; did you mean 'deny'"):
        write_dataset(own_places, "pets", text)


ASKED: list[str] = []


class Counting(QuietHandler):
    """A server that remembers what it was asked for."""

    def do_GET(self) -> None:  # noqa: N802
        ASKED.append(self.path)
        super().do_GET()


def night(
    session: "SparkSession | None",
    places: Path,
    address: str,
    day: str,
    licences: dict[str, str],
    policy: str,
) -> tuple[Catalog, dict[str, Any]]:
    """List photos with these licences, fetch them; returns the catalog and what was counted."""
    with (places / "list.csv").open("w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(["url", "label", "rights"])
        lines.writerows([f"{address}/{name}", "any", rights] for name, rights in licences.items())
    spec = write_dataset(
        places,
        "pets",
        f"source: {{type: url_list, path: {places}/list.csv, columns: {{licence: rights}}}}\n"
        f"fetch: {{allow_addresses: [127.0.0.1/32]}}\nlicences: {policy}\n",
    )
    catalog = open_catalog("pets")
    task, listing = make_task("list_images", day, f"run-{day}")
    ingestion.list_images(spec, Access(catalog, day), task, listing)
    task, fetching = make_task("fetch_images", day, f"run-{day}")
    if session:  # else the listing alone
        ingestion.fetch_images(session, spec, catalog, task, fetching)
    return catalog, {**listing.counts, **fetching.counts}


def outcomes(catalog: Catalog) -> dict[str, str]:
    """By file name: held, or the reason of the reject."""
    with tables.query(images=catalog.images, rejects=catalog.rejects) as sql:
        found = sql(
            "SELECT uri, 'held' AS what FROM images UNION ALL SELECT uri, reason FROM rejects"
        )
    rows = found.to_pylist()
    assert len({row["uri"] for row in rows}) == len(rows)
    return {row["uri"].rsplit("/", 1)[-1]: row["what"] for row in rows}


def test_a_licence_decides_before_the_fetch_and_again_when_it_changes(
    spark: "SparkSession", own_places: Path
) -> None:
    photos = write_photos(own_places / "photos", {"any": 4}) / "any"
    ASKED.clear()
    serve = lambda *given: Counting(*given, directory=str(photos))  # noqa: E731
    with web_server(serve) as address:
        first = {"0000.jpg": "CC0", "0001.jpg": "NC", "0002.jpg": "CC0"}
        policy = "{deny: [NC]}"
        catalog, counts = night(spark, own_places, address, "2026-11-04", first, policy)
        assert outcomes(catalog) == {"0000.jpg": "held", "0001.jpg": "licence", "0002.jpg": "held"}
        assert sorted(ASKED) == ["/0000.jpg", "/0002.jpg"]
        ids = tables.read_batches(catalog.images, ["image_id"])
        embedded = [
            {"image_id": one, "backbone_id": "made-up", "embedding": [1.0]}
            for batch in ids
            for one in batch["image_id"].to_pylist()
        ]
        store_rows(catalog.features, embedded, "made-up")

        changed = {**first, "0001.jpg": "CC0", "0002.jpg": "NC", "0003.jpg": "CC0"}
        catalog, counts = night(spark, own_places, address, "2026-11-05", changed, policy)
        assert counts["withdrawn"] == 1
        assert outcomes(catalog) == {
            "0000.jpg": "held", "0001.jpg": "held", "0002.jpg": "licence", "0003.jpg": "held"
        }  # fmt: skip
        assert tables.count_rows(catalog.features) == 1
        assert ASKED.count("/0002.jpg") == 1

        due = rejection.due_partitions(catalog, write_policy(own_places).fetch, "2026-11-06")
        assert due == ["2026-11-04"]  # as nothing is refused any more
        catalog, counts = night(None, own_places, address, "2026-11-06", changed, "{deny: [CC0], "
                                "withdrawn: take_down}")  # fmt: skip
        assert counts["withdrawn"] == 3
        assert tables.count_rows(catalog.images) == 0
        assert tables.count_rows(catalog.tombstones) > 3


def write_policy(places: Path) -> DatasetSpec:
    return write_dataset(places, "free", "source: {type: digits}\n")


def test_attribution_names_every_train_image_and_no_other(own_places: Path) -> None:
    catalog = open_catalog("pets")
    images = [made_up_image_row(number) for number in range(4)]
    images += [made_up_image_row(4, label=None), made_up_image_row(5)]
    store_rows(catalog.images, images)
    splits = ["train", "train", "test", "train", "train", "train"]
    store_rows(
        catalog.splits,
        [{"image_id": one["image_id"], "group_id": "g", "split": split}
         for one, split in zip(images, splits, strict=True)],
    )  # fmt: skip
    listed = {"label": "a", "licence": "CC0", "landing_url": "https://x/1"}
    older = [{**listed, "uri": one["uri"], "author": "old", "partition": "1"} for one in images]
    store_partition(catalog.manifest, older, "1")
    newer = [
        {**listed, "uri": "mem://0", "author": "=1+1", "title": 'a, "b"\nc é', "partition": "2"}
    ]
    store_partition(catalog.manifest, newer, "2")
    versions = {"images": tables.current_version(catalog.images),
                "splits": tables.current_version(catalog.splits)}  # fmt: skip
    models.write_model(catalog, {"version": "v1", "tables": versions})
    left_out = {images[5]["image_id"]: exclusions.SUSPICIOUS}
    exclusions.write_exclusions(catalog, "v1", left_out, tables.Writer("tests"))
    store_rows(catalog.images, [made_up_image_row(9)])  # after the model was made
    url = attribution.write_attribution(catalog, "v1")
    first = storage.read_bytes(url)
    lines = list(csv.DictReader(first.decode().splitlines(keepends=True)))
    assert [line["uri"] for line in lines] == ["mem://0", "mem://1", "mem://3"]
    assert lines[0]["author"] == "'=1+1"
    assert lines[0]["title"] == 'a, "b"\nc é'
    assert lines[1] == {
        "image_id": images[1]["image_id"], "uri": "mem://1", "title": "", "author": "old",
        "licence": "CC0", "landing_url": "https://x/1",
    }  # fmt: skip
    attribution.write_attribution(catalog, "v1")
    assert storage.read_bytes(url) == first


def test_a_listing_that_read_the_tombstones_before_they_were_laid_sweeps_after_itself(
    own_places: Path,
) -> None:
    catalog = open_catalog("pets")
    before = tombstones.read(catalog)
    row = {"uri": "mem://1", "author": "Alice", "partition": "1"}
    store_partition(catalog.manifest, [row, {**row, "uri": "mem://2", "author": "Bob"}], "1")
    why = tombstones.Why("r1", "asked", "ann", datetime.now(UTC))
    tombstones.lay(catalog, [(tombstones.AUTHOR, "Alice")], why)
    rights.sweep_manifest(catalog, before)
    batches: list[pa.RecordBatch] = list(tables.read_batches(catalog.manifest, ["uri"]))
    assert [one for batch in batches for one in batch["uri"].to_pylist()] == ["mem://2"]
