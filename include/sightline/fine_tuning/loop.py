"""The training itself in one process of one or many: epochs, validation, checkpoints, early stop.

Everything that decides is a function of the seed and of the history so far, so a training that was
killed goes on after its last whole epoch as if nothing had happened.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from sightline import backbones
from sightline.backbones.preprocessing import Preprocessing
from sightline.config import BackboneSpec
from sightline.errors import TrainingError
from sightline.fine_tune_config import FineTuneSpec, PhaseSpec
from sightline.fine_tuning import reading, recipes
from sightline.fine_tuning.augmentation import make_augmentation, make_mixing
from sightline.fine_tuning.checkpoints import (
    Epoch,
    Progressed,
    read_checkpoint,
    read_weights,
    write_checkpoint,
)
from sightline.fine_tuning.memory_fit import TrialRun, agree, budget_bytes, fit
from sightline.fine_tuning.memory_meter import release, trim
from sightline.fine_tuning.micro_batches import Accumulation, MicroBatch
from sightline.fine_tuning.network import (
    TunedNetwork,
    average_norms,
    empty_network,
    find_folded,
    let_learn,
    set_modes,
)
from sightline.fine_tuning.reading import Batch, Order, Pictures, Place
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
    memory_bytes: int | None = None  # of each process; default: its share of the machine or GPU
    micro_batch: MicroBatch | None = None  # default: measured


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

    TrainingError where the loss is no number any more; ResourceError if the memory is too small.
    """
    try:
        return _Training(job, place, torch.device(device)).run()
    finally:
        release()


class _Training:
    """One process's training."""

    def __init__(self, job: Job, place: Place, device: torch.device) -> None:
        self.job, self.place, self.device = job, place, device
        self.spec, self.images = job.spec, job.training_set
        self.preprocessing: Preprocessing = backbones.preprocessing_of(job.backbone)
        self.like = self.preprocessing.prepare(np.zeros((64, 64, 3), dtype=np.uint8))
        self.network: TunedNetwork = empty_network(
            job.backbone, job.spec.head, len(self.images.labels)
        )
        self.network.load_state_dict(read_weights(job.start_url))
        find_folded(self.network)
        self.come = read_checkpoint(job.checkpoint_url) or Progressed()
        if self.come.network:
            self.network.load_state_dict(self.come.network)
            self.come.network = {}  # a mapped file, which the next checkpoint replaces
            self.come.best = {name: value.clone() for name, value in self.come.best.items()}
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._budget = budget_bytes(job.memory_bytes, device, place.processes_here)
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
        goes_on = len(self.come.history) >= epochs.start
        if goes_on and self.come.optimizer:
            optimizer.load_state_dict(self.come.optimizer)
        size = (self._last_size() if goes_on else None) or self._fit(optimizer)
        model = _spread(self.network, self.place, self.device)
        accumulation = Accumulation(self.network, model, size)
        for number in epochs:
            if number <= len(self.come.history) or self._is_over():
                continue
            torch.manual_seed(hash((self.spec.seed, number, self.place.rank)) % 2**32)
            rate = phase.learning_rate * self._plateau_factor(epochs)
            epoch = self._run_epoch(accumulation, optimizer, number, epochs, rate, progress)
            self.come.micro_batch = {"budget": self._budget, **asdict(accumulation.size)}
            self._keep(epoch, optimizer if number < epochs.stop - 1 else None)

    def _run_epoch(
        self,
        accumulation: Accumulation,
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
            self._step(accumulation, optimizer, batch, seen)
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
        optimizer.zero_grad(set_to_none=True)
        trim()  # else freed activations stay with this process
        average_norms(self.network, self.place.processes)
        held_loss, held_right = self._validate(accumulation.size.validated)
        speed = self.steps * self.spec.batch_size / seconds
        last_rate = float(optimizer.param_groups[0]["lr"])
        return Epoch(number, loss, right, held_loss, held_right, last_rate, speed, seconds)

    def _step(
        self,
        accumulation: Accumulation,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        seen: _Means,
    ) -> None:
        pictures, labels = (one.to(self.device, non_blocking=True) for one in batch)
        shares = functional.one_hot(labels, len(self.images.labels)).float()
        is_mixed = self.mixing is not None
        if self.mixing is not None:  # before the batch is split, so that any two pictures may meet
            pictures, shares = self.mixing(self._ready(pictures), labels)

        def losses(piece: slice) -> tuple[torch.Tensor, torch.Tensor]:
            ready = pictures[piece] if is_mixed else self._ready(pictures[piece])
            with self._autocast():
                logits = accumulation.model(ready)
            right = (logits.argmax(dim=1) == shares[piece].argmax(dim=1)).sum()
            return self.loss(logits.float(), shares[piece], self.weights), right

        for one in accumulation.gradients(len(labels), losses):
            seen.add(one.loss, one.right, one.images)
        if self.spec.clip_norm is not None:
            nn.utils.clip_grad_norm_(accumulation.model.parameters(), self.spec.clip_norm)
        optimizer.step()

    def _fit(self, optimizer: torch.optim.Optimizer) -> MicroBatch:
        """How many pictures to work on at a time in the phase that begins; the same in all processes."""
        if self.job.micro_batch is not None:
            return self.job.micro_batch
        like, classes = self.like, len(self.images.labels)

        def run(count: int) -> None:
            size = count * like.numel()
            values = torch.arange(size, dtype=torch.int32, device=self.device).remainder_(251)
            pictures = self._ready(values.to(like.dtype).view(count, *like.shape))
            shares = torch.full((count, classes), 1 / classes, device=self.device)
            with self._autocast():
                logits = self.network(pictures)
            self.loss(logits.float(), shares, self.weights).backward()  # type: ignore[no-untyped-call]

        ours = self.spec.batch_size // self.place.processes
        work = TrialRun(self.network, optimizer, run, ours, 4 * like.numel(), self.device)
        return agree(fit(work, self._budget), self.place, self.device)

    def _last_size(self) -> MicroBatch | None:
        """What the phase worked with before it was interrupted: batch norms go on with as many pictures."""
        last = dict(self.come.micro_batch)
        return MicroBatch(**last) if last.pop("budget", None) == self._budget else None

    def _validate(self, at_once: int) -> tuple[float, float]:
        """Mean loss and accuracy on the validation images."""
        set_modes(self.network, training=False)
        seen = _Means.empty(self.device)
        dataset = reading.ValidationImages(self.images, self.place, self.preprocessing.prepare)
        with torch.inference_mode():
            for batch in self._prepared(dataset, at_once):
                pictures, labels = (one.to(self.device, non_blocking=True) for one in batch)
                with self._autocast():
                    logits = self.network(self._ready(pictures)).float()
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
            partial(make_augmentation, spec, preprocessing),
        )
        yield from self._prepared(dataset, ours)

    def _prepared(self, dataset: Pictures, batch_size: int) -> Iterable[Batch]:
        workers, like = self.job.loader_processes, self.like
        return reading.batches(dataset, batch_size, workers, like.nbytes)

    def _ready(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.preprocessing.normalise(pictures).contiguous(memory_format=torch.channels_last)

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
