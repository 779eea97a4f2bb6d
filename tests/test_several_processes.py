"""Training in several processes: each image once an epoch, and one network that all of them have."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from sightline import backbones, fine_tuning, models, storage
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.fine_tuning import reading
from sightline.fine_tuning.checkpoints import read_checkpoint
from sightline.fine_tuning.loop import Job
from sightline.fine_tuning.network import empty_network
from sightline.fine_tuning.reading import Place
from sightline.fine_tuning.training_set import RowGroup, build_training_set
from tests.colours import make_colours

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.usefixtures("one_torch_thread")

# One of two processes: its half of a batch passes through a norm that learns and one that does not.
PROCESS = """
import sys, torch
from torch import nn
from sightline.fine_tuning.network import TunedNetwork, average_norms
folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
network = TunedNetwork(nn.BatchNorm1d(3, momentum=1.0), nn.BatchNorm1d(3)).train()
network.head.eval()
network.head.running_mean.fill_(rank)
network.backbone(torch.load(f"{folder}/batch")[rank::2])
average_norms(network, 2)
torch.save(network.state_dict(), f"{folder}/{rank}")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_norms_of_two_processes_end_with_the_statistics_of_the_whole_batch(tmp_path: Path) -> None:
    batch = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    batch[::2] += torch.tensor([0.0, 3.0, -1.0])  # the first process's half is unlike the second's
    torch.save(batch, tmp_path / "batch")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), str(rank)],
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(2))
    whole = torch.nn.BatchNorm1d(3, momentum=1.0)
    whole(batch)
    for name in ("running_mean", "running_var"):
        assert first[f"backbone.{name}"].equal(second[f"backbone.{name}"])
        torch.testing.assert_close(
            first[f"backbone.{name}"], getattr(whole, name), rtol=2e-3, atol=1e-5
        )
    assert (first["head.running_mean"][0], second["head.running_mean"][0]) == (0, 1)  # untouched


def test_row_groups_of_all_sizes_are_dealt_so_that_processes_have_as_many_images() -> None:
    sizes = [1000, 7, 400, 30, 12, 900, 5, 300, *[10] * 20]
    groups = [RowGroup("url", number, "list", 0, size, 0) for number, size in enumerate(sizes)]
    for seed in range(20):
        random.Random(seed).shuffle(groups)
        for processes in (2, 3):
            dealt = reading.deal_groups(groups, processes)
            assert Counter(sum(dealt, [])) == Counter(groups)
            loads = [sum(group.train_images for group in share) for share in dealt]
            assert max(loads) - min(loads) <= (10 if processes == 2 else 100)
            assert all(
                sorted(share, key=groups.index) == share for share in dealt
            )  # in their order


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return make_colours(own_places)


def validation_loss(job: Job) -> float:
    """The mean loss of the network in the checkpoint on all validation images."""
    come = read_checkpoint(job.checkpoint_url)
    assert come is not None
    images = job.training_set
    network = empty_network(job.backbone, job.spec.head, len(images.labels))
    network.load_state_dict(come.network)
    network.eval()
    preprocessing = backbones.preprocessing_of(job.backbone)
    dataset = reading.ValidationImages(images, Place(), preprocessing.prepare)
    (batch,) = reading.batches(dataset, images.validation_images, 0)
    with torch.inference_mode():
        return float(functional.cross_entropy(network(preprocessing.normalise(batch[0])), batch[1]))


@pytest.mark.slow
# pyspark leaves its child's output to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_network_that_is_kept_is_the_one_that_every_process_validates(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    plan = models.make_plan(spec, catalog, "none")
    assert spec.fine_tune is not None
    fine_tune = spec.fine_tune.model_copy(update={"processes": 2, "epochs": 2})
    folder = storage.join(catalog.staging, "two")
    images = build_training_set(spec, catalog, plan, 0.2, storage.join(folder, "lists"))
    job = fine_tuning.prepare_job(fine_tune, spec.backbone, images, folder)
    history = fine_tuning.distributed.train(spark, job)
    assert history[-1].validation_loss == pytest.approx(validation_loss(job), rel=1e-4)
