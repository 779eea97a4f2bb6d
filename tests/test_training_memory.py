"""Training within a budget of memory: micro-batches, activation checkpointing, and what is released."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from sightline import backbones, fine_tuning, models, storage
from sightline.catalog import Catalog
from sightline.config import BackboneSpec, DatasetSpec
from sightline.errors import ResourceError
from sightline.fine_tune_config import TunedHeadSpec
from sightline.fine_tuning import loop, reading
from sightline.fine_tuning.checkpoints import Tensors, read_checkpoint, read_weights, write_weights
from sightline.fine_tuning.loop import Job
from sightline.fine_tuning.memory_fit import USED
from sightline.fine_tuning.memory_meter import release
from sightline.fine_tuning.micro_batches import Accumulation, MicroBatch, least_pictures, split
from sightline.fine_tuning.network import TunedNetwork, let_learn, make_network
from sightline.fine_tuning.recomputation import find_blocks, recomputing
from sightline.fine_tuning.training_set import build_training_set
from sightline.images import Pixels
from sightline.models import Plan
from tests.colours import make_colours

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

pytestmark = pytest.mark.usefixtures("one_torch_thread")

NO_BATCH_NORM = {"name": "squeezenet1_1", "image_size": 64}
MIB = 2**20


@pytest.fixture
def spec(own_places: "Path") -> DatasetSpec:
    return make_colours(own_places)


@pytest.fixture
def plan(spec: DatasetSpec, catalog: Catalog) -> Plan:
    plan = models.make_plan(spec, catalog, "none")
    models.write_plan(catalog, plan)
    return plan


@pytest.fixture
def make_job(spec: DatasetSpec, catalog: Catalog, plan: Plan) -> Callable[..., Job]:
    """Jobs on the colours, by a name, fields of the backbone, and settings of the training."""

    def make(name: str, backbone: dict[str, Any], **changed: Any) -> Job:
        assert spec.fine_tune is not None
        folder = storage.join(catalog.staging, name)
        images = build_training_set(spec, catalog, plan, 0.2, folder)
        fine_tune = spec.fine_tune.model_copy(update={"epochs": 1, **changed})
        own = spec.backbone.model_copy(update=backbone)
        return fine_tuning.prepare_job(fine_tune, own, images, folder)

    return make


def trained(job: Job) -> Tensors:
    loop.run(job)
    come = read_checkpoint(job.checkpoint_url)
    assert come is not None
    return come.network


def assert_close(one: Tensors, other: Tensors) -> None:
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-5)


def held_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


@given(st.integers(2, 300), st.integers(1, 300), st.integers(1, 2))
def test_a_batch_is_split_evenly(batch_size: int, most: int, at_least: int) -> None:
    sizes = split(batch_size, most, at_least)
    assert sum(sizes) == batch_size
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= at_least
    assert max(sizes) <= max(most, 2 * at_least - 1)


PLAIN: dict[str, Any] = {"optimizer": "sgd", "trainable": "all", "learning_rate": 0.01}


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"loss": "cross_entropy", "class_weights": "balanced"}, id="cross_entropy"),
        pytest.param(
            {"loss": "label_smoothing", "class_weights": "balanced", "clip_norm": 1.0},
            id="label_smoothing",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"loss": "focal", "class_weights": "balanced"}, id="focal", marks=pytest.mark.slow
        ),
        pytest.param({"mixup": 0.4, "cutmix": 1.0, "clip_norm": 1.0}, id="mixed"),
    ],
)
def test_micro_batches_train_as_whole_batches_do(
    make_job: Callable[..., Job], changed: dict[str, Any]
) -> None:
    jobs = [make_job(name, NO_BATCH_NORM, **PLAIN, **changed) for name in ("whole", "split")]
    start = read_weights(jobs[0].start_url)
    whole = trained(jobs[0])
    pieces = trained(replace(jobs[1], micro_batch=MicroBatch(5, recomputes=True, validated=3)))
    assert_close(whole, pieces)
    assert max(float((whole[name] - start[name]).abs().max()) for name in start) > 1e-3
    histories = [read_checkpoint(job.checkpoint_url).history[-1] for job in jobs]  # type: ignore[union-attr]
    for field in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        one, other = (getattr(epoch, field) for epoch in histories)
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
# pyspark leaves its child's output to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_processes_with_micro_batches_train_as_one_without(
    spark: "SparkSession", make_job: Callable[..., Job]
) -> None:
    # Crops are drawn anew in each process.
    changed = {**PLAIN, "augmentation": "none", "epochs": 2, "clip_norm": 0.5}
    alone = trained(make_job("alone", NO_BATCH_NORM, **changed))
    paired = make_job("paired", NO_BATCH_NORM, processes=2, **changed)
    fine_tuning.distributed.train(spark, replace(paired, micro_batch=MicroBatch(4)))
    come = read_checkpoint(paired.checkpoint_url)
    assert come is not None
    assert_close(alone, come.network)


@pytest.mark.slow
def test_a_measured_training_equals_one_that_surely_fits(make_job: Callable[..., Job]) -> None:
    """With dropout and batch norms, which a measurement would upset if it left traces."""
    changed: dict[str, Any] = {"head": TunedHeadSpec(batch_norm=True, dropout=0.5)}
    sure, measured = (make_job(name, {}, **changed) for name in ("sure", "measured"))
    enough = int((held_bytes() + 900 * MIB) / USED)  # and too little to be sure
    one = trained(replace(sure, memory_bytes=2**40))
    other = trained(replace(measured, memory_bytes=enough))
    assert all(value.equal(other[name]) for name, value in one.items())


@pytest.mark.slow
def test_a_budget_sizes_the_micro_batch_and_bounds_what_is_held(
    make_job: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job("budget", {"image_size": 160}, trainable="all")
    release()
    before = held_bytes()
    with caplog.at_level(logging.INFO):
        loop.run(replace(job, memory_bytes=int((before + 400 * MIB) / USED)))
    said = [one.getMessage() for one in caplog.records if "micro-batches" in one.getMessage()]
    assert len(said) == 1
    logging.getLogger(__name__).warning(said[0])
    assert "(batch 12) within" in said[0]
    assert held_bytes() < before + 200 * MIB  # nothing of it stays


def test_an_interrupted_phase_goes_on_with_its_micro_batch(make_job: Callable[..., Job]) -> None:
    job = make_job("interrupted", {}, epochs=2)
    loop.run(replace(job, micro_batch=MicroBatch(4)))
    come = read_checkpoint(job.checkpoint_url)
    assert come is not None
    assert come.micro_batch["pictures"] == 4
    longer = replace(job, spec=job.spec.model_copy(update={"epochs": 3}))
    assert len(loop.run(longer)) == 3  # the same budget, and no micro-batch of its own
    again = read_checkpoint(job.checkpoint_url)
    assert again is not None
    assert again.micro_batch == come.micro_batch
    loop.run(replace(longer, spec=job.spec.model_copy(update={"epochs": 4}), memory_bytes=2**40))
    other = read_checkpoint(job.checkpoint_url)
    assert other is not None
    assert other.micro_batch["pictures"] == 12  # another budget


def test_what_cannot_fit_ends_in_a_sentence(make_job: Callable[..., Job]) -> None:
    job = make_job("small", {}, trainable="all")
    with pytest.raises(ResourceError, match=r"does not fit into 64 MiB, even .*limits.memory"):
        loop.run(replace(job, memory_bytes=64 * MIB))


def tuned(name: str, image_size: int) -> TunedNetwork:
    backbone = backbones.load_backbone(
        BackboneSpec(name=name, weights="random", image_size=image_size)
    )
    network = make_network(backbone, TunedHeadSpec(batch_norm=True, dropout=0.5), 3, seed=0)
    let_learn(network, "all")
    return network


def gradients_of(network: TunedNetwork, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    network.zero_grad()
    network(pictures).square().sum().backward()
    return {
        name: value.grad.clone()
        for name, value in network.named_parameters()
        if value.grad is not None
    }


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet18", 8),
        ("efficientnet_b0", 18),  # with stochastic depth
        ("densenet121", 58),
        ("timm/efficientnet_b0", 16),
        ("timm/convnext_atto", 12),
        ("timm/vit_tiny_patch16_224", 12),
    ],
)
def test_recomputed_activations_change_no_gradient_and_no_statistic(name: str, blocks: int) -> None:
    size = 224 if "224" in name else 64
    plain, forgetful = tuned(name, size), tuned(name, size)
    pictures = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    wanted = gradients_of(plain, pictures)
    found = find_blocks(forgetful.backbone)
    assert len(found) >= blocks
    with recomputing(found):
        given = gradients_of(forgetful, pictures)
    assert wanted.keys() == given.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(given[key], value)
    for key, buffer in plain.named_buffers():
        torch.testing.assert_close(forgetful.get_buffer(key), buffer)
    assert not any("forward" in vars(block) and block.forward.__name__ == "run" for block in found)


def saved_bytes(network: nn.Module, pictures: torch.Tensor) -> int:
    """What a forward pass keeps for the backward pass, beside the weights."""
    weights = {one.data_ptr() for one in network.parameters()}
    kept: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        if value.data_ptr() not in weights:
            kept[value.data_ptr()] = value.nbytes
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        network(pictures).sum()
    return sum(kept.values())


def test_frozen_layers_keep_no_activations() -> None:
    network, pictures = tuned("resnet18", 64), torch.randn(4, 3, 64, 64)
    kept = {}
    for trainable in ("head", "half", "all"):
        let_learn(network, trainable)
        kept[trainable] = saved_bytes(network, pictures)
    assert kept["head"] < 100_000  # features of four pictures
    assert kept["half"] < kept["all"] / 3


def test_a_refused_allocation_halves_the_micro_batch_and_repeats_the_step() -> None:
    pictures = torch.randn(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    results = []
    for most, refused_above in ((3, 12), (12, 3)):
        network = tuned("resnet18", 64)
        accumulation = Accumulation(network, network, MicroBatch(most))
        torch.manual_seed(1)

        def losses(
            piece: slice, network: nn.Module = network, most: int = refused_above
        ) -> tuple[torch.Tensor, torch.Tensor]:
            logits = network(pictures[piece])
            if piece.stop - piece.start > most:
                torch.empty(2**60)  # the machine refuses
            return logits.square().mean(), torch.zeros(())

        seen = accumulation.gradients(12, losses)
        assert [one.images for one in seen] == [3, 3, 3, 3]
        assert accumulation.size.pictures == 3
        gradients = {name: one.grad for name, one in network.named_parameters()}
        results.append({**gradients, **dict(network.named_buffers())})
    assert all(value.equal(results[1][name]) for name, value in results[0].items())


def test_a_batch_norm_that_learns_sees_two_pictures_at_least() -> None:
    network = tuned("resnet18", 64)
    assert least_pictures(network) == 2
    accumulation = Accumulation(network, network, MicroBatch(1))

    def refused(piece: slice) -> tuple[torch.Tensor, torch.Tensor]:
        assert piece.stop - piece.start == 2
        return torch.empty(2**60), torch.zeros(())

    with pytest.raises(ResourceError, match="Training on 2 pictures at a time needs more memory"):
        accumulation.gradients(4, refused)
    assert accumulation.size.recomputes  # was tried before it gave up


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_weights_come_back_as_they_were_written(tmp_path: "Path", scheme: str) -> None:
    tensors = {
        "picture": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "count": torch.tensor(7),
        "short": torch.randn(3).bfloat16(),
        "none": torch.zeros(0),
    }
    url = f"{scheme}{tmp_path}/weights.safetensors"
    write_weights(url, tensors, {"key": "value"})
    read = read_weights(url)
    assert read.keys() == tensors.keys()
    assert all(value.equal(tensors[name]) for name, value in read.items())
    plain = load(storage.read_bytes(url))  # the safetensors package reads them, too
    assert plain["picture"].permute(0, 3, 1, 2).equal(tensors["picture"])
    storage.write_bytes(url, save({"other": torch.ones(3)}))  # as earlier commits wrote them
    assert read_weights(url)["other"].sum() == 3


@pytest.mark.slow
def test_workers_of_a_large_process_are_small_and_give_the_same_pictures(
    make_job: Callable[..., Job],
) -> None:
    job = make_job("read", {})
    prepare = backbones.preprocessing_of(job.backbone).prepare
    dataset = reading.ValidationImages(job.training_set, reading.Place(), prepare)
    alone = torch.cat([pictures for pictures, _ in reading.batches(dataset, 2, 0)])
    held = torch.ones(2**28)  # 1 GiB
    beside, sizes = [], list[int]()
    for pictures, _ in reading.batches(dataset, 2, 1):
        beside.append(pictures)
        children = psutil.Process().children(recursive=True)
        workers = [one for one in children if one.memory_info().rss > 0 and is_worker(one)]
        sizes += [anonymous_bytes(one) for one in workers]
    assert torch.cat(beside).equal(alone)
    assert sizes
    assert max(sizes) < 500 * MIB
    assert held.sum() == 2**28


def is_worker(process: psutil.Process) -> bool:
    return "forkserver" in " ".join(process.cmdline())


def anonymous_bytes(process: psutil.Process) -> int:
    """Resident memory without mapped files, whose share of each process depends on what else runs."""
    held = process.memory_info()
    return int(held.rss - held.shared)


BUSY = threading.Lock()


def prepare_unless_busy(pixels: Pixels) -> torch.Tensor:
    assert BUSY.acquire(timeout=5), "the worker inherited a lock that another thread holds"
    BUSY.release()
    return torch.from_numpy(pixels.copy())


@pytest.mark.slow
def test_a_worker_does_not_wait_for_locks_of_the_training_process(
    make_job: Callable[..., Job],
) -> None:
    job = make_job("read", {})
    dataset = reading.ValidationImages(job.training_set, reading.Place(), prepare_unless_busy)
    with BUSY:  # as a thread of Gloo may hold one when the worker starts
        read = sum(len(labels) for _, labels in reading.batches(dataset, 2, 1))
    assert read == job.training_set.validation_images
