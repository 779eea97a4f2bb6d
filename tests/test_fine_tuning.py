"""Fine-tuning as a whole: what it reads, in which order, killed and gone on, alone and with others."""

import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import torch

from sightline import fine_tuning, lookup, models, storage, tables, wanted_images
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import ConfigError, TrainingError
from sightline.fine_tuning import loop, reading
from sightline.fine_tuning.checkpoints import Progressed, read_checkpoint, read_weights
from sightline.fine_tuning.loop import Job
from sightline.fine_tuning.reading import Place
from sightline.fine_tuning.training_set import TrainingSet, build_training_set
from sightline.fine_tuning.tuned_models import load_tuned
from sightline.hashing import is_held_out
from sightline.ledger import Record
from sightline.models import Plan
from tests import accuracies
from tests.colours import COLOURS, make_colours
from tests.conftest import catalog_of, image_row, jpeg, make_task, store_rows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return make_colours(own_places)


@pytest.fixture
def plan(spec: DatasetSpec, catalog: Catalog) -> Plan:
    plan = models.make_plan(spec, catalog, "none")
    models.write_plan(catalog, plan)
    return plan


def training_set(
    spec: DatasetSpec, catalog: Catalog, plan: Plan, share: float = 0.2
) -> TrainingSet:
    return build_training_set(spec, catalog, plan, share, storage.join(catalog.staging, "lists"))


def content_ids(rows: Iterator[reading.Encoded]) -> list[bytes]:
    return [content for content, _, _ in rows]


def contents(catalog: Catalog, split: str) -> set[bytes]:
    ids = set(lookup.rows_of(catalog.splits, "split", [split])["image_id"].to_pylist())
    batches = tables.read_batches(catalog.images, ["image_id", "content"])
    rows = [row for batch in batches for row in batch.to_pylist()]
    return {row["content"] for row in rows if row["image_id"] in ids}


def test_the_train_split_is_read_once_and_no_test_image_is_seen(
    spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    images = training_set(spec, catalog, plan)
    assert images.labels == ["blue", "green", "red"]
    assert images.train_images + images.validation_images == 48
    assert images.train_images == sum(images.class_images)
    train = content_ids(reading.train_order(images.row_groups, Place(), random.Random(0)))
    validation = [
        row[0] for group in images.row_groups for row in reading.read_rows(group, validation=True)
    ]
    assert len(train) == images.train_images
    assert len(validation) == images.validation_images
    assert set(train) | set(validation) == contents(catalog, "train")
    assert not set(train) & set(validation)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("groups_a_process", [1, 100])
def test_processes_share_the_images_out(
    spec: DatasetSpec,
    catalog: Catalog,
    plan: Plan,
    processes: int,
    groups_a_process: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "GROUPS_A_PROCESS", groups_a_process)
    groups = training_set(spec, catalog, plan).row_groups
    shares = [
        content_ids(reading.train_order(groups, Place(rank, processes), random.Random(7)))
        for rank in range(processes)
    ]
    whole = content_ids(reading.train_order(groups, Place(), random.Random(7)))
    assert Counter(sum(shares, [])) == Counter(whole)


def test_an_order_follows_from_its_seed_and_differs_by_epoch(
    spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    groups = training_set(spec, catalog, plan).row_groups
    one, again, other = (
        content_ids(reading.train_order(groups, Place(), random.Random(seed)))
        for seed in ("0/1/0", "0/1/0", "0/2/0")
    )
    assert one == again
    assert one != other
    assert sorted(one) == sorted(other)


def test_the_pool_is_bounded_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "POOL_BYTES", 30)
    taken: list[int] = []

    def rows() -> Iterator[reading.Encoded]:
        for number in range(50):
            taken.append(number)
            yield bytes(10), 0, number

    ahead = []
    drawn = []
    for _, _, number in reading.pooled(rows(), random.Random(0)):
        drawn.append(number)
        ahead.append(len(taken) - len(drawn))
    assert sorted(drawn) == list(range(50))
    assert drawn != sorted(drawn)
    assert max(ahead) == 3


def test_near_duplicates_are_held_out_together_and_a_val_split_is_kept(
    spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    groups = [f"{number:016x}" for number in range(2000)]
    shares = [sum(is_held_out(one, share) for one in groups) / 2000 for share in (0.1, 0.3)]
    assert shares == [pytest.approx(0.1, abs=0.03), pytest.approx(0.3, abs=0.03)]
    assert all(is_held_out(one, 0.3) for one in groups if is_held_out(one, 0.1))
    row = image_row(jpeg(np.random.default_rng(9), np.array(COLOURS["red"]), 40), "red")
    store_rows(catalog.images, [row])
    store_rows(catalog.splits, [{"image_id": row["image_id"], "group_id": "x", "split": "val"}])
    later = models.make_plan(spec, catalog, "none")
    assert training_set(spec, catalog, later).validation_images == 1


def test_too_little_to_train_on_ends_in_a_sentence(
    spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    with pytest.raises(TrainingError, match="48 images to train on and 0 to validate with"):
        training_set(spec, catalog, plan, 1e-9)
    one = catalog_of(spec.model_copy(update={"name": "one"}))
    row = image_row(jpeg(np.random.default_rng(1), np.array(COLOURS["red"]), 40), "red")
    store_rows(one.images, [row])
    store_rows(one.splits, [{"image_id": row["image_id"], "group_id": "x", "split": "train"}])
    only = models.make_plan(spec, one, "none")
    with pytest.raises(TrainingError, match=r"Dataset colours has 1 class\(es\) .* \(red\)"):
        training_set(spec, one, only)
    with pytest.raises(TrainingError, match="41 processes cannot share 40 images to train on"):
        job_of(spec, catalog, plan, "many", processes=41)


def job_of(spec: DatasetSpec, catalog: Catalog, plan: Plan, name: str, **changed: Any) -> Job:
    assert spec.fine_tune is not None
    fine_tune = spec.fine_tune.model_copy(update=changed)
    images = training_set(spec, catalog, plan)
    folder = storage.join(catalog.staging, name)
    return fine_tuning.prepare_job(fine_tune, spec.backbone, images, folder)


def come(job: Job) -> Progressed:
    found = read_checkpoint(job.checkpoint_url)
    assert found is not None
    return found


def assert_same_weights(one: Progressed, other: Progressed) -> None:
    for name, value in one.network.items():
        torch.testing.assert_close(value, other.network[name], rtol=1e-4, atol=1e-6)


def test_colours_are_learned_and_the_best_epoch_is_kept(
    spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    job = job_of(spec, catalog, plan, "learn", trainable="head+bn", learning_rate=0.02, epochs=6)
    history = loop.run(job)
    assert [epoch.number for epoch in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1].loss < history[0].loss
    images, best = job.training_set, max(epoch.validation_accuracy for epoch in history)
    accuracies.assert_at_least(history[-1].accuracy, images.train_images, 0.8)
    accuracies.assert_at_least(best, images.validation_images, 0.8)
    assert set(come(job).best) == set(come(job).network)


# Run as a program of its own, so that it can be killed.
TRAINING = """
import pickle, sys, torch
from sightline.fine_tuning import loop
torch.set_num_threads(1)
loop.run(pickle.loads(open(sys.argv[1], "rb").read()))
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_after_its_last_epoch_and_ends_the_same(
    spec: DatasetSpec, catalog: Catalog, plan: Plan, tmp_path: Path
) -> None:
    changed = {"epochs": 5, "head": {"dropout": 0.3}, "mixup": 0.2}
    fine_tune = spec.fine_tune.model_validate({**spec.fine_tune.model_dump(), **changed})  # type: ignore[union-attr]
    spec = spec.model_copy(update={"fine_tune": fine_tune})
    whole, killed = (job_of(spec, catalog, plan, name) for name in ("whole", "killed"))
    loop.run(whole)
    (tmp_path / "job").write_bytes(pickle.dumps(killed))
    process = subprocess.Popen([sys.executable, "-c", TRAINING, str(tmp_path / "job")])
    try:
        deadline = time.monotonic() + 120
        while _epochs(killed) < 2:  # it is in its third
            assert process.poll() is None
            assert time.monotonic() < deadline
        workers = psutil.Process(process.pid).children()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    before = _epochs(killed)
    assert 2 <= before < 5
    loop.run(killed)
    assert_same_weights(come(whole), come(killed))
    assert [one.loss for one in come(killed).history] == pytest.approx(
        [one.loss for one in come(whole).history], rel=1e-4
    )


def _epochs(job: Job) -> int:
    found = read_checkpoint(job.checkpoint_url)
    return 0 if found is None else len(found.history)


def test_phases_follow_each_other_each_with_its_layers_and_rate(
    spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    phases = [
        {"trainable": "head", "epochs": 1, "learning_rate": 0.01},
        {"trainable": "half", "epochs": 1, "learning_rate": 0.001},
    ]
    assert spec.fine_tune is not None
    fine_tune = spec.fine_tune.model_validate(
        {**spec.fine_tune.model_dump(), "phases": phases, "schedule": "constant"}
    )
    spec = spec.model_copy(update={"fine_tune": fine_tune})
    job = job_of(spec, catalog, plan, "phases")
    start = read_weights(job.start_url)
    history = loop.run(job)
    assert [epoch.learning_rate for epoch in history] == [0.01, 0.001]
    end = come(job).network
    assert end["backbone.conv1.weight"].equal(start["backbone.conv1.weight"])
    assert not end["backbone.layer4.1.conv2.weight"].equal(start["backbone.layer4.1.conv2.weight"])
    assert loop.run(job) == history  # all epochs are over


@pytest.mark.slow
def test_a_training_stops_early_and_a_plateau_lowers_the_rate(
    spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    never_better = {"learning_rate": 1e-12, "trainable": "head", "epochs": 6, "momentum": 0.0}
    never_better |= {"optimizer": "sgd", "weight_decay": 0.0, "augmentation": "none"}
    stopped = loop.run(job_of(spec, catalog, plan, "stop", early_stop_epochs=2, **never_better))
    assert len(stopped) == 3
    slower = job_of(
        spec, catalog, plan, "plateau", schedule="plateau", plateau_epochs=2, **never_better
    )
    rates = [epoch.learning_rate for epoch in loop.run(slower)]
    assert rates == pytest.approx([1e-12, 1e-12, 1e-12, 1e-13, 1e-13, 1e-14])


def test_a_rate_that_is_far_too_high_ends_in_a_sentence(
    spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    job = job_of(spec, catalog, plan, "high", learning_rate=1e20, optimizer="sgd")
    with pytest.raises(TrainingError, match="is not a number; lower fine_tune.learning_rate"):
        loop.run(job)


def run_stage(
    spark: "SparkSession", stage: Any, spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> Record:
    task, record = make_task(stage.__name__)
    stage(spark, spec, catalog, task, record, plan)
    return record


@pytest.mark.slow
def test_the_stages_leave_a_model_and_a_score_for_each_test_image(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    trained = run_stage(spark, fine_tuning.fine_tune, spec, catalog, plan)
    version = f"{plan.version}-tuned"
    model = models.read_model(catalog, version)
    assert model is not None
    assert model["kind"] == "fine_tuned"
    assert len(model["fine_tuning"]["history"]) == trained.counts["epochs"] == 4
    assert not storage.list_names(catalog.staging)
    scored = run_stage(spark, fine_tuning.score, spec, catalog, plan)
    assert scored.counts == {"scored": 12, "known": 0, "views": 2}
    again = run_stage(spark, fine_tuning.score, spec, catalog, plan)
    assert again.counts == {"scored": 0, "known": 12, "views": 2}
    assert_scores_are_the_networks(catalog, version)
    assert_images_that_come_later_are_scored(spark, catalog, version)
    run_stage(spark, fine_tuning.fine_tune, spec, catalog, plan)  # a cleared task: other weights
    assert tables.count_rows(catalog.scores, partition=version) == 0


def assert_images_that_come_later_are_scored(
    spark: "SparkSession", catalog: Catalog, version: str
) -> None:
    rng = np.random.default_rng(1)
    rows = [image_row(jpeg(rng, np.array(COLOURS["red"]), 40), None) for _ in range(3)]
    store_rows(catalog.images, rows)
    models.crown(catalog, version)
    wanted = wanted_images.of_champion(catalog, wanted_images.UNLABELLED, None)
    for scored, known in ((3, 12), (0, 15)):
        task, record = make_task("score_new")
        fine_tuning.score_new(spark, catalog, task, record, wanted)
        assert record.counts == {"scored": scored, "known": known}
    later = {row["image_id"] for row in rows}
    assert later == tables.held_values(catalog.scores, "image_id", sorted(later))


def assert_scores_are_the_networks(catalog: Catalog, version: str) -> None:
    model = load_tuned(catalog, version)
    network, preprocessing = model.build()
    batches = tables.read_batches(catalog.scores, ["image_id", "probabilities", "augmented"])
    scores = {row["image_id"]: row for batch in batches for row in batch.to_pylist()}
    images = lookup.rows_of(catalog.images, "image_id", list(scores)).to_pylist()
    assert {row["content"] for row in images} == contents(catalog, "test")
    for row in images:
        pixels = fine_tuning.scoring.images.decode_pixels(row["content"], 0)
        both = [preprocessing.prepare(one) for one in (pixels, pixels[:, ::-1].copy())]
        with torch.inference_mode():
            given = network(preprocessing.normalise(torch.stack(both))).softmax(dim=1).numpy()
        np.testing.assert_allclose(scores[row["image_id"]]["probabilities"], given[0], atol=1e-4)
        augmented = scores[row["image_id"]]["augmented"]
        np.testing.assert_allclose(augmented, given.mean(axis=0), atol=1e-4)


def test_a_model_that_is_not_trained_is_refused(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    with pytest.raises(TrainingError, match="has no fine-tuned model .*; clear task fine_tune"):
        run_stage(spark, fine_tuning.score, spec, catalog, plan)


@pytest.mark.slow
# pyspark leaves its child's output to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_processes_train_as_one_does(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    # Batch norms that learn would normalise with half a batch, and crops are drawn anew.
    plain = {"trainable": "head", "augmentation": "none", "epochs": 2}
    alone = job_of(spec, catalog, plan, "alone", **plain)
    paired = job_of(spec, catalog, plan, "paired", processes=2, **plain)
    one, other = loop.run(alone), fine_tuning.distributed.train(spark, paired)
    assert_same_weights(come(alone), come(paired))
    for name in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        wanted = [getattr(epoch, name) for epoch in one]
        assert [getattr(epoch, name) for epoch in other] == pytest.approx(wanted, rel=1e-3)


def test_unequal_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 32 gives 5 processes no equal shares"):
        fine_tuning.FineTuneSpec(processes=5)


def test_an_augmentation_that_there_is_not_is_refused_before_the_training(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> None:
    assert spec.fine_tune is not None
    wrong = spec.fine_tune.model_copy(update={"augmentation": ({"Flop": {}},)})
    with pytest.raises(ConfigError, match="no transform 'Flop'"):
        run_stage(
            spark,
            fine_tuning.fine_tune,
            spec.model_copy(update={"fine_tune": wrong}),
            catalog,
            plan,
        )
