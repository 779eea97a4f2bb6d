"""Models: a version says what a model is made of, and the champion moves in one step."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline import models, storage
from sightline.catalog import Catalog
from sightline.classifiers import Classifier, LogisticRegression, Pca, Scaler, arrays_of, read_pca
from sightline.config import BackboneSpec, DatasetSpec, ReduceSpec, SplitSpec, TrainSpec
from sightline.errors import TrainingError
from sightline.models import make_plan
from tests.conftest import made_up_image_row, store_embeddings, store_rows
from tests.conftest import write_dataset as write

DATASET = "source: {type: folder, path: photos}\n"


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write(own_places, "photos", DATASET)


def test_the_same_inputs_give_the_same_version(spec: DatasetSpec, catalog: Catalog) -> None:
    plan = store_embeddings(catalog, spec, [[1.0], [2.0]], ["a", "b"], ["train", "test"])
    assert make_plan(spec, catalog, "made-up") == plan
    assert make_plan(spec.model_copy(deep=True), catalog, "made-up") == plan
    assert models.read_plan(catalog, plan.version) == plan
    assert plan.version.startswith(f"{plan.features_version:05d}-")


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": BackboneSpec(seed=1)},
        {"reduce": None},
        {"reduce": ReduceSpec(components=3)},
        {"split": SplitSpec(test=0.3)},
        {"train": TrainSpec(seed=1)},
    ],
    ids=str,
)
def test_another_setting_gives_another_version(
    spec: DatasetSpec, catalog: Catalog, change: dict[str, Any]
) -> None:
    other = make_plan(spec.model_copy(update=change), catalog, "one")
    assert other.version != make_plan(spec, catalog, "one").version


def test_what_does_not_make_the_model_does_not_change_its_version(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    other = spec.model_copy(update={"description": "Other words.", "schedule": None})
    assert make_plan(other, catalog, "one") == make_plan(spec, catalog, "one")


def test_other_images_features_or_backbone_give_another_version(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    versions = {make_plan(spec, catalog, name).version for name in ("one", "other")}
    store_rows(catalog.images, [made_up_image_row(1)])
    versions.add(make_plan(spec, catalog, "one").version)
    feature = {"image_id": "1", "backbone_id": "one", "embedding": [1.0]}
    store_rows(catalog.features, [feature], "one")
    versions.add(make_plan(spec, catalog, "one").version)
    assert len(versions) == 4


def test_an_unknown_plan_is_refused(catalog: Catalog) -> None:
    with pytest.raises(TrainingError, match="photos has no plan '00001-none'"):
        models.read_plan(catalog, "00001-none")


def test_arrays_are_kept_exactly(catalog: Catalog) -> None:
    rng = np.random.default_rng(0)
    mean, components, ratios = rng.normal(size=5), rng.normal(size=(2, 5)), rng.random(2)
    file = models.save_pca(catalog, "v1", Pca(mean, components.T.copy().T, ratios))
    kept = models.load_pca(catalog, "v1")
    assert kept is not None
    np.testing.assert_array_equal(read_pca(file).components, kept.components)  # as a worker does
    np.testing.assert_array_equal(kept.mean, mean)
    np.testing.assert_array_equal(kept.components, components)
    np.testing.assert_array_equal(kept.explained_variance_ratio, ratios)
    head = LogisticRegression(components[:, :2], mean[:2])
    whole = Classifier(["a", "b"], kept, Scaler(mean[:2], mean[2:4]), head)
    models.save_classifier(catalog, "v1", whole)
    model = {"version": "v1", "labels": ["a", "b"], "head": {"kind": "logistic_regression"}}
    again = models.load_classifier(catalog, model)
    values = rng.normal(size=(4, 5))
    np.testing.assert_array_equal(again.probabilities(values), whole.probabilities(values))
    np.testing.assert_array_equal(arrays_of(again.head)["coefficients"], components[:, :2])
    assert models.load_pca(catalog, "v2") is None


def test_probabilities_of_extreme_values_stay_finite() -> None:
    head = LogisticRegression(np.array([[900.0], [-900.0]]), np.zeros(2))
    assert head.probabilities(np.array([[5.0], [-5.0]])).tolist() == [[1, 0], [0, 1]]


def model_of(version: str, **metrics: float) -> dict[str, Any]:
    return {"version": version, "labels": ["a", "b"], "metrics": metrics}


def test_a_reader_sees_the_old_champion_or_the_new_one(catalog: Catalog) -> None:
    for version in ("v1", "v2"):
        models.write_model(catalog, model_of(version))
    models.crown(catalog, "v1")
    done = threading.Event()

    def change() -> None:
        for number in range(300):
            models.crown(catalog, f"v{number % 2 + 1}")
        done.set()

    writer = threading.Thread(target=change)
    writer.start()
    seen = []
    while not done.is_set():
        champion = models.read_champion(catalog)
        assert champion is not None
        seen.append(champion["version"])
    writer.join()
    assert set(seen) <= {"v1", "v2"}
    assert storage.list_names(catalog.models) == ["champion.json", "v1", "v2"]
