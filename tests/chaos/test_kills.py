"""kill -9 of Spark's driver, JVM and workers at random moments of whole nights of digits."""

import logging
import random
from collections import Counter
from pathlib import Path

import pytest

from sightline import models
from sightline.catalog import open_catalog
from tests.chaos import killing, laws
from tests.chaos.digit_photos import DATASET, bring, write_digits
from tests.conftest import write_dataset

pytestmark = pytest.mark.chaos
log = logging.getLogger(__name__)

KILLS_PER_NIGHT = 10


def test_whatever_is_killed_each_image_is_there_once(own_places: Path) -> None:
    photos = own_places / "photos"
    spec = write_dataset(own_places, "digits", DATASET.format(photos=photos, days=7))
    digits = write_digits()
    chance, kinds, tasks = random.Random(killing.SEED), Counter[str](), Counter[str]()
    catalog = open_catalog(spec.name)
    total, night = 3 if killing.SIZE == 1 else 10 * killing.SIZE, 0
    while kinds.total() < total:
        bring(photos, digits, night)
        kills = min(KILLS_PER_NIGHT, total - kinds.total())
        killed = killing.run_night(spec.name, f"night-{night:02d}", kills, chance)
        kinds, tasks, night = kinds + killed.by_kind, tasks + killed.by_task, night + 1
        laws.check_rows(catalog)
        laws.check_champion(catalog)
        laws.check_no_orphans(spec, catalog)
        laws.check_rows(catalog)
        log.warning("night %d: %d kills so far: %s in %s", night, kinds.total(), kinds, tasks)
    assert len(models.champion_history(catalog)) >= 1
