"""Gradient accumulation: gradients of a batch, computed on as many pictures at a time as memory allows."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sightline.errors import ResourceError
from sightline.fine_tuning.memory_meter import release, trim
from sightline.fine_tuning.network import NORMS, TunedNetwork
from sightline.fine_tuning.recomputation import find_blocks, recomputing

log = logging.getLogger(__name__)

VALIDATED_AT_ONCE = 32  # pictures
ADVICE = (
    "raise limits.memory, or lower backbone.image_size, or choose a smaller backbone or fewer layers "
    "in fine_tune.trainable"
)
NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "could not create a memory object",
    "bad_alloc",
)
# Pictures of a piece of the batch to their mean loss and the number of right answers.
Losses = Callable[[slice], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class MicroBatch:
    """How many pictures a process works on at a time, and whether blocks recompute their activations."""

    pictures: int
    recomputes: bool = False
    validated: int = VALIDATED_AT_ONCE  # pictures at a time without gradients
    is_tight: bool = False  # freed memory goes back at once, so that its fragments do not add up


@dataclass(frozen=True)
class Piece:
    """Sums over a part of a batch."""

    loss: torch.Tensor
    right: torch.Tensor
    images: int


def split(batch_size: int, most: int, at_least: int = 1) -> list[int]:
    """Sizes of the micro-batches of a batch, which differ by one at most; `at_least` wins over `most`."""
    count = max(1, min(-(-batch_size // most), batch_size // at_least))
    return [batch_size // count + (number < batch_size % count) for number in range(count)]


def least_pictures(network: nn.Module) -> int:
    """Two if a batch norm takes its statistics from the micro-batch, which one picture does not have."""
    norms = (module for module in network.modules() if isinstance(module, NORMS))
    return 2 if any(norm.training for norm in norms) else 1


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an exception of torch says that memory was refused."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)


class Accumulation:
    """Computes gradients of whole batches of one phase; halves the micro-batch if memory is refused."""

    def __init__(self, network: TunedNetwork, model: nn.Module, size: MicroBatch) -> None:
        self.network, self.model, self.size = network, model, size
        self.at_least = least_pictures(network)
        self._blocks = find_blocks(network.backbone)

    def gradients(self, batch_size: int, losses: Losses) -> list[Piece]:
        """Leave the gradients of the batch's mean loss in the parameters."""
        while True:
            before = Moment(self.network)
            try:
                return self._attempt(batch_size, losses)
            except (RuntimeError, MemoryError) as error:
                if not is_allocation_failure(error):
                    raise
                problem = " ".join(str(error).split())[:200]
            # Outside of the handler, whose traceback holds on to the activations.
            before.restore()
            self.model.zero_grad(set_to_none=True)
            release()
            self.size = self._smaller(batch_size, problem)

    def _attempt(self, batch_size: int, losses: Losses) -> list[Piece]:
        self.model.zero_grad(set_to_none=True)
        sizes = split(batch_size, self.size.pictures, self.at_least)
        seen, start = list[Piece](), 0
        for number, size in enumerate(sizes):
            is_last = number == len(sizes) - 1
            with self._within_process(is_last), self.recomputation():
                loss, right = losses(slice(start, start + size))
                share = loss if len(sizes) == 1 else loss * (size / batch_size)
                share.backward()  # type: ignore[no-untyped-call]
            if self.size.is_tight:
                trim()
            seen.append(Piece(loss.detach(), right, size))
            start += size
        return seen

    def recomputation(self) -> AbstractContextManager[None]:
        """Activation checkpointing, if the micro-batch needs it."""
        return recomputing(self._blocks) if self.size.recomputes else nullcontext()

    def _within_process(self, is_last: bool) -> AbstractContextManager[None]:
        """Processes average their gradients once, with the last micro-batch."""
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return nullcontext()

    def _smaller(self, batch_size: int, problem: str) -> MicroBatch:
        """What to go on with after a refused allocation; ResourceError if nothing smaller is left."""
        # The other processes wait for this one's gradients and cannot repeat the step.
        if isinstance(self.model, DistributedDataParallel):
            raise ResourceError(
                f"A training process was refused memory ({problem}); lower limits.memory, so that each "
                f"process plans with less, or {ADVICE.partition(', or ')[2]}."
            )
        largest = max(split(batch_size, self.size.pictures, self.at_least))
        half = max(split(batch_size, max(1, largest // 2), self.at_least))
        if half < largest:
            validated = min(self.size.validated, half)
            smaller = MicroBatch(half, self.size.recomputes, validated, is_tight=True)
        elif not self.size.recomputes and self._blocks:
            smaller = replace(self.size, recomputes=True, is_tight=True)
        else:
            raise ResourceError(f"Training on {largest} pictures at a time needs more memory than there is "
                                f"({problem}); {ADVICE}.")  # fmt: skip
        log.warning("fine_tune: memory was refused (%s); %s from here.", problem, shown(smaller))
        return smaller


def shown(size: MicroBatch) -> str:
    """The micro-batch in words, for a log line."""
    how = " with activation checkpointing" if size.recomputes else ""
    return f"micro-batches of {size.pictures} pictures{how}"


def _cuda_states() -> list[torch.Tensor]:
    is_used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.get_rng_state_all() if is_used else []


class Moment:
    """A network's buffers and torch's random state, to go back to."""

    def __init__(self, network: nn.Module) -> None:
        self._buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
        self._random = torch.get_rng_state()
        self._cuda = _cuda_states()

    def restore(self) -> None:
        """Go back."""
        with torch.no_grad():
            for buffer, value in self._buffers:
                buffer.copy_(value)
        torch.set_rng_state(self._random)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Go back at the end of a block."""
        try:
            yield
        finally:
            self.restore()
