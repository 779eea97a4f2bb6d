"""The dataset's backbone trained on its images: the second way to a classifier, beside a head on features.

training_set lists what there is to read, reading streams it, loop trains in one process and distributed in
several, scoring says what the network makes of the test images.
"""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sightline import backbones, models, storage, tables, wanted_images
from sightline.backbones.inference import has_bf16
from sightline.catalog import Catalog
from sightline.config import BackboneSpec, DatasetSpec
from sightline.errors import TrainingError
from sightline.fine_tune_config import FineTuneSpec
from sightline.fine_tuning import augmentation, distributed, scoring
from sightline.fine_tuning.augmentation import views
from sightline.fine_tuning.checkpoints import Epoch, read_checkpoint, write_weights
from sightline.fine_tuning.loop import Job
from sightline.fine_tuning.network import make_network
from sightline.fine_tuning.search import Found, search
from sightline.fine_tuning.training_set import TrainingSet, build_training_set
from sightline.fine_tuning.tuned_models import load_tuned, save_tuned
from sightline.ledger import Record, TaskRun
from sightline.models import Plan
from sightline.provenance import java_of
from sightline.wanted_images import Wanted

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)


def fine_tune(
    session: "SparkSession",
    spec: DatasetSpec,
    catalog: Catalog,
    task: TaskRun,
    record: Record,
    plan: Plan,
) -> None:
    """Train the network on the train split and keep the weights of its best epoch.

    What is needed meanwhile lies in a folder of the model's own, so that another try goes on after the
    last whole epoch; it is removed in the end.
    """
    assert spec.fine_tune is not None  # else the DAG has no such task
    record.read(catalog.images, version=plan.images_version)
    record.read(catalog.splits, version=plan.splits_version)
    record.read(catalog.exclusions)
    version = models.candidates(spec, plan)[models.FINE_TUNED]
    folder = storage.join(catalog.staging, f"fine-tune-{version}")
    scores = tables.claim(catalog.scores, task.writer)
    images = build_training_set(spec, catalog, plan, spec.fine_tune.validation_share, folder)

    def train(fine_tune: FineTuneSpec, backbone: BackboneSpec, place: str) -> list[Epoch]:
        return distributed.train(session, prepare(fine_tune, backbone, place))

    def prepare(fine_tune: FineTuneSpec, backbone: BackboneSpec, place: str) -> Job:
        job = prepare_job(fine_tune, backbone, images, place)
        return replace(job, memory_bytes=spec.limits.memory)

    found = Found(spec.fine_tune, spec.backbone, [])
    if spec.fine_tune.search is not None:
        found = search(spec.fine_tune.search, spec.fine_tune, spec.backbone, folder, train)
    job = prepare(found.fine_tune, found.backbone, folder)
    history = distributed.train(session, job)
    come = read_checkpoint(job.checkpoint_url)
    assert come is not None  # it was written after each epoch
    best = _best_epoch(job.spec, history)
    tables.replace_partition(catalog.scores, [], version, scores)  # those of other weights
    model = models.describe(spec, catalog, plan, models.FINE_TUNED, java_of(session))
    save_tuned(catalog, {**model, **_describe(job, found, history, best)}, come.best)
    storage.remove_tree(folder)
    record.wrote_model(catalog.models, version)
    record.counts = {
        "rows": job.training_set.train_images,
        "validation_rows": job.training_set.validation_images,
        "epochs": len(history),
        "best_epoch": best.number,
        "validation_accuracy": round(best.validation_accuracy, 4),
        "images_per_second": round(history[-1].images_per_second, 1),
    }


def score(
    session: "SparkSession",
    spec: DatasetSpec,
    catalog: Catalog,
    task: TaskRun,
    record: Record,
    plan: Plan,
) -> None:
    """Let the fine-tuned network say of each test image what it shows."""
    record.read(catalog.images, version=plan.images_version)
    record.read(catalog.splits, version=plan.splits_version)
    model = load_tuned(catalog, models.candidates(spec, plan)[models.FINE_TUNED])
    record.read_model(catalog.models, model.version)
    counts = scoring.score_images(session, catalog, plan.images_version, model, task.writer)
    record.counts = {**counts, "views": len(views(model.fine_tune.test_time_augmentation))}
    record.wrote(catalog.scores, rows=counts["scored"])


def score_new(
    session: "SparkSession", catalog: Catalog, task: TaskRun, record: Record, wanted: Wanted
) -> None:
    """Let a fine-tuned model score the wanted images that came after its training."""
    record.read(catalog.images, version=wanted.images_version)
    record.read_model(catalog.models, wanted.version)
    model = load_tuned(catalog, wanted.version)
    missing = wanted_images.missing_ids(catalog, {"kind": models.FINE_TUNED}, wanted)
    record.counts = scoring.score_images(
        session, catalog, wanted.images_version, model, task.writer, missing
    )
    record.wrote(catalog.scores, rows=record.counts["scored"])


def prepare_job(
    fine_tune: FineTuneSpec, backbone_spec: BackboneSpec, images: TrainingSet, folder: str
) -> Job:
    """What the training processes need, on storage; a checkpoint that an earlier try left there counts.

    TrainingError if there are fewer images than processes.
    """
    if images.train_images < fine_tune.processes:
        raise TrainingError(
            f"{fine_tune.processes} processes cannot share {images.train_images} images to train on; lower "
            "fine_tune.processes or add images."
        )
    backbone = backbones.load_backbone(backbone_spec)
    network = make_network(backbone, fine_tune.head, len(images.labels), fine_tune.seed)
    augmentation.make_augmentation(fine_tune.augmentation, backbone.preprocessing, fine_tune.seed)
    start_url = storage.join(folder, "start.safetensors")
    write_weights(start_url, network.state_dict())
    log.info("fine_tune: %d images to train on, %d to validate with, %d classes; %s with %s",
             images.train_images, images.validation_images, len(images.labels),
             backbone.name, _precision(fine_tune))  # fmt: skip
    return Job(
        fine_tune,
        backbone_spec,
        _precision(fine_tune),
        images,
        start_url,
        storage.join(folder, "checkpoint.safetensors"),
    )


def _describe(job: Job, found: Found, history: list[Epoch], best: Epoch) -> dict[str, Any]:
    """What the model.json says of a fine-tuned network beside what it says of every model."""
    return {
        "seed": job.spec.seed,
        "labels": job.training_set.labels,
        "reduction": None,
        "head": None,
        "fine_tuning": {
            "backbone": job.backbone.model_dump(mode="json"),
            "settings": job.spec.model_dump(mode="json"),
            "precision": job.precision,
            "history": [vars(epoch) for epoch in history],
            "best_epoch": best.number,
            "search": [vars(trial) for trial in found.trials],
        },
        "rows": {
            "train": job.training_set.train_images,
            "validation": job.training_set.validation_images,
        },
    }


def _best_epoch(fine_tune: FineTuneSpec, history: list[Epoch]) -> Epoch:
    """The epoch whose weights are kept."""
    if fine_tune.keep == "last":
        return history[-1]
    return min(history, key=lambda epoch: epoch.validation_loss)


def _precision(fine_tune: FineTuneSpec) -> str:
    if fine_tune.precision != "auto":
        return fine_tune.precision
    return "bf16" if has_bf16() else "fp32"
