"""Activation checkpointing: blocks keep only their input and compute the rest again in the backward pass.

It costs one more forward pass and leaves gradients, batch-norm statistics and dropout masks as they are.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sightline.fine_tuning.network import NORMS

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_blocks(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network from torchvision or timm, such as ResNet's bottlenecks: the items of
    its containers, or the smallest modules with several layers if it has no containers.
    """
    is_container = isinstance(network, CONTAINERS)
    return [block for child in network.children() for block in _blocks_of(child, is_container)]


def _blocks_of(module: nn.Module, is_item: bool) -> list[nn.Module]:
    if not _has_layers(module):
        return []
    if is_item and not isinstance(module, CONTAINERS) and not _is_stage(module):
        return [module]
    return find_blocks(module) or [module]


def _is_stage(module: nn.Module) -> bool:
    """Whether a module holds a container that repeats a block, as timm's ConvNeXtStage does."""
    containers = (one for one in module.modules() if isinstance(one, CONTAINERS))
    return any(max(_blocks_by_kind(one).values(), default=0) > 1 for one in containers)


def _blocks_by_kind(container: nn.Module) -> Counter[type]:
    items = (one for one in container.children() if not isinstance(one, CONTAINERS))
    return Counter(type(one) for one in items if _has_layers(one))


def _has_layers(module: nn.Module) -> bool:
    """Whether a module is made of others and has weights."""
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


@contextmanager
def recomputing(blocks: list[nn.Module]) -> Iterator[None]:
    """Let blocks forget their activations while the context lasts, which must include the backward pass."""
    own = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = _forgetful(block)
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def _forgetful(block: nn.Module) -> Callable[..., Any]:
    forward = block.forward
    norms = [module for module in block.modules() if isinstance(module, NORMS)]
    learns = any(parameter.requires_grad for parameter in block.parameters())

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(norms)

    def run(*inputs: Any, **options: Any) -> Any:
        needs_graph = learns or any(one.requires_grad for one in _tensors(inputs))
        if not (needs_graph and torch.is_grad_enabled()):
            return forward(*inputs, **options)
        # DenseNet appends to the list of features that it has handed to a layer.
        held = [list(one) if isinstance(one, list) else one for one in inputs]
        return checkpoint(forward, *held, use_reentrant=False, context_fn=contexts, **options)

    return run


def _tensors(inputs: Iterable[Any]) -> Iterator[torch.Tensor]:
    for one in inputs:
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, list | tuple):
            yield from _tensors(one)


@contextmanager
def _statistics_kept(norms: list[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """The first forward pass has counted the batch already."""
    held = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in held:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in held:
            norm.momentum, norm.num_batches_tracked = momentum, count
