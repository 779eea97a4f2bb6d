"""The scaling study: what is refused, what is measured once, and its page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sightline import storage, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import ConfigError, StorageError
from sightline.fine_tuning import scaling
from sightline.fine_tuning.scaling import StudySpec, with_efficiency
from sightline.ledger import Record
from sightline.reporting.study import render, write_study
from tests.colours import make_colours
from tests.conftest import make_task

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PARAMS: dict[str, Any] = {"workers": [2, 1, 2], "batch_sizes": [12], "epochs": 1}
PARAMS |= {"price_per_hour": 3.6}
STUDY = "manual__2026-11-21T10:15:00+00:00"


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"workers": []}, "needs numbers of workers from 1"),
        ({"workers": [0]}, "needs numbers of workers from 1"),
        ({"workers": [1, 5]}, "A batch of 12 images gives 5 workers no equal shares"),
        ({"workers": [12]}, "A batch of 12 images gives 12 workers no equal shares"),
        ({"epochs": 0}, "epochs is 0"),
        ({"price_per_hour": -1}, "price_per_hour -1"),
    ],
)
def test_a_study_that_cannot_be_made_is_refused(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        StudySpec.of({**PARAMS, **changed})


def test_efficiency_is_the_speed_a_worker_beside_the_fewest() -> None:
    speeds = {(1, 8): 10.0, (2, 8): 18.0, (4, 8): 20.0, (2, 16): 30.0}
    rows = [
        {"workers": workers, "batch_size": size, "images_per_second": speed}
        for (workers, size), speed in speeds.items()
    ]
    found = [row["efficiency"] for row in with_efficiency(rows)]
    assert found == pytest.approx([1.0, 0.9, 0.5, 1.0])


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return make_colours(own_places)


def run(spark: "SparkSession", spec: DatasetSpec, catalog: Catalog) -> Record:
    task, record = make_task("scaling_study", run_id=STUDY)
    scaling.study(spark, spec, catalog, task, record, StudySpec.of(PARAMS))
    return record


@pytest.mark.slow
# pyspark leaves its child's output to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("one_torch_thread")
def test_one_and_two_workers_are_measured_and_make_a_page(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    assert run(spark, spec, catalog).counts["settings"] == 2
    batches = tables.read_batches(catalog.scaling, catalog.scaling.schema.names)
    rows = sorted(
        (row for batch in batches for row in batch.to_pylist()), key=lambda row: row["workers"]
    )
    assert [row["workers"] for row in rows] == [1, 2]
    for row in rows:
        assert row["study"] == STUDY
        assert row["images_per_second"] > 0
        assert 0 <= row["accuracy"] <= 1
        assert row["cost"] == pytest.approx(row["workers"] * row["seconds"] / 1000)
    assert rows[0]["efficiency"] == 1
    assert not storage.list_names(catalog.staging)
    page = storage.read_bytes(write_study(catalog, STUDY)).decode()
    assert page.count('data-name="Batch"') == 2
    assert "Cost" in page


def test_the_page_escapes_names_and_leaves_costs_out_where_there_are_none() -> None:
    row = {"workers": 1, "batch_size": 8, "images_per_second": 10.0, "efficiency": 1.0}
    row |= {"accuracy": 0.5, "epochs": 1, "seconds": 3.0, "cost": 0.0}
    page = render("<b>", "run", [row, {**row, "workers": 4, "images_per_second": 30.0}])
    assert "<b>" not in page
    assert "Cost" not in page
    assert "4 workers with batches of 8, 30.0 images a second" in page


def test_a_study_that_was_not_made_is_refused(catalog: Catalog) -> None:
    with pytest.raises(StorageError, match="colours has no scaling study 'x'; clear task"):
        write_study(catalog, "x")
