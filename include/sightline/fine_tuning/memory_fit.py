"""How many pictures a training process works on at a time: as many as fit into its share of memory.

The answer comes from a short run on made-up pictures, which leaves weights, statistics, optimiser and
random state as they were.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from sightline import memory
from sightline.errors import ResourceError
from sightline.fine_tuning.memory_meter import Meter, OverLimit, release
from sightline.fine_tuning.micro_batches import (
    ADVICE,
    VALIDATED_AT_ONCE,
    MicroBatch,
    Moment,
    is_allocation_failure,
    least_pictures,
    shown,
    split,
)
from sightline.fine_tuning.network import TunedNetwork
from sightline.fine_tuning.reading import Place
from sightline.fine_tuning.recomputation import find_blocks, recomputing

log = logging.getLogger(__name__)

USED = 0.9  # of the budget: allocations of the same sizes do not always fall into the same places
# More than any network of torchvision or timm keeps for a byte of a float32 picture (EfficientNet: 650).
ACTIVATIONS_A_BYTE = 2000
NORM_PICTURES = 8  # from which on a batch norm's statistics are steady enough to train with


@dataclass(frozen=True)
class TrialRun:
    """What is to be fitted: `run` computes gradients of so many made-up pictures."""

    network: TunedNetwork
    optimizer: torch.optim.Optimizer
    run: Callable[[int], None]
    batch_size: int  # of this process
    picture_bytes: int  # as float32
    device: torch.device


def budget_bytes(limit: int | None, device: torch.device, processes_here: int) -> int:
    """What one training process may hold: `limits.memory`, or a share of the machine or the GPU."""
    if limit is not None:
        return limit
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    return memory.training_budget(memory.total_bytes(), processes_here)


def fit(work: TrialRun, budget: int) -> MicroBatch:
    """The largest micro-batch within the budget; ResourceError if nothing fits.

    Activation checkpointing is used if nothing fits without it, or if batch norms would take their statistics
    from fewer than NORM_PICTURES.
    """
    meter = Meter(work.device)
    if _surely_fits(work, budget, meter):
        return MicroBatch(work.batch_size)
    release()
    at_least = least_pictures(work.network)
    enough = min(work.batch_size, NORM_PICTURES) if at_least > 1 else 1
    probes = [_Probe(work, meter, int(budget * USED), recomputes) for recomputes in (False, True)]
    with _as_after_a_step(work.optimizer), Moment(work.network).kept():
        for probe in probes:
            probe.find_largest(at_least)
            if probe.pictures >= enough:
                break
    best = max(probes, key=lambda probe: probe.pictures)  # the first of equals
    if best.found is not None:
        best.log_size(budget)
        return best.found
    raise ResourceError(
        f"Training on {max(split(work.batch_size, 1, at_least))} pictures at a time does not fit into "
        f"{memory.shown(budget)}, even with activation checkpointing ({memory.shown(best.held)} are held "
        f"before the first); {ADVICE}."
    )


def agree(size: MicroBatch, place: Place, device: torch.device) -> MicroBatch:
    """The smallest of all processes' micro-batches, so that their batch norms see equally many pictures."""
    if place.processes == 1:
        return size
    flags = [-int(size.recomputes), -int(size.is_tight)]
    wanted = torch.tensor([size.pictures, size.validated, *flags], device=device)
    torch.distributed.all_reduce(wanted, torch.distributed.ReduceOp.MIN)
    pictures, validated, recomputes, is_tight = wanted.tolist()
    return MicroBatch(pictures, bool(recomputes), validated, bool(is_tight))


def _surely_fits(work: TrialRun, budget: int, meter: Meter) -> bool:
    """Whether even the hungriest of networks fits, so that nothing need be measured."""
    weights = sum(one.nbytes for one in work.network.parameters())
    pictures = max(work.batch_size, VALIDATED_AT_ONCE) * work.picture_bytes
    return meter.held() + 4 * weights + pictures * ACTIVATIONS_A_BYTE < budget * USED


class _Probe:
    """Measures micro-batches of one kind."""

    def __init__(self, work: TrialRun, meter: Meter, limit: int, recomputes: bool) -> None:
        self.work, self.meter, self.limit, self.recomputes = work, meter, limit, recomputes
        self.held = 0  # before the pictures
        self.each = 0.0  # bytes a picture
        self.found: MicroBatch | None = None

    @property
    def pictures(self) -> int:
        """Of the micro-batch that was found; 0 if none fits."""
        return self.found.pictures if self.found else 0

    def find_largest(self, at_least: int) -> None:
        """Measure micro-batches, beginning with the smallest one."""
        size = max(split(self.work.batch_size, 1, at_least))
        smallest, peak = size, self._peak(size)
        if peak is None:
            return
        self.each = max(1, peak - self.held) / size
        room = int((self.limit - self.held) / self.each)
        size = max(size, self._even(room, at_least))
        while size > smallest and not self._is_certain(size, room):
            if self._peak(size) is not None:
                break
            size = self._even(size - 1, at_least)
        validated = max(1, min(VALIDATED_AT_ONCE, room))
        is_tight = not self._is_certain(size, room)
        self.found = MicroBatch(size, self.recomputes, validated, is_tight)

    def log_size(self, budget: int) -> None:
        """Log what was found, unless it is the whole batch."""
        found = self.found
        assert found is not None
        whole = found.pictures == self.work.batch_size and not found.recomputes
        log.log(
            logging.DEBUG if whole else logging.INFO,
            "fine_tune: %s (batch %d) within %s: %s held, %s a picture",
            shown(found), self.work.batch_size, memory.shown(budget), memory.shown(self.held),
            memory.shown(self.each),
        )  # fmt: skip

    def _even(self, most: int, at_least: int) -> int:
        return max(split(self.work.batch_size, max(1, most), at_least))

    def _is_certain(self, size: int, room: int) -> bool:
        """Whether there is room for half as much again as was calculated, so that no measurement is due."""
        return room >= math.ceil(1.5 * size)

    def _peak(self, pictures: int) -> int | None:
        """Bytes held at most with so many pictures; None if that is too much."""
        release()
        self.held = self.meter.held()
        blocks = find_blocks(self.work.network.backbone) if self.recomputes else []
        try:
            with self.meter.limited(self.work.network, self.limit), recomputing(blocks):
                peak = self.meter.peak_of(lambda: self.work.run(pictures))
        except OverLimit:
            return None
        except (RuntimeError, MemoryError) as error:
            if not is_allocation_failure(error):
                raise
            return None
        finally:
            release()
        return peak if peak <= self.limit else None


@contextmanager
def _as_after_a_step(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let the optimiser's state and all gradients exist meanwhile, as they do from the second step on.

    A step with gradients and rates of zero makes the state and moves no weight.
    """
    groups = optimizer.param_groups
    for parameter in (one for group in groups for one in group["params"]):
        parameter.grad = torch.zeros_like(parameter)
    is_new, rates = not optimizer.state, [group["lr"] for group in groups]
    if is_new:
        for group in groups:
            group["lr"] = 0.0
        optimizer.step()
    try:
        yield
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        if is_new:
            optimizer.state.clear()
        optimizer.zero_grad(set_to_none=True)
