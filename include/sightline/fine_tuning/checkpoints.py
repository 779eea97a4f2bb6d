"""Checkpoints of a training: one safetensors file after each epoch, whole or not there, never pickle.

Beside the network's and the best epoch's weights it holds the optimiser's tensors, and in its header
what is not a tensor, as JSON.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save

from sightline import storage

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

    network: Tensors
    best: Tensors = field(
        default_factory=dict
    )  # weights of the epoch of the lowest validation loss
    optimizer: dict[str, Any] = field(default_factory=dict)  # its state_dict, within a phase
    history: list[Epoch] = field(default_factory=list)


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
    }
    storage.write_bytes(url, save({n: t.contiguous().cpu() for n, t in tensors.items()}, header))


def read_checkpoint(url: str) -> Progressed | None:
    """The last checkpoint, or None where there is none."""
    try:
        content = storage.read_bytes(url)
    except FileNotFoundError:
        return None
    header, tensors = _header(content), load(content)
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
    )


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _header(content: bytes) -> dict[str, str]:
    """The strings in the header: its length in eight bytes, then JSON (the format's specification)."""
    length = int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8 : 8 + length])["__metadata__"])
