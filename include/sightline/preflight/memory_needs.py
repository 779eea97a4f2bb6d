"""What each task of a dataset holds in memory where it runs, and the refusal of what cannot fit there.

The formulas are calculated, not measured, and leave out what varies: whoever is refused would have run out of
memory, but not everybody who passes is safe.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sightline import memory, spark_cluster
from sightline.config import DatasetSpec
from sightline.errors import ResourceError
from sightline.memory import GIB, shown
from sightline.settings import load_settings
from sightline.sources import Survey
from sightline.spark_workers import TORCH_WORKERS

if TYPE_CHECKING:
    from sightline.fine_tuning.estimate import TrainingMemory

SPARK_BYTES = 3 * GIB  # a driver and two workers with a network each
JVM_BYTES = 256 * 2**20  # of Spark's driver, beside its heap
TRAINING_JVM_BYTES = 600 * 2**20  # all of it, where it has little to do
DRIVER_BYTES = 400 * 2**20  # the Python driver of a featurizing
WORKER_BYTES = 256 * 2**20  # what a Python worker with torch does not share with the others
MARGIN = 1.5  # of a limit that is recommended, over the estimate, which is a lower bound


@dataclass(frozen=True)
class Machine:
    """Where Spark's jobs run: how much memory and how many cores one machine or executor has."""

    name: str
    total: int | None  # None: nothing is known of it here
    cores: int
    machines: int = 1
    larger: str = "or use a machine with more memory"


def place_of(spec: DatasetSpec) -> Machine:
    """The machine or executor on which the memory must suffice."""
    compute = spec.compute
    if compute.where != "spark":
        return Machine(
            "on EMR",
            compute.executor_memory_gigabytes * GIB,
            compute.executor_cores,
            compute.executors,
            f"or raise compute.executor_memory_gigabytes (now {compute.executor_memory_gigabytes})",
        )
    master = load_settings().spark_master
    if not spark_cluster.is_local(master):
        return Machine("on each machine of the cluster", None, memory.cores())
    named = re.match(r"local(?:\[(\d+))?", master)
    cores = int(named[1] or 1) if named and "*" not in master else memory.cores()
    return Machine("here", memory.total_bytes(), cores)


@dataclass(frozen=True)
class Workload:
    """What the needs depend on."""

    images: int
    classes: int
    dim: int  # of the features
    weights: int  # bytes of the backbone's; 0 if nothing has loaded it

    @classmethod
    def of(cls, survey: Survey, dim: int, weights: int) -> "Workload":
        """Two classes are assumed if the source does not count them."""
        return cls(survey.total, len(survey.images_by_class or ()) or 2, dim, weights)


def check(spec: DatasetSpec, size: Workload) -> list[str]:
    """A fact for each part that is estimated; ResourceError for the first that cannot fit."""
    place = place_of(spec)
    facts = [_check_features(spec, size, place)]
    if spec.fine_tune is not None:
        facts.append(_check_training(spec, size.classes, place))
    return facts


def featurizing_bytes(cores: int, weights: int = 0) -> int:
    """JVM, Python driver with the network, and a worker a core, which share the network's weights."""
    heap = int(TORCH_WORKERS["spark.driver.memory"].removesuffix("m")) * 2**20
    return heap + JVM_BYTES + DRIVER_BYTES + 2 * weights + cores * WORKER_BYTES


def classifying_bytes(spec: DatasetSpec, images: int, dim: int) -> int:
    """Rows x dimension is what the classifier's training holds. PCA holds dim x dim matrices: three on the
    driver, and on each of two workers one for every fold.
    """
    matrix = images * _width(spec, dim) * 8
    folds = spec.train.folds if spec.train else 0
    gramians = (3 + 2 * folds) * dim * dim * 8 if spec.reduce else 0
    return SPARK_BYTES + max(matrix, gramians)


def _width(spec: DatasetSpec, dim: int) -> int:
    return (spec.reduce.components if spec.reduce else None) or dim


def _check_features(spec: DatasetSpec, size: Workload, place: Machine) -> str:
    """Featurizing, and what is done with the features."""
    images, width = size.images, _width(spec, size.dim)
    unknown = "" if images else "; how many images there are is known after the listing"
    needed = classifying_bytes(spec, images, size.dim)
    featurizing = featurizing_bytes(place.cores, size.weights)
    if place.name != "here":
        fact = f"memory: about {shown(max(needed, featurizing))} needed ({images:,} x {width:,})"
        return f"{fact}, {place.name}{unknown}"
    assert place.total is not None
    if needed > place.total:
        raise ResourceError(
            f"Dataset {spec.name} needs about {shown(needed)} of memory ({images:,} images x "
            f"{width:,} numbers), but this machine has {shown(place.total)}; set reduce.components lower, "
            "choose a narrower backbone, or run Spark on a cluster."
        )
    if featurizing > place.total:
        raise ResourceError(
            f"Dataset {spec.name} needs about {shown(featurizing)} of memory to featurize on {place.cores} "
            f"cores at once, but this machine has {shown(place.total)}; set SIGHTLINE_SPARK_MASTER to "
            "local[1], choose a smaller backbone, or run Spark on a cluster."
        )
    return (
        f"memory: about {shown(max(needed, featurizing))} needed ({images:,} x {width:,}), "
        f"{shown(place.total)} {place.name}{unknown}"
    )


def _check_training(spec: DatasetSpec, classes: int, place: Machine) -> str:
    from sightline.fine_tuning.estimate import estimate_training, has_gpu

    assert spec.fine_tune is not None
    needs = estimate_training(spec, classes)
    if place.name == "here" and has_gpu():
        place = replace(place, total=None)  # the trainer measures the GPU's memory itself
    here = math.ceil(spec.fine_tune.processes / place.machines)  # of the training's processes
    if place.total is not None:
        _refuse_training(spec, needs, place, here)
    parts = {
        "weights": needs.weights + needs.best_weights,
        "gradients": needs.gradients,
        "optimiser": needs.optimizer,
        "activations of two pictures": needs.all_activations,
        "data loader": needs.data_loader,
    }
    listed = ", ".join(f"{name} {shown(size)}" for name, size in parts.items())
    count = f" in each of {spec.fine_tune.processes} processes" if here > 1 else ""
    budget = ""
    if place.total is not None:
        allowed = spec.limits.memory or memory.training_budget(place.total, here)
        budget = f", of {shown(allowed)} that it may use"
    return f"memory: fine_tune holds at least {shown(needs.process)}{count} ({listed}){budget}"


def _refuse_training(spec: DatasetSpec, needs: "TrainingMemory", place: Machine, here: int) -> None:
    """ResourceError if not even two pictures at a time fit into the budget, or into the machine."""
    assert place.total is not None
    whole = here * (needs.process + needs.data_loader) + TRAINING_JVM_BYTES
    budget = spec.limits.memory or memory.training_budget(place.total, here)
    recipe = (
        f"Dataset {spec.name}: fine-tuning {spec.backbone.name} (trainable: {needs.trainable}, "
        f"{needs.image_size} pixels, {needs.optimizer_name}) needs about"
    )
    smaller = "choose a smaller backbone.image_size, fewer layers in fine_tune.trainable, a smaller backbone"
    if whole > place.total:
        raise ResourceError(
            f"{recipe} {shown(whole)} of memory for {here} process{'es' * (here > 1)} on two pictures at "
            f"a time, but there are {shown(place.total)} {place.name}; {smaller}"
            f"{', fewer fine_tune.processes' * (here > 1)}, {place.larger}."
        )
    if needs.process > budget:
        wanted = math.ceil(needs.process * MARGIN / GIB)
        raise ResourceError(
            f"{recipe} {shown(needs.process)} of memory in each process on two pictures at a time, but it "
            f"may use {shown(budget)}; set limits.memory to {wanted}GiB or more, {smaller}, {place.larger}."
        )
