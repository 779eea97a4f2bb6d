"""What a training process holds at least, calculated from the network's shapes without computing anything.

The network is built on torch's meta device, where tensors have a shape and no content, and one forward pass
there shows which activations the backward pass needs. Real trainings hold up to 40 % more, never less:
buffers of the convolutions and fragmented memory are left out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from sightline.backbones.architectures import picture_size
from sightline.backbones.inference import has_bf16
from sightline.config import BackboneSpec, DatasetSpec
from sightline.fine_tune_config import FineTuneSpec
from sightline.fine_tuning.network import TunedNetwork, empty_network, let_learn
from sightline.fine_tuning.reading import POOL_BYTES
from sightline.fine_tuning.recomputation import find_blocks

MIB = 2**20
PROGRAM_BYTES = 700 * MIB  # Python with torch and its libraries
LOADER_BYTES = (
    150 * MIB
)  # what a data-loader process does not share with the process that forked it
BATCHES_AHEAD = 3  # that a data-loader process has prepared, or is preparing
PICTURES = 2  # the smallest micro-batch: batch norms need two
BLOCK_COPIES = 2  # of a recomputed block's activations: themselves and their gradients

# Tensors of a parameter's size that an optimiser keeps for it, and that a step makes for one at a time.
STATES = {"sgd": 1, "adam": 2, "adamw": 2, "rmsprop": 2}
STEP_COPIES = {"sgd": 1, "adam": 2, "adamw": 2, "rmsprop": 1}


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that one training process holds at least, and the recipe that needs them."""

    trainable: str
    image_size: int
    optimizer_name: str
    program: int
    weights: int
    best_weights: int  # the copy of the best epoch's
    gradients: int
    optimizer: int  # its state
    step: int  # copies that the optimiser makes during a step, when no activations are held
    activations: int  # of two pictures, with activation checkpointing
    all_activations: int  # of two pictures, without
    data_loader: int  # the process that prepares pictures beside this one

    @property
    def process(self) -> int:
        """All that the process itself holds, when it holds most."""
        fixed = self.program + self.weights + self.best_weights + self.gradients + self.optimizer
        return fixed + max(self.step, self.activations)


@dataclass(frozen=True)
class Activations:
    """Bytes that one forward pass keeps for the backward pass."""

    whole: int
    checkpointed: int  # with activation checkpointing


def estimate_training(spec: DatasetSpec, classes: int) -> TrainingMemory:
    """The need of a dataset's hungriest training: of all phases, and of all image sizes and optimisers that
    the search may try.
    """
    assert spec.fine_tune is not None
    fine_tune, search = spec.fine_tune, spec.fine_tune.search
    phases = {phase.trainable for phase in fine_tune.all_phases}
    own_size = picture_size(spec.backbone)
    sizes = {own_size, *(search.image_size if search else ())}
    optimizers = {fine_tune.optimizer, *(search.optimizer if search else ())}
    found = [
        one
        for trainable in sorted(phases | ({fine_tune.trainable} if search else set()))
        for size in sorted(sizes)
        for one in _estimates(spec, trainable, size, sorted(optimizers), classes)
    ]
    return max(found, key=lambda one: (one.process, one.all_activations))


def _estimates(
    spec: DatasetSpec, trainable: str, size: int, optimizers: list[str], classes: int
) -> list[TrainingMemory]:
    """One for each optimiser."""
    assert spec.fine_tune is not None
    fine_tune = spec.fine_tune
    backbone = spec.backbone
    if size != picture_size(backbone):
        backbone = backbone.model_copy(update={"image_size": size})
    network = build_on_meta(backbone, fine_tune, classes)
    let_learn(network, trainable)
    weights = sum(one.nbytes for one in [*network.parameters(), *network.buffers()])
    learning = [one.nbytes for one in network.parameters() if one.requires_grad]
    kept = measure_activations(network, size, _bytes_a_number(fine_tune))
    sizes = [fine_tune.batch_size, *(fine_tune.search.batch_size if fine_tune.search else ())]
    batch = max(sizes) // fine_tune.processes * 3 * size * size
    return [
        TrainingMemory(
            trainable=trainable,
            image_size=size,
            optimizer_name=name,
            program=PROGRAM_BYTES,
            weights=weights,
            best_weights=weights,
            gradients=sum(learning),
            optimizer=_states(name, fine_tune) * sum(learning),
            step=STEP_COPIES[name] * max(learning, default=0),
            activations=kept.checkpointed,
            all_activations=kept.whole,
            data_loader=LOADER_BYTES + POOL_BYTES + BATCHES_AHEAD * batch,
        )
        for name in optimizers
    ]


def has_gpu() -> bool:
    """Whether trainings of this machine hold weights and activations on a GPU."""
    return torch.cuda.is_available()


def build_on_meta(backbone: BackboneSpec, fine_tune: FineTuneSpec, classes: int) -> TunedNetwork:
    """The network without content; with content if its constructor computes with its weights."""
    try:
        with torch.device("meta"):
            return empty_network(backbone, fine_tune.head, classes)
    except (NotImplementedError, RuntimeError):
        return empty_network(backbone, fine_tune.head, classes).to("meta")


def measure_activations(
    network: TunedNetwork, image_size: int, bytes_a_number: int = 4
) -> Activations:
    """What two pictures' forward pass keeps, from a network on the meta device in training mode."""
    blocks = find_blocks(network.backbone)
    kept = _Kept(network, blocks)
    pictures = torch.empty(PICTURES, 3, image_size, image_size, device="meta")
    with kept.counted(), saved_tensors_hooks(kept.note, lambda tensor: tensor):
        network(pictures)
    share = bytes_a_number / 4  # of float32, in which the meta device computes
    return Activations(int(kept.whole * share), int(kept.checkpointed * share))


class _Kept:
    """Sums up what a forward pass keeps, each storage once, and in which block it comes about."""

    def __init__(self, network: TunedNetwork, blocks: list[nn.Module]) -> None:
        held = [*network.parameters(), *network.buffers()]
        self._known = {one.untyped_storage()._cdata for one in held}
        self._alive: list[torch.Tensor] = []  # so that no storage takes the place of another
        self._blocks = blocks
        self._block: int | None = None
        self._by_block = dict[int | None, int]()
        self._inputs = 0

    @property
    def whole(self) -> int:
        """Without activation checkpointing."""
        return sum(self._by_block.values())

    @property
    def checkpointed(self) -> int:
        """What lies outside of blocks, the blocks' inputs, and the block that is computed again."""
        outside = self._by_block.get(None, 0)
        within = [size for block, size in self._by_block.items() if block is not None]
        recomputed = BLOCK_COPIES * max(within, default=0)
        return min(self.whole, outside + self._inputs + recomputed)

    def note(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor that autograd keeps."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._alive.append(tensor)
            self._by_block[self._block] = self._by_block.get(self._block, 0) + storage.nbytes()
        return tensor

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Follow the forward pass into the blocks and out of them."""
        hooks = []
        for number, block in enumerate(self._blocks):
            hooks.append(block.register_forward_pre_hook(self._entry(number)))
            hooks.append(block.register_forward_hook(self._exit))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _entry(self, number: int) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def enter(_: nn.Module, inputs: tuple[object, ...]) -> None:
            self._block = number
            tensors = [one for one in inputs if isinstance(one, torch.Tensor)]
            if any(one.requires_grad for one in tensors):
                self._inputs += sum(one.nbytes for one in tensors)

        return enter

    def _exit(self, *_: object) -> None:
        self._block = None


def _states(optimizer: str, fine_tune: FineTuneSpec) -> int:
    has_momentum = optimizer in ("sgd", "rmsprop") and fine_tune.momentum > 0
    return STATES[optimizer] - (optimizer in ("sgd", "rmsprop") and not has_momentum)


def _bytes_a_number(fine_tune: FineTuneSpec) -> int:
    is_bf16 = fine_tune.precision == "bf16" or (fine_tune.precision == "auto" and has_bf16())
    return 2 if is_bf16 else 4
