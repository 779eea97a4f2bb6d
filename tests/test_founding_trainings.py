"""The founding datasets' own training sections, at small size: few pictures, random weights, one epoch."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sightline import fine_tuning, models
from sightline.evaluation import evaluate
from sightline.featurization import featurize
from sightline.models import Plan
from sightline.reduction import reduce_features
from sightline.training import train_classifier
from tests.colours import store_colours
from tests.conftest import catalog_of, make_task, write_dataset

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sightline.catalog import Catalog
    from sightline.config import DatasetSpec

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SHIPPED = Path(__file__).parents[1] / "include" / "datasets"
SMALLEST = {"inception_v3": 80, "efficientnet_b6": 64}  # pixels that the network takes


def shrunk(name: str) -> str:
    """A shipped dataset file for pictures that lie in the tables already; its training section is kept."""
    spec: dict[str, Any] = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())
    backbone = spec["backbone"]["name"]
    spec["source"] = {"type": "folder", "path": "photos"}
    spec["backbone"] = {"name": backbone, "weights": "random"}
    spec["backbone"]["image_size"] = SMALLEST.get(backbone, 32)
    if "fine_tune" in spec:
        spec["fine_tune"] |= {"epochs": 1, "batch_size": 12, "validation_share": 0.2}
        for phase in spec["fine_tune"].get("phases", []):
            phase["epochs"] = 1
        if "search" in spec["fine_tune"]:
            spec["fine_tune"]["search"]["trials"] = 2
    return yaml.safe_dump(spec)


def run(
    spark: "SparkSession", stage: Any, spec: "DatasetSpec", catalog: "Catalog", plan: Plan
) -> None:
    stage(spark, spec, catalog, *make_task(stage.__name__), plan)


# pyspark leaves its child's output to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("land_transport", marks=pytest.mark.slow),
        pytest.param("open_images_car_tree", marks=pytest.mark.slow),
        pytest.param("sun397", marks=pytest.mark.nightly),  # half a minute to two minutes each
        pytest.param("fruits_360", marks=pytest.mark.nightly),
        pytest.param("car_models", marks=pytest.mark.nightly),
    ],
)
def test_a_founding_dataset_trains_as_its_file_says(
    spark: "SparkSession", own_places: Path, name: str
) -> None:
    spec = write_dataset(own_places, name, shrunk(name))
    catalog = catalog_of(spec)
    store_colours(catalog)
    task, record = make_task("featurize")
    featurize(spark, spec, catalog, task, record)
    plan = models.make_plan(spec, catalog, str(record.counts["backbone_id"]))
    models.write_plan(catalog, plan)
    run(spark, reduce_features, spec, catalog, plan)
    run(spark, train_classifier, spec, catalog, plan)
    if spec.fine_tune:
        run(spark, fine_tuning.fine_tune, spec, catalog, plan)
        run(spark, fine_tuning.score, spec, catalog, plan)
    task, record = make_task("evaluate")
    evaluate(spec, catalog, task, record, plan)
    versions = models.candidates(spec, plan)
    assert len(versions) == (2 if spec.fine_tune else 1)
    for version in versions.values():
        model = models.read_model(catalog, version)
        assert model is not None
        assert 0 <= model["metrics"]["accuracy"] <= 1
        assert model["rows"]["test"] == 12
    if name == "fruits_360":
        assert spec.reduce is not None
        assert model["reduction"]["components"] == spec.reduce.components == 4
    if name == "car_models":
        tuned = models.read_model(catalog, versions["fine_tuned"])
        assert tuned is not None
        assert len(tuned["fine_tuning"]["search"]) == 2
        assert len(tuned["fine_tuning"]["history"]) == 3
    shutil.rmtree(own_places / "data")
