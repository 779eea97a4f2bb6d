"""Exported models: read back by other runtimes, equal to our own answers on every test image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from sightline import backbones, cli, erasure, exporting, images, models, storage
from sightline.backbones.preprocessing import Geometry
from sightline.catalog import Catalog
from sightline.classifiers import (
    Classifier,
    Pca,
    Scaler,
)
from sightline.config import DatasetSpec
from sightline.erasure import Doomed
from sightline.errors import CheckFailed, ConfigError, TrainingError, WeightsError
from sightline.exporting.modules import Head, Prepare
from sightline.images import Pixels
from tests.champions import (
    DATASET,
    HEADS,
    SIDES,
    head_champion,
    store_photos,
    stored,
    tuned_champion,
)
from tests.conftest import (
    store_partition,
    write_dataset,
)

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    return store_photos(spec)


def ask(url: str, pixels: Pixels) -> Any:
    """What another program would get from a file."""
    if url.endswith(".onnx"):
        session = onnxruntime.InferenceSession(url, providers=["CPUExecutionProvider"])
        return session.run(["probabilities"], {"pixels": pixels})[0]
    return torch.export.load(url).module()(torch.from_numpy(pixels)).numpy()


@pytest.mark.parametrize("kind", list(HEADS))
def test_a_head_in_torch_is_the_head_in_numpy(kind: str) -> None:
    rng = np.random.default_rng(2)
    pca = Pca(rng.normal(size=6), rng.normal(size=(4, 6)), np.ones(4))
    for reduction in (pca, None):
        width = 4 if reduction is None else 6
        classifier = Classifier(["a", "b"], reduction, Scaler(rng.normal(size=4), rng.normal(size=4)),
                                HEADS[kind])  # fmt: skip
        features = np.float32(rng.normal(size=(200, width)))
        with torch.no_grad():
            found = Head(classifier)(torch.from_numpy(features)).numpy()
        np.testing.assert_allclose(found, classifier.probabilities(features), atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("resize", "crop"), [(64, (64, 64)), (75, (64, 48)), (33, (32, 32))])
def test_pictures_are_prepared_to_the_level(
    interpolation: str, resize: int, crop: tuple[int, int]
) -> None:
    geometry = Geometry(resize, crop, interpolation, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    ours = backbones.Preprocessing(lambda picture: torch.zeros(0), geometry)
    rng = np.random.default_rng(3)
    mean, std = (255 * torch.tensor(one)[:, None, None] for one in (geometry.mean, geometry.std))
    for height, width in [(2, 2), (9, 400), (400, 9), (64, 64), (65, 64), (301, 200), (128, 600)]:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        wanted = ours.prepare(pixels).to(torch.float32)
        found = Prepare(geometry)(torch.from_numpy(pixels))[0] * std + mean
        levels = (found - wanted).abs()
        assert levels.max() <= 1.01, (height, width)
        assert (levels > 0.5).float().mean() < 0.002, (height, width)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_an_exported_head_answers_as_we_do_on_every_test_image(
    catalog: Catalog, spec: DatasetSpec, kind: str
) -> None:
    plan = head_champion(catalog, spec, "logistic_regression")
    made = exporting.export(catalog, kind)
    assert (made.version, made.compared.images) == (plan.version, len(SIDES) - 1)
    assert made.compared.same_class == made.compared.images
    ours = {row["image_id"]: row["probabilities"] for row in stored(catalog.predictions)}
    assert len({tuple(np.round(one, 3)) for one in ours.values()}) > 4  # they do differ
    for row in stored(catalog.images)[1:]:
        pixels = images.decode_pixels(row["content"], row["rotation"])
        given = ask(made.url, np.ascontiguousarray(pixels))
        assert (given.dtype, given.shape) == (np.float32, (2,))
        np.testing.assert_allclose(given, ours[row["image_id"]], atol=1e-3)
    facts = json.loads(storage.read_bytes(made.facts_url))
    assert facts["labels"] == ["a", "b"]
    assert facts["compared"]["tolerance"] == 0.001
    assert facts["licences_of_train_images"] == {"not given": 1}
    assert "shorter side is resized to 48 pixels (bilinear" in facts["preprocessing"]


def erase_one(catalog: Catalog) -> None:
    """Take the first image, on which the model was trained, out of what it was made of."""
    gone = frozenset({stored(catalog.images)[0]["image_id"]})
    for table in (catalog.images, catalog.splits):
        erasure.erase(table, Doomed(gone, frozenset()))


def test_a_forest_goes_to_onnx_and_an_erased_image_is_no_longer_in_its_facts(
    catalog: Catalog, spec: DatasetSpec
) -> None:
    head_champion(catalog, spec, "random_forest")
    made = exporting.export(catalog, "onnx")
    facts = json.loads(storage.read_bytes(made.facts_url))
    assert facts["licences_of_train_images"] == {"not given": 1}
    erase_one(catalog)
    made = exporting.export(catalog, "onnx")
    assert made.compared.same_class == made.compared.images == len(SIDES) - 1
    facts = json.loads(storage.read_bytes(made.facts_url))
    assert facts["licences_of_train_images"] == {}


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_an_exported_network_answers_as_its_plain_scores(
    catalog: Catalog, spec: DatasetSpec, kind: str, tmp_path: Path
) -> None:
    version = tuned_champion(catalog, spec)
    to = str(tmp_path / "phone" / f"cars.{kind}")
    made = exporting.export(catalog, kind, to=to, most_images=5)
    assert (made.version, made.url, made.compared.images) == (version, to, 5)
    assert made.compared.largest_difference < 1e-3
    assert Path(to).stat().st_size == made.size_bytes
    assert Path(made.facts_url).exists()


def test_a_file_that_answers_otherwise_is_not_kept(catalog: Catalog, spec: DatasetSpec) -> None:
    version = tuned_champion(catalog, spec)
    rows = [{**row, "probabilities": row["probabilities"][::-1]} for row in stored(catalog.scores)]
    store_partition(catalog.scores, rows, version)
    with pytest.raises(CheckFailed, match=rf"disagrees with its answers on {len(SIDES)} of"):
        exporting.export(catalog, "torch")
    assert storage.list_names(catalog.exports) == []


def test_what_cannot_be_exported_is_told(catalog: Catalog, spec: DatasetSpec) -> None:
    with pytest.raises(TrainingError, match="has no champion; run train_photos"):
        exporting.export(catalog, "onnx")
    with pytest.raises(ConfigError, match="has no model 'v9'; 'sightline models photos'"):
        exporting.export(catalog, "onnx", "v9")
    plan = head_champion(catalog, spec, "linear_svm")
    model = models.read_model(catalog, plan.version)
    assert model is not None
    models.write_model(catalog, {**model, "backbone_id": "resnet18-other-12345678-fp32"})
    with pytest.raises(
        WeightsError, match="the backbone's weights are now those of resnet18-random0"
    ):
        exporting.export(catalog, "onnx")


def test_the_command_says_what_it_has_made(
    catalog: Catalog, spec: DatasetSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    version = tuned_champion(catalog, spec)
    assert cli.main(["export", "photos", "--format", "torch"]) == 0
    said = capsys.readouterr().out
    assert f"Model {version} of photos: {catalog.exports}/{version}.pt2 (" in said
    assert f"on {len(SIDES)} test images: {len(SIDES)} of the same class" in said
    assert cli.main(["export", "photos", "--format", "torch", "--version", "v9"]) == 2
    assert "has no model 'v9'" in capsys.readouterr().err
