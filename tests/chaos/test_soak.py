"""Thirty nights on end (SIGHTLINE_CHAOS_NIGHTS): new photos, repaired ones, failures, take-downs, no news, a
rollback; after each its report is right, and neither storage nor memory grows but with the data."""

import logging
import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from sightline import maintenance, models, publishing, storage, tables
from sightline.catalog import Catalog, open_catalog
from sightline.take_down import make_asked, take_down
from tests.chaos import killing, laws
from tests.chaos.digit_photos import DATASET, bring, write_digits
from tests.conftest import write_dataset

pytestmark = pytest.mark.chaos_whole
log = logging.getLogger(__name__)

NIGHTS = int(os.environ.get("SIGHTLINE_CHAOS_NIGHTS", "30"))  # at least nine; CI asks for so many
WITHOUT_NEWS, ROLLED_BACK = (20, 17) if NIGHTS > 20 else (7, 3)
SETTLED = 13  # nights after which all that is kept for days is there
DAY_SECONDS = 86_400
ROW = re.compile(r'<th scope="row">(\d)</th>.*?<td class="n total">([\d,]+)</td>', re.DOTALL)


def test_thirty_nights(own_places: Path) -> None:
    photos, chance = own_places / "photos", random.Random(killing.SEED)
    spec = write_dataset(own_places, "digits", DATASET.format(photos=photos, days=2))
    catalog, digits = open_catalog(spec.name), write_digits()
    times_live, memories = list[float](), list[int]()
    for night in range(NIGHTS):
        began = time.monotonic()
        if night != WITHOUT_NEWS:
            bring(photos, digits, night)
        if night % 4 == 2:  # what was broken is repaired
            shutil.copyfile(digits[-night], photos / "1" / f"broken-{night - 1}.png")
        killed = killing.run_night("digits", f"night-{night:02d}", int(night % 3 == 2), chance)
        check_report(catalog, newest_model(catalog))
        if night % 5 == 4:
            uri = str(next(iter((photos / "7").glob("*.png"))))
            if tables.held_values(catalog.images, "uri", [uri]):
                take_down(catalog, make_asked([], [uri], None, None), "asked for", "tests")
        if night == ROLLED_BACK:
            publishing.roll_back(catalog, None, "tests", "a try")
        grow_older(Path(catalog.root))
        maintenance.maintain(spec, catalog)
        laws.check_rows(catalog)
        live, whole = live_bytes(catalog), all_bytes(catalog)
        times_live.append(whole / live)
        memories.append(peak_memory(own_places))
        log.warning(
            "night %d: %d kills, %.0f s, %d images, %.1f MB of which %.1f live, %d MiB, %d models kept",
            night, killed.total, time.monotonic() - began, tables.count_rows(catalog.images),
            whole / 1e6, live / 1e6, memories[-1], kept_models(catalog),
        )  # fmt: skip
    assert NIGHTS >= 9, "fewer nights hold no kill beside a take-down, a repair and a rollback"
    if NIGHTS >= SETTLED + 5:
        assert max(times_live[-5:]) <= max(times_live[8:SETTLED])
    assert max(memories[5:][-5:]) < 1.2 * max(memories[:5])
    assert kept_models(catalog) <= 8  # of five plans, the champion's and that before it
    laws.check_no_orphans(spec, catalog)
    laws.check_champion(catalog)


def newest_model(catalog: Catalog) -> dict[str, Any]:
    """The description of the model that was made last."""
    described = [models.read_model(catalog, one) for one in models.list_versions(catalog)]
    return max(filter(None, described), key=lambda one: str(one["created_at"]))


def check_report(catalog: Catalog, model: dict[str, Any]) -> None:
    """The newest model's page tells the images and the accuracy that the tables hold."""
    page = storage.read_bytes(f"{catalog.reports}/{model['version']}.html").decode()
    assert storage.read_bytes(f"{catalog.reports}/latest.html").decode() == page
    shown = {label: int(total.replace(",", "")) for label, total in ROW.findall(page)}
    images = tables.read_batches(catalog.images, ["label"], model["tables"]["images"])
    counts: dict[str, int] = {}
    for batch in images:
        for label in batch["label"].to_pylist():
            counts[label] = counts.get(label, 0) + 1
    assert shown == counts
    tested = tables.count_rows(catalog.predictions, partition=model["version"])
    right = round(model["metrics"]["accuracy"] * tested)
    assert f"{right:,} of {tested:,} test images are named right" in page


def grow_older(root: Path) -> None:
    """A day goes by: every file is a day older."""
    for path in root.rglob("*"):
        if path.is_file():
            at = path.stat().st_mtime - DAY_SECONDS
            os.utime(path, (at, at))


def live_bytes(catalog: Catalog) -> int:
    """Bytes of what the newest versions count, of the source's files and the models that are kept."""
    urls = [url for table in catalog.tables for url in tables.file_urls(table)]
    return sum(Path(url).stat().st_size for url in urls)


def all_bytes(catalog: Catalog) -> int:
    """Bytes of all files of a dataset."""
    return sum(path.stat().st_size for path in Path(catalog.root).rglob("*") if path.is_file())


def kept_models(catalog: Catalog) -> int:
    """Models that have their weights."""
    return len(list(Path(catalog.models).glob("*/weights.safetensors")))


def peak_memory(places: Path) -> int:
    """MiB that the newest night's program has taken at most."""
    logs = sorted((places / "state").glob("night__*.log"))
    return int(re.findall(r"peak memory: (\d+) MiB", logs[-1].read_text())[-1])
