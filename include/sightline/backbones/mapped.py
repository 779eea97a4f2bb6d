"""Tensors as one file that processes map into memory, so that all of a machine share one copy.

The format is safetensors. Two things make it usable without a copy: every tensor begins at a multiple of 64
bytes, as torch's own allocations do, and the weights of convolutions are stored in channels-last order, in
which they are used. The file is written one tensor at a time: the writer of the safetensors package holds a
second copy of all of them.
"""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sightline.backbones import weights
from sightline.storage import Buffer

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger(__name__)
Built = TypeVar("Built", bound="nn.Module")

ALIGNMENT = 64
PADDING = "padding."  # begins the names of what only fills the gaps; safetensors allows none
LAYOUT = {"layout": "channels_last"}  # in the header's metadata
Metadata = dict[str, str]


def pack_module(module: "nn.Module") -> Iterator[Buffer]:
    """The file of a network's weights and buffers in pieces."""
    # A state dict leaves some buffers out, which would have no values on the meta device.
    buffers = dict(module.named_buffers(remove_duplicate=False))
    return pack_tensors({**buffers, **module.state_dict()})


def pack_tensors(
    tensors: "dict[str, torch.Tensor]", metadata: Metadata | None = None
) -> Iterator[Buffer]:
    """A file in pieces, the same for the same tensors. One tensor at a time is copied, if any."""
    yield _header(tensors, metadata or {})
    for value in tensors.values():
        yield _bytes_of(value)
        yield bytes(-value.nbytes % ALIGNMENT)


def read_metadata(path: Path) -> Metadata:
    """The texts in the header of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def read_mapped(path: Path) -> "dict[str, torch.Tensor]":
    """The tensors of a safetensors file, mapped: pages are read when they are used, and shared."""
    from safetensors import safe_open

    is_channels_last = read_metadata(path).get("layout") == LAYOUT["layout"]
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if not name.startswith(PADDING)]  # noqa: SIM118
        found = {name: file.get_tensor(name) for name in names}
    if not is_channels_last:
        return found
    return {
        name: value.permute(0, 3, 1, 2) if value.dim() == 4 else value
        for name, value in found.items()
    }


def build_mapped(build: Callable[[], Built], state: "dict[str, torch.Tensor]") -> Built:
    """Build a network whose weights are these tensors themselves.

    The network is built on torch's meta device, where it takes neither memory nor time. Networks whose
    constructor computes with tensors are built in the ordinary way, which needs the memory for a moment.
    """
    import torch

    try:
        with torch.device("meta"):
            module = build()
        _assign(module, state)
        if not _holds_meta_tensors(module):
            return module
        reason = "tensors without values are left"
    except Exception as error:  # constructors raise whatever they like
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    log.debug("Not built on the meta device (%s).", reason)
    module = build()
    _assign(module, state)
    return module


def _assign(module: "nn.Module", state: "dict[str, torch.Tensor]") -> None:
    expected = module.state_dict().keys()
    weights.load_state(
        module, {name: state[name] for name in state if name in expected}, assign=True
    )
    for name, value in state.items():
        if name not in expected:
            owner, _, attribute = name.rpartition(".")
            module.get_submodule(owner)._buffers[attribute] = value


def _header(tensors: "dict[str, torch.Tensor]", metadata: Metadata) -> bytes:
    entries: dict[str, object] = {"__metadata__": {**metadata, **LAYOUT}}
    at = 0
    for name, value in tensors.items():
        at = _enter(entries, name, _dtype_name(value), list(_stored(value).shape), at, value.nbytes)
        gap = -at % ALIGNMENT
        if gap:
            at = _enter(entries, f"{PADDING}{name}", "U8", [gap], at, gap)
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _enter(
    entries: dict[str, object], name: str, dtype: str, shape: list[int], at: int, size: int
) -> int:
    """Enter a tensor into the header; returns where the next one begins."""
    entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
    return at + size


def _stored(value: "torch.Tensor") -> "torch.Tensor":
    """The tensor with its axes in the order of the file."""
    return value.permute(0, 2, 3, 1) if value.dim() == 4 else value


def _bytes_of(value: "torch.Tensor") -> memoryview:
    import torch

    flat = _stored(value.detach().cpu()).contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def _dtype_name(value: "torch.Tensor") -> str:
    """As safetensors spells it: F32, BF16, I64, ..."""
    name = str(value.dtype).removeprefix("torch.")
    known = {"float": "F", "bfloat": "BF", "int": "I", "uint": "U"}
    letters = name.rstrip("0123456789")
    return "BOOL" if name == "bool" else f"{known[letters]}{name.removeprefix(letters)}"


def _holds_meta_tensors(module: "nn.Module") -> bool:
    """Whether anything of the network has no values: parameters, buffers, or attributes of its modules."""
    return any(_is_meta(value) for part in module.modules() for value in vars(part).values())


def _is_meta(value: object) -> bool:
    import torch

    if isinstance(value, torch.Tensor):
        return value.is_meta
    if isinstance(value, dict):
        return any(_is_meta(one) for one in value.values())
    return isinstance(value, list | tuple) and any(_is_meta(one) for one in value)
