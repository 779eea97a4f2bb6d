"""The machine's clock jumps while nights are at work, three days ahead and two back, between them and in the
middle of a task: nothing is lost, and what is newest is so whatever the clock has said."""

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from sightline import compaction, ledger, maintenance, models, tables
from sightline.catalog import open_catalog
from tests.chaos import killing, laws
from tests.chaos.clock import Clock, missing_part
from tests.chaos.digit_photos import DATASET, bring, write_digits
from tests.chaos.test_soak import check_report, kept_models
from tests.conftest import write_dataset

pytestmark = pytest.mark.chaos_whole
log = logging.getLogger(__name__)

# By night: days by which the clock is fast when it begins, the task in which it jumps, and to what.
NIGHTS = (
    (0, "fetch_images", 3), (3, "featurize", -2), (-2, "train", 3), (3, "plan", -2), (-2, "list_images", 3),
    (0, "evaluate", -2), (0, "report", 0),
)  # fmt: skip


@pytest.fixture
def clock(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """The clock of all processes that the test starts."""
    if missing := missing_part():
        pytest.skip(missing)
    clock = Clock(own_places / "clock")
    clock.build()
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    yield clock


def test_nights_on_which_the_clock_jumps(own_places: Path, clock: Clock) -> None:
    photos = own_places / "photos"
    spec = write_dataset(own_places, "digits", DATASET.format(photos=photos, days=2))
    catalog, digits = open_catalog(spec.name), write_digits()
    for night, (days, task, later) in enumerate(NIGHTS):
        bring(photos, digits, night)
        clock.jump(days)
        began, run_id = time.time(), f"night__night-{night:02d}"
        output = own_places / "state" / f"{run_id}-000.log"
        with clock.jumping(output, f"task {task} begins", later):
            killing.run_night(spec.name, f"night-{night:02d}", 0, Random(killing.SEED))
        assert time_of_a_process() - datetime.now(UTC) > timedelta(days=later, minutes=-1)
        clock.stamp(Path(catalog.root), began)
        check(run_id)
        told = datetime.now(UTC) + timedelta(days=later)
        cleaned = maintenance.maintain(spec, catalog, told)
        check(run_id)
        log.warning(
            "night %d, %+d days, from %s on %+d: %d images, %s", night, days, task, later,
            tables.count_rows(catalog.images), cleaned.counts,
        )  # fmt: skip
    assert kept_models(catalog) == spec.keep.models
    laws.check_no_orphans(spec, catalog)
    check(run_id)


def time_of_a_process() -> datetime:
    """What a process that is started now takes for the time."""
    program = "import time; print(time.time())"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return datetime.fromtimestamp(float(told.stdout), UTC)


def check(run_id: str) -> None:
    """Nothing is lost, and the newest run and model are those of the last night, whatever time it was."""
    catalog = open_catalog("digits")
    laws.check_rows(catalog)
    laws.check_champion(catalog)
    champion = models.require_champion(catalog)
    assert champion["tables"]["features"] == compaction.data_version(catalog.features)
    assert ledger.last_record(catalog, "ingest_digits", "featurize")["run_id"] == run_id
    assert ledger.last_run(catalog, "train_digits")[0]["run_id"] == run_id
    check_report(catalog, champion)
