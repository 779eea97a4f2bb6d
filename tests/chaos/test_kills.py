"""kill -9 of Spark's driver, JVM and workers at random moments of whole nights of digits."""

import logging
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from sightline import models
from sightline.catalog import open_catalog
from sightline.config import DatasetSpec
from sightline.source_config import DigitsSource
from sightline.sources import Access
from sightline.sources.digits import list_images
from tests.chaos import killing, laws
from tests.conftest import write_dataset

pytestmark = pytest.mark.chaos
log = logging.getLogger(__name__)

FIRST, EACH = 300, 60  # images of the first night, and new ones of each later
KILLS_PER_NIGHT = 10
DATASET = """
source: {{type: folder, path: '{photos}'}}
backbone: {{name: resnet18, weights: random, image_size: 32}}
reduce: {{components: 16}}
train: {{penalties: [0.01], folds: 2, max_iterations: 20}}
gate: {{max_drop: 1.0}}
limits: {{images_per_commit: 40, rejected_share: 0.5}}
"""


@pytest.fixture
def digits(own_places: Path) -> list[Path]:
    """The digits as files, in an order in which every class comes early."""
    catalog = open_catalog("all_digits")
    for _ in list_images(DigitsSource(type="digits"), Access(catalog, "all")):
        pass
    return sorted(Path(catalog.source).rglob("*.png"), key=lambda path: path.name)


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    (own_places / "photos").mkdir()
    return write_dataset(own_places, "digits", DATASET.format(photos=own_places / "photos"))


def bring(photos: Path, digits: list[Path], night: int) -> None:
    """The new photos of a night: digits, a copy of one of them, and a broken one."""
    start = 0 if night == 0 else FIRST + (night - 1) * EACH
    for path in digits[start : FIRST + night * EACH]:
        target = photos / path.parent.name / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    shutil.copyfile(digits[start], photos / "0" / f"copy-{night}.png")
    (photos / "1" / f"broken-{night}.png").write_bytes(digits[start].read_bytes()[:90])


def test_whatever_is_killed_each_image_is_there_once(
    digits: list[Path], spec: DatasetSpec, own_places: Path
) -> None:
    chance, kinds, tasks = random.Random(killing.SEED), Counter[str](), Counter[str]()
    catalog = open_catalog(spec.name)
    total, night = 4 if killing.SIZE == 1 else 10 * killing.SIZE, 0
    while kinds.total() < total:
        bring(own_places / "photos", digits, night)
        kills = min(KILLS_PER_NIGHT, total - kinds.total())
        killed = killing.run_night(spec.name, f"night-{night:02d}", kills, chance)
        kinds, tasks, night = kinds + killed.by_kind, tasks + killed.by_task, night + 1
        laws.check_rows(catalog)
        laws.check_champion(catalog)
        laws.check_no_orphans(spec, catalog)
        laws.check_rows(catalog)
        log.warning("night %d: %d kills so far: %s in %s", night, kinds.total(), kinds, tasks)
    assert len(models.champion_history(catalog)) >= 1
