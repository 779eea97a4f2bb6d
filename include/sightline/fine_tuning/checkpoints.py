"""Checkpoints of a training: one safetensors file after each epoch, whole or not there, never pickle.

Beside the network's and the best epoch's weights it holds the optimiser's tensors, and in its header
what is not a tensor, as JSON. Files are streamed on the way out and memory-mapped on the way in, so that
no second copy of a large network is in memory.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sightline import storage
from sightline.backbones import mapped

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Epoch:
    """What is known of an epoch that is over. Rates and losses are means over its images."""

    number: int  # from 1
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float  # at its end
    images_per_second: float
    seconds: float


@dataclass
class Progressed:
    """How far a training has come."""

    network: Tensors = field(default_factory=dict)
    best: Tensors = field(
        default_factory=dict
    )  # weights of the epoch of the lowest validation loss
    optimizer: dict[str, Any] = field(default_factory=dict)  # its state_dict, within a phase
    history: list[Epoch] = field(default_factory=list)
    micro_batch: dict[str, Any] = field(default_factory=dict)  # that the last epoch worked with


def write_checkpoint(url: str, come: Progressed) -> None:
    """Replace the checkpoint in one step."""
    tensors = {f"network/{name}": value for name, value in come.network.items()}
    tensors |= {f"best/{name}": value for name, value in come.best.items()}
    plain: dict[str, Any] = {"groups": come.optimizer.get("param_groups"), "state": {}}
    for number, state in come.optimizer.get("state", {}).items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{number}/{name}"] = value
            else:
                plain["state"].setdefault(str(number), {})[name] = value
    header = {
        "history": json.dumps([asdict(epoch) for epoch in come.history]),
        "optimizer": json.dumps(plain),
        "micro_batch": json.dumps(come.micro_batch),
    }
    write_weights(url, tensors, header)


def read_checkpoint(url: str) -> Progressed | None:
    """The last checkpoint, or None where there is none."""
    try:
        with _as_file(url) as path:
            header, tensors = mapped.read_metadata(path), mapped.read_mapped(path)
    except FileNotFoundError:
        return None
    plain = json.loads(header["optimizer"])
    state: dict[int, dict[str, Any]] = {int(n): dict(v) for n, v in plain["state"].items()}
    for name, value in _under("optimizer/", tensors).items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = value
    return Progressed(
        _under("network/", tensors),
        _under("best/", tensors),
        {"state": state, "param_groups": plain["groups"]} if plain["groups"] else {},
        [Epoch(**epoch) for epoch in json.loads(header["history"])],
        json.loads(header.get("micro_batch", "{}")),
    )


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def write_weights(url: str, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Replace a safetensors file in one step; one tensor at a time is copied at most."""
    storage.write_pieces(url, mapped.pack_tensors(tensors, metadata))


def read_weights(url: str) -> Tensors:
    """The tensors of a safetensors file; FileNotFoundError if there is none."""
    with _as_file(url) as path:
        return mapped.read_mapped(path)


@contextmanager
def _as_file(url: str) -> Iterator[Path]:
    """The file itself if it is local, else a copy, whose memory map outlives its name."""
    fs, path = storage.filesystem(url)
    if storage.is_local(url):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "file"
        fs.get_file(path, str(copy))
        yield copy
