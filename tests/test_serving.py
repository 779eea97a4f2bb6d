"""Single photos: the champion's own answers, what it saw, what is like it, in a process that may die."""

import base64
import io
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline import erasure, images, models
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.erasure import Doomed
from sightline.errors import ConfigError, PhotoRefused, ResourceError, TrainingError, WeightsError
from sightline.fine_tuning.augmentation import views
from sightline.fine_tuning.scoring import prepare_views, probabilities
from sightline.serving.champions import Champions, TunedJudge
from sightline.serving.neighbours import Neighbours
from sightline.serving.predictor import Predictor
from sightline.serving.questions import Question
from tests.champions import DATASET, embed, head_champion, store_photos, stored, tuned_champion
from tests.conftest import made_up_image_row, store_partition, store_rows, write_dataset

pytestmark = pytest.mark.usefixtures("one_torch_thread")
KINDS = ("png", "jpg", "gif", "bmp", "webp", "ico", "mpo")
TOP = Question("photos", top=2)


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    return store_photos(spec)


def photos(catalog: Catalog) -> list[dict[str, Any]]:
    """Rows of the images table; no source declares a rotation for a photo that is handed in."""
    return [row for row in stored(catalog.images) if not row["rotation"]]


def shares(answer: Any) -> list[float]:
    """Probabilities in the order of the model's labels, a and b."""
    return [one.probability for one in sorted(answer.top, key=lambda one: one.label)]


def a_photo(kind: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 50), "teal").save(buffer, kind, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["logistic_regression", "random_forest"])
def test_a_head_answers_what_it_was_published_with(
    catalog: Catalog, spec: DatasetSpec, kind: str
) -> None:
    head_champion(catalog, spec, kind)
    published = {row["image_id"]: row for row in stored(catalog.predictions)}
    champions, compared = Champions(), 0
    for row in photos(catalog):
        if row["image_id"] not in published:  # a train image
            continue
        answer, ours = champions.answer(TOP, row["content"]), published[row["image_id"]]
        np.testing.assert_allclose(shares(answer), ours["probabilities"], atol=1e-6)
        assert answer.top[0].label == ours["predicted"]
        compared += 1
    assert compared > 4


def test_a_network_answers_as_it_was_scored_with_and_without_augmentation(
    catalog: Catalog, spec: DatasetSpec
) -> None:
    tuned_champion(catalog, spec, views=("flips", "scales"))
    plain = {row["image_id"]: row["probabilities"] for row in stored(catalog.scores)}
    champions, row = Champions(), photos(catalog)[-1]
    without = champions.answer(Question("photos", augmented=False), row["content"])
    np.testing.assert_allclose(shares(without), plain[row["image_id"]], atol=1e-6)
    model = models.require_champion(catalog)
    network = TunedJudge(catalog, model).network
    shown = views(("flips", "scales"))
    pictures = prepare_views(network.preprocessing, shown, row["content"], 0)
    expected = probabilities(network, [pictures])[0].mean(axis=0)
    for augmented in (None, True):
        answer = champions.answer(Question("photos", augmented=augmented), row["content"])
        np.testing.assert_allclose(shares(answer), expected, atol=1e-6)
        assert (answer.views, answer.has_augmentation) == (6, True)
    assert (without.views, without.has_augmentation) == (1, True)
    assert shares(answer) != shares(without)


def test_the_next_champion_serves_at_once(catalog: Catalog, spec: DatasetSpec) -> None:
    first = head_champion(catalog, spec, "logistic_regression").version
    champions = Champions()
    assert champions.answer(TOP, a_photo()).version == first
    second = tuned_champion(catalog, spec)
    assert champions.answer(TOP, a_photo()).version == second
    models.crown(catalog, first)
    assert champions.answer(TOP, a_photo()).version == first


def test_what_the_model_sees_is_shown_and_how_large_the_photo_is(
    catalog: Catalog, spec: DatasetSpec
) -> None:
    head_champion(catalog, spec, "linear_svm")
    answer = Champions().answer(Question("photos", top=1, with_pictures=True), a_photo("JPEG"))
    assert (answer.format, answer.width, answer.height) == ("JPEG", 60, 50)
    assert (len(answer.top), answer.classes) == (1, 2)
    assert answer.seen is not None
    kind, _, content = answer.seen.partition(";base64,")
    assert kind == "data:image/png"
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert picture.size == (48, 48)
    np.testing.assert_allclose(np.asarray(picture)[24, 24], (0, 128, 128), atol=4)


def test_the_training_photos_that_are_most_alike_are_found(
    catalog: Catalog, spec: DatasetSpec
) -> None:
    backbone_id = embed(catalog, spec.backbone)
    rows = stored(catalog.images)
    split_of = ["train", "train", "test", "train", "val", "train", "train", "train"]
    store_partition(
        catalog.splits,
        [
            {"image_id": row["image_id"], "group_id": row["image_id"], "split": split}
            for row, split in zip(rows, split_of, strict=True)
        ],
        None,
    )
    tuned_champion(catalog, spec, backbone_id)
    version = models.require_champion(catalog)["version"]
    excluded = {"model_version": models.plan_of(version), "reason": "suspicious"}
    out = rows[0]["image_id"]
    store_rows(catalog.exclusions, [{"image_id": out, **excluded}], excluded["model_version"])
    asked = Question("photos", neighbours=9, with_pictures=True)
    found = Champions().answer(asked, rows[-1]["content"]).neighbours
    trained = {row["image_id"] for row, s in zip(rows, split_of, strict=True) if s == "train"}
    assert {one.image_id for one in found} == trained - {out}
    assert (found[0].image_id, found[0].label) == (rows[-1]["image_id"], rows[-1]["label"])
    assert found[0].similarity == pytest.approx(1, abs=1e-5)
    assert [one.similarity for one in found] == sorted((o.similarity for o in found), reverse=True)
    assert all(one.picture and one.picture.startswith("data:image/") for one in found)
    assert Champions().answer(TOP, rows[-1]["content"]).neighbours == []
    gone = found[-1].image_id
    for table in (catalog.images, catalog.splits, catalog.features):
        erasure.erase(table, Doomed(frozenset({gone}), frozenset()))
    left = Champions().answer(asked, rows[-1]["content"]).neighbours  # the champion serves on
    assert {one.image_id for one in left} == trained - {out, gone}


def test_neighbours_stay_within_their_memory_and_follow_the_tables(
    catalog: Catalog, spec: DatasetSpec
) -> None:
    """400 photos at 512 wide, in the memory for 128 dimensions: the same photo is still the most alike."""
    rng = np.random.default_rng(5)
    embeddings = np.float32(rng.normal(size=(400, 512)))
    ids = [f"{number:064x}" for number in range(400)]
    pieces = (("images", "all"), ("features", "made-up"))
    rows = {
        "images": [made_up_image_row(number) for number in range(400)],
        "features": [
            {"image_id": one, "backbone_id": "made-up", "embedding": values}
            for one, values in zip(ids, embeddings, strict=True)
        ],
    }
    for name, partition in pieces:
        store_rows(getattr(catalog, name), rows[name], partition)
    splits = [{"image_id": one, "group_id": one, "split": "train"} for one in ids]
    store_partition(catalog.splits, splits, None)
    model = {"version": "v1", "backbone_id": "made-up", "tables": {}}
    known = Neighbours(catalog, model, most_bytes=400 * 128 * 4)
    for number in (0, 7, 399):
        best = known.nearest(embeddings[number], 3, False)
        assert (best[0].image_id, len(best)) == (ids[number], 3)
        assert best[0].similarity == pytest.approx(1, abs=1e-5)
    assert known._embeddings.nbytes == 400 * 128 * 4
    store_partition(catalog.features, rows["features"][1:], "made-up")  # one is taken down
    assert known.nearest(embeddings[0], 1, False)[0].image_id != ids[0]
    assert (
        Neighbours(catalog, {**model, "backbone_id": "another"}).nearest(embeddings[0], 1, False)
        == []
    )


def test_what_cannot_be_answered_is_told(catalog: Catalog, spec: DatasetSpec) -> None:
    champions = Champions()
    with pytest.raises(ConfigError, match="No dataset 'phots'.* did you mean 'photos'"):
        champions.answer(Question("phots"), a_photo())
    with pytest.raises(TrainingError, match="Dataset photos has no champion"):
        champions.answer(TOP, a_photo())
    plan = head_champion(catalog, spec, "linear_svm")
    with pytest.raises(
        PhotoRefused, match="the bytes are not those of an image .markup"
    ) as refused:
        champions.answer(TOP, b"<!doctype html><p>Not found")
    assert refused.value.reason == "not_an_image"
    model = models.read_model(catalog, plan.version)
    assert model is not None
    models.write_model(catalog, {**model, "backbone_id": "resnet18-other-12345678-fp32"})
    with pytest.raises(WeightsError, match="weights are now those of resnet18-random0"):
        Champions().answer(TOP, a_photo())


def test_the_limits_are_those_of_the_dataset(own_places: Path) -> None:
    small = write_dataset(
        own_places, "photos", DATASET + "limits: {image_megapixels: 0.002, image_megabytes: 0.01}\n"
    )
    head_champion(store_photos(small), small, "linear_svm")
    with pytest.raises(PhotoRefused) as pixels:
        Champions().answer(TOP, a_photo())  # 60 x 50
    assert pixels.value.reason == "too_many_pixels"
    with pytest.raises(PhotoRefused) as size:
        Champions().answer(TOP, a_photo() + bytes(20_000))
    assert size.value.reason == "too_large"


def test_a_process_answers_the_same_and_comes_back_from_the_dead(
    catalog: Catalog, spec: DatasetSpec
) -> None:
    head_champion(catalog, spec, "logistic_regression")
    predictor = Predictor()
    assert predictor.pid is None  # nothing runs before it is needed
    asked = Question("photos", with_pictures=True, neighbours=1)
    first = predictor.ask(asked, a_photo())
    ours = Champions().answer(asked, a_photo())
    assert replace(first, seconds=0) == replace(ours, seconds=0)
    with pytest.raises(PhotoRefused, match="breaks off") as refused:
        predictor.ask(TOP, a_photo()[:-40])
    assert refused.value.reason == "truncated"
    with pytest.raises(ConfigError, match="No dataset"):
        predictor.ask(Question("nobody"), a_photo())
    process = predictor.pid
    assert process is not None
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ConfigError, match="No dataset"):  # said by another process
        predictor.ask(Question("nobody"), a_photo())
    assert predictor.pid not in (process, None)
    predictor.close()
    assert predictor.pid is None


def test_a_process_that_hangs_or_dies_costs_one_photo(own_places: Path) -> None:
    hangs = Predictor(0.3, (sys.executable, "-c", "import time; time.sleep(60)"))
    with pytest.raises(ResourceError, match="took longer than 0.3 s to answer"):
        hangs.ask(TOP, a_photo())
    assert hangs.pid is None
    dies = Predictor(20, (sys.executable, "-c", "import sys; sys.stdin.buffer.read(9)"))
    with pytest.raises(ResourceError, match="died of this photo; it starts again"):
        dies.ask(TOP, bytes(2**20))
    assert dies.pid is None


def test_the_process_ends_with_its_server(catalog: Catalog, spec: DatasetSpec) -> None:
    """However the server ends: killed, it can close nothing."""
    predictor = Predictor()
    with pytest.raises(TrainingError, match="no champion"):
        predictor.ask(TOP, a_photo())
    process = predictor._process
    assert process and process.stdin and process.stdout
    process.stdin.close()  # what the kernel does with the pipes of a killed one
    assert process.wait(20) == 0
    predictor.close()


@pytest.mark.parametrize("augmented", [None, True, False])
def test_a_head_has_one_view(catalog: Catalog, spec: DatasetSpec, augmented: bool | None) -> None:
    head_champion(catalog, spec, "linear_svm")
    answer = Champions().answer(Question("photos", augmented=augmented), a_photo())
    assert (answer.views, answer.has_augmentation) == (1, False)


def test_odd_and_broken_files_get_an_answer_or_a_reason(
    catalog: Catalog, spec: DatasetSpec, shared_data: Path
) -> None:
    head_champion(catalog, spec, "linear_svm")
    champions, reasons, answered = Champions(), list[str](), 0
    files = [path for path in sorted((shared_data / "nasty").iterdir()) if path.suffix[1:] in KINDS]
    for path in files:
        try:
            assert champions.answer(TOP, path.read_bytes()).version
            answered += 1
        except PhotoRefused as error:
            assert error.reason in images.REASONS
            reasons.append(error.reason)
    assert (answered, len(reasons)) == (45, 14), (answered, sorted(reasons))
