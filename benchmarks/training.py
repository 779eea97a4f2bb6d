"""Training as fine_tune does it, in bf16 and in fp32, beside a plain fp32 loop: images a second, accuracy.

    .venv/bin/python -m benchmarks.training --epochs 12 --size 112 --rounds 5
    .venv/bin/python -m benchmarks.training --photos FOLDER --backbone resnet50 --weights FILE --rate 0.0005

ResNet-18 from the same random weights learns scikit-learn's digits, all layers, with the same optimiser,
rates, batches and images, shuffled anew in each round; or a network from given weights learns a folder of
photos, a folder a class. The plain loop is PyTorch as its tutorials have it:
eager, fp32, images in a DataLoader with a process beside. All train with all cores. The accuracy is that of
the test split over all rounds; our loop in fp32 tells what the precision does from what the loop does.
"""

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import median
from benchmarks.sightline_jobs import DATASET, Workplace

BATCH = 64
WAYS = {"Sightline, bf16": "bf16", "Sightline, fp32": "fp32", "plain loop, fp32": None}
PLAIN = "plain loop, fp32"


def prepare(place: Workplace, asked: argparse.Namespace) -> None:
    """The digits, or the photos of the folder, in the images table."""
    place.forget("")
    photos = json.dumps(str(asked.photos))
    tuning = f"epochs: {asked.epochs}, learning_rate: {asked.rate}, batch_size: {BATCH}, "
    place.write_dataset(
        f"source: {{type: folder, path: {photos}}}" if asked.photos else "source: {type: digits}",
        f"fine_tune: {{trainable: all, {tuning}augmentation: none, keep: last}}",
        backbone=asked.backbone,
        weights=asked.weights,
        image_size=asked.size,
    )
    place.list_images()
    place.submit("fetch_images")


def main() -> None:
    """Both ways in turns, each a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", choices=tuple(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        "--photos", type=Path, help="a folder with a folder a class; else the digits"
    )
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", default="random", help="as in a dataset file")
    parser.add_argument("--rate", type=float, default=0.003, help="the highest learning rate")
    asked = measuring.add_arguments(parser, epochs=12, size=112, rounds=5)
    if asked.one:
        print(json.dumps(run_one(asked.one, asked.seed)))
        return
    place = Workplace(asked.workplace / "training")
    prepare(place, asked)
    ways = {way: partial(run_way, place, way, itertools.count()) for way in WAYS}
    found = measuring.in_turns(ways, asked.rounds)
    speeds = {way: median(run["images_per_second"] for run in found[way]) for way in WAYS}
    rows = [
        {
            "system": way,
            "images_per_second": round(speeds[way], 1),
            "times_plain": round(speeds[way] / speeds[PLAIN], 2),
            "accuracy": round(fmean(run["accuracy"] for run in found[way]), 4),
            "accuracies": [round(run["accuracy"], 4) for run in found[way]],
            "peak_rss_bytes": int(median(run["peak_rss_bytes"] for run in found[way])),
        }
        for way in WAYS
    ]
    names = ("backbone", "weights", "rate", "epochs", "size", "rounds")
    shape = {name: getattr(asked, name) for name in names}
    measuring.write_results(asked.results, rows, measuring.our_versions(), **shape)


def run_way(place: Workplace, way: str, seeds: Iterator[int]) -> dict[str, Any]:
    """What `run_one` found in a process of its own, with the round's seed, and its peak memory."""
    own = ["--one", way, "--seed", str(next(seeds))]
    command = [sys.executable, "-m", "benchmarks.training", *own]
    done = measuring.run(command, place.environment(), place.folder)
    return {**json.loads(done.said.splitlines()[-1]), "peak_rss_bytes": done.peak_bytes}


def run_one(way: str, seed: int) -> dict[str, float]:
    """Train and test; the speed is of the epochs after the first, with the reading of the images."""
    from sightline import fine_tuning, models, splitting, storage
    from sightline.catalog import open_catalog
    from sightline.config import load_dataset
    from sightline.fine_tuning.training_set import build_training_set
    from sightline.ledger import Record, TaskRun

    spec, catalog = load_dataset(DATASET), open_catalog(DATASET)
    assert spec.fine_tune is not None
    task = TaskRun("train", "benchmark", "split", "all")
    splitting.split_images(spec, catalog, task, Record("split", "train", "benchmark", "all", ""))
    plan = models.make_plan(spec, catalog, "")
    folder = storage.join(catalog.staging, f"benchmark-{os.getpid()}")
    images = build_training_set(spec, catalog, plan, spec.fine_tune.validation_share, folder)
    tuning = spec.fine_tune.model_copy(update={"seed": seed})
    job = fine_tuning.prepare_job(tuning, spec.backbone, images, folder)
    try:
        precision = WAYS[way]
        weights, speed = train_ours(job, precision) if precision else train_plainly(job)
        return {"images_per_second": speed, "accuracy": test(catalog, spec, images.labels, weights)}
    finally:
        storage.remove_tree(folder)


def train_ours(job: Any, precision: str) -> tuple[Any, float]:
    """The job's own loop."""
    from dataclasses import replace

    from sightline.fine_tuning import loop
    from sightline.fine_tuning.checkpoints import read_checkpoint

    history = loop.run(replace(job, precision=precision))
    come = read_checkpoint(job.checkpoint_url)
    assert come is not None
    return come.best, median(epoch.images_per_second for epoch in history[1:])


def train_plainly(job: Any) -> tuple[Any, float]:
    """The same epochs in fp32, with nothing that is not in a tutorial."""
    import torch
    from torch import nn

    from sightline.fine_tuning import recipes
    from sightline.fine_tuning.checkpoints import read_weights
    from sightline.fine_tuning.network import empty_network

    labels, epochs = job.training_set.labels, job.spec.epochs
    network = empty_network(job.backbone, job.spec.head, len(labels))
    network.load_state_dict(read_weights(job.start_url))
    network.to(memory_format=torch.contiguous_format).train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=job.spec.weight_decay)
    steps, speeds = job.training_set.train_images // BATCH, []
    for epoch in range(epochs):
        began = time.monotonic()
        for step, (pictures, classes) in enumerate(plain_batches(job, epoch, steps * BATCH)):
            rate = job.spec.learning_rate * recipes.one_cycle(
                (epoch * steps + step) / (epochs * steps)
            )
            optimizer.param_groups[0]["lr"] = rate
            loss = nn.functional.cross_entropy(network(pictures), classes)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        speeds.append(steps * BATCH / (time.monotonic() - began))
    return network.state_dict(), median(speeds[1:])


def plain_batches(job: Any, epoch: int, count: int) -> Iterator[tuple[Any, Any]]:
    """Normalised pictures in the usual memory format, of the same images in the same order."""
    from sightline import backbones
    from sightline.fine_tuning import reading

    preprocessing = backbones.preprocessing_of(job.backbone)
    order, place = reading.Order(job.spec.seed, epoch + 1), reading.Place()
    dataset = reading.TrainImages(
        job.training_set, place, order, count, lambda _: preprocessing.prepare
    )
    for pictures, classes in reading.batches(dataset, BATCH, 1):
        yield preprocessing.normalise(pictures).contiguous(), classes


def test(catalog: Any, spec: Any, labels: list[str], weights: Any) -> float:
    """Accuracy on the test split, in fp32."""
    import torch

    from sightline import backbones, images, lookup
    from sightline.fine_tuning.network import empty_network

    network = empty_network(spec.backbone, spec.fine_tune.head, len(labels))
    network.load_state_dict(weights)
    network.eval()
    preprocessing = backbones.preprocessing_of(spec.backbone)
    ids = lookup.rows_of(catalog.splits, "split", ["test"])["image_id"].to_pylist()
    rows = lookup.rows_of(catalog.images, "image_id", ids).to_pylist()
    right = 0
    with torch.inference_mode():
        for row in rows:
            picture = preprocessing.prepare(images.decode_pixels(row["content"], row["rotation"]))
            logits = network(preprocessing.normalise(picture[None]))
            right += labels[int(logits.argmax())] == row["label"]
    return right / len(rows)


if __name__ == "__main__":
    main()
