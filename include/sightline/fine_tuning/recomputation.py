"""Activation checkpointing: blocks keep only their input and compute the rest again in the backward pass.

It takes about a third more time and leaves gradients, batch-norm statistics and dropout masks as they are.
"""

from collections.abc import Callable, Iterator
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
    if not list(module.children()) or not list(module.parameters()):
        return []
    if is_item and not isinstance(module, CONTAINERS):
        return [module]
    return find_blocks(module) or [module]


@contextmanager
def recomputing(blocks: list[nn.Module]) -> Iterator[None]:
    """Let blocks forget their activations while the context lasts, which must include the backward pass."""
    forwards = [block.forward for block in blocks]
    for block in blocks:
        block.forward = _forgetful(block)
    try:
        yield
    finally:
        for block, forward in zip(blocks, forwards, strict=True):
            block.forward = forward


def _forgetful(block: nn.Module) -> Callable[..., Any]:
    forward = block.forward
    norms = [module for module in block.modules() if isinstance(module, NORMS)]
    learns = any(parameter.requires_grad for parameter in block.parameters())

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(norms)

    def run(*inputs: Any, **options: Any) -> Any:
        needs_graph = learns or any(
            isinstance(one, torch.Tensor) and one.requires_grad for one in inputs
        )
        if not (needs_graph and torch.is_grad_enabled()):
            return forward(*inputs, **options)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)

    return run


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
