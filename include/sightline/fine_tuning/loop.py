"""The training itself in one process of one or many: epochs, validation, checkpoints, early stop.

Everything that decides is a function of the seed and of the history so far, so a training that was
killed goes on after its last whole epoch as if nothing had happened.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from sightline import backbones, storage
from sightline.backbones.preprocessing import Preprocessing
from sightline.config import BackboneSpec
from sightline.errors import TrainingError
from sightline.fine_tune_config import FineTuneSpec, PhaseSpec
from sightline.fine_tuning import reading, recipes
from sightline.fine_tuning.augmentation import make_augmentation, make_mixing
from sightline.fine_tuning.checkpoints import (
    Epoch,
    Progressed,
    Tensors,
    read_checkpoint,
    write_checkpoint,
)
from sightline.fine_tuning.network import (
    TunedNetwork,
    average_norms,
    empty_network,
    find_folded,
    let_learn,
    set_modes,
)
from sightline.fine_tuning.reading import Batch, Order, Place
from sightline.fine_tuning.training_set import TrainingSet
from sightline.progress import Progress

log = logging.getLogger(__name__)

ALONE = Place()


@dataclass(frozen=True)
class Job:
    """What a process must know; it finds weights and images on storage itself."""

    spec: FineTuneSpec
    backbone: BackboneSpec
    precision: str  # fp32 or bf16
    training_set: TrainingSet
    start_url: str  # the network's weights before the first epoch
    checkpoint_url: str
    loader_processes: int = 1  # that prepare pictures beside each training process
    threads: int | None = None  # of torch in each process; default: its share of the cores


@dataclass
class _Means:
    """Sums over images, so that any number of processes has the same means."""

    sums: torch.Tensor  # images, loss, right

    @classmethod
    def empty(cls, device: torch.device) -> "_Means":
        return cls(torch.zeros(3, dtype=torch.float64, device=device))

    def add(self, loss: torch.Tensor, right: torch.Tensor, images: int) -> None:
        self.sums += torch.stack([loss.new_tensor(images), loss * images, right]).double()

    def over_all(self, place: Place) -> tuple[float, float]:
        """Mean loss and accuracy over the images of all processes."""
        if place.processes > 1:
            torch.distributed.all_reduce(self.sums)
        images, loss, right = self.sums.tolist()
        return loss / max(images, 1), right / max(images, 1)


def run(job: Job, place: Place = ALONE, device: str = "cpu") -> list[Epoch]:
    """Train to the last epoch, from the last checkpoint on; the weights to keep lie in the checkpoint.

    TrainingError where the loss is no number any more.
    """
    return _Training(job, place, torch.device(device)).run()


class _Training:
    """One process's training."""

    def __init__(self, job: Job, place: Place, device: torch.device) -> None:
        self.job, self.place, self.device = job, place, device
        self.spec, self.images = job.spec, job.training_set
        self.preprocessing: Preprocessing = backbones.preprocessing_of(job.backbone)
        self.network: TunedNetwork = empty_network(
            job.backbone, job.spec.head, len(self.images.labels)
        )
        start = read_weights(job.start_url)
        self.network.load_state_dict(start)
        find_folded(self.network)
        self.come = read_checkpoint(job.checkpoint_url) or Progressed(start)
        self.network.load_state_dict(self.come.network)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = recipes.LOSSES[self.spec.loss](self.spec)
        self.weights = _class_weights(self.spec, self.images).to(device)
        self.mixing = make_mixing(self.spec.mixup, self.spec.cutmix, len(self.images.labels))

    @property
    def steps(self) -> int:
        """Batches an epoch: as many whole ones as there are."""
        return max(1, self.images.train_images // self.spec.batch_size)

    def run(self) -> list[Epoch]:
        """Phase by phase."""
        total = sum(phase.epochs for phase in self.spec.all_phases)
        done, first = len(self.come.history), 1
        if done:
            log.info("fine_tune: goes on after epoch %d of %d", done, total)
        progress = Progress("fine_tune", (total - done) * self.steps * self.spec.batch_size)
        for phase in self.spec.all_phases:
            if done < first + phase.epochs - 1 and not self._is_over():
                self._run_phase(phase, range(first, first + phase.epochs), progress)
            first += phase.epochs
        return self.come.history

    def _run_phase(self, phase: PhaseSpec, epochs: range, progress: Progress) -> None:
        let_learn(self.network, phase.trainable)
        learning = [one for one in self.network.parameters() if one.requires_grad]
        optimizer = recipes.OPTIMIZERS[self.spec.optimizer](learning, self.spec)
        if len(self.come.history) >= epochs.start and self.come.optimizer:
            optimizer.load_state_dict(self.come.optimizer)
        model = _spread(self.network, self.place, self.device)
        for number in epochs:
            if number <= len(self.come.history) or self._is_over():
                continue
            torch.manual_seed(hash((self.spec.seed, number, self.place.rank)) % 2**32)
            rate = phase.learning_rate * self._plateau_factor(epochs)
            epoch = self._run_epoch(model, optimizer, number, epochs, rate, progress)
            self._keep(epoch, optimizer if number < epochs.stop - 1 else None)

    def _run_epoch(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        number: int,
        epochs: range,
        rate: float,
        progress: Progress,
    ) -> Epoch:
        began, seen = time.monotonic(), _Means.empty(self.device)
        schedule = recipes.SCHEDULES[self.spec.schedule]
        set_modes(self.network, training=True)
        for step, batch in enumerate(self._train_batches(number)):
            come = ((number - epochs.start) * self.steps + step) / (len(epochs) * self.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(come)
            self._step(model, optimizer, batch, seen)
            if self.place.rank == 0:
                progress.note = f"epoch {number} of {self._epochs}, step {step + 1} of {self.steps}"
                progress.add(self.spec.batch_size)
        seconds = time.monotonic() - began
        loss, right = seen.over_all(self.place)
        if loss != loss:
            raise TrainingError(
                f"The loss of epoch {number} is not a number; lower fine_tune.learning_rate "
                f"(now {rate:g}) or set fine_tune.clip_norm."
            )
        average_norms(self.network, self.place.processes)
        held_loss, held_right = self._validate()
        speed = self.steps * self.spec.batch_size / seconds
        last_rate = float(optimizer.param_groups[0]["lr"])
        return Epoch(number, loss, right, held_loss, held_right, last_rate, speed, seconds)

    def _step(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, seen: _Means
    ) -> None:
        pictures, labels = self._on_device(batch)
        shares = functional.one_hot(labels, len(self.images.labels)).float()
        if self.mixing is not None:
            pictures, shares = self.mixing(pictures, labels)
        with self._autocast():
            logits = model(pictures)
        loss = self.loss(logits.float(), shares, self.weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.spec.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.spec.clip_norm)
        optimizer.step()
        right = (logits.argmax(dim=1) == shares.argmax(dim=1)).sum()
        seen.add(loss.detach(), right, len(labels))

    def _validate(self) -> tuple[float, float]:
        """Mean loss and accuracy on the validation images."""
        set_modes(self.network, training=False)
        seen = _Means.empty(self.device)
        dataset = reading.ValidationImages(self.images, self.place, self.preprocessing.prepare)
        with torch.inference_mode():
            for batch in reading.batches(dataset, 32, self.job.loader_processes):
                pictures, labels = self._on_device(batch)
                with self._autocast():
                    logits = self.network(pictures).float()
                right = (logits.argmax(dim=1) == labels).sum()
                seen.add(functional.cross_entropy(logits, labels), right, len(labels))
        return seen.over_all(self.place)

    def _train_batches(self, number: int) -> Iterator[Batch]:
        ours = self.spec.batch_size // self.place.processes
        spec, preprocessing = self.spec.augmentation, self.preprocessing
        dataset = reading.TrainImages(
            self.images,
            self.place,
            Order(self.spec.seed, number),
            self.steps * ours,
            lambda seed: make_augmentation(spec, preprocessing, seed),
        )
        yield from reading.batches(dataset, ours, self.job.loader_processes)

    def _on_device(self, batch: Batch) -> Batch:
        pictures = self.preprocessing.normalise(batch[0].to(self.device, non_blocking=True))
        ready = pictures.contiguous(memory_format=torch.channels_last)
        return ready, batch[1].to(self.device, non_blocking=True)

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        is_bf16 = self.job.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16):
            yield

    @property
    def _epochs(self) -> int:
        return sum(phase.epochs for phase in self.spec.all_phases)

    def _plateau_factor(self, epochs: range) -> float:
        if self.spec.schedule != "plateau":
            return 1.0
        losses = [one.validation_loss for one in self.come.history if one.number in epochs]
        return recipes.plateau_factor(losses, self.spec.plateau_epochs)

    def _is_over(self) -> bool:
        """Whether the validation has not been better for as long as the dataset file allows."""
        losses = [epoch.validation_loss for epoch in self.come.history]
        patience = self.spec.early_stop_epochs
        return patience is not None and recipes.epochs_without_better(losses) >= patience

    def _keep(self, epoch: Epoch, optimizer: torch.optim.Optimizer | None) -> None:
        losses = [one.validation_loss for one in self.come.history]
        is_best = epoch.validation_loss < min(losses, default=float("inf"))
        self.come.history.append(epoch)
        if self.place.rank == 0:
            self.come.network = self.network.state_dict()
            if self.spec.keep == "last" or is_best:
                self.come.best = {n: t.clone() for n, t in self.come.network.items()}
            self.come.optimizer = optimizer.state_dict() if optimizer else {}
            write_checkpoint(self.job.checkpoint_url, self.come)
            log.info(
                "fine_tune: epoch %d of %d: loss %.4f, accuracy %.4f; validation loss %.4f, accuracy "
                "%.4f; %.1f images a second",
                epoch.number, self._epochs, epoch.loss, epoch.accuracy, epoch.validation_loss,
                epoch.validation_accuracy, epoch.images_per_second,
            )  # fmt: skip


def read_weights(url: str) -> Tensors:
    """The weights of a file that holds nothing else."""
    from safetensors.torch import load

    return load(storage.read_bytes(url))


def _class_weights(spec: FineTuneSpec, images: TrainingSet) -> torch.Tensor:
    """(classes,): 1 each, or so that each class counts as much as any other."""
    counts = torch.tensor(images.class_images, dtype=torch.float32).clamp(min=1)
    if spec.class_weights == "none":
        return torch.ones_like(counts)
    return counts.sum() / (len(counts) * counts)


def _spread(network: TunedNetwork, place: Place, device: torch.device) -> nn.Module:
    """The network, its gradients averaged over all processes.

    Each process keeps the batch-norm statistics of its own images until `average_norms`; by default every
    step would replace them by the first process's.
    """
    if place.processes == 1:
        return network
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids, forward_sync_buffers=False)
