"""The network that every system featurizes with, from one seed, and what a peer says in the end."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

BATCH_SIZE = 32
WEIGHTS = {
    "resnet18": "IMAGENET1K_V1",
    "inception_v3": "IMAGENET1K_V1",
}  # whose transforms they are


def build_network(backbone: str, seed: int = 0) -> nn.Module:
    """The network without its head, its weights random by the seed: they cost what trained ones do."""
    torch.manual_seed(seed)
    network: nn.Module = get_model(backbone, weights=None)
    network.fc = nn.Identity()
    return network.eval()


def build_transform(backbone: str) -> Callable[[Any], torch.Tensor]:
    """The preprocessing that torchvision publishes with the backbone's weights."""
    transform: Callable[[Any], torch.Tensor] = get_model_weights(backbone)[
        WEIGHTS[backbone]
    ].transforms()
    return transform


def picture_size(backbone: str) -> int:
    """Pixels of a side of what the preprocessing gives."""
    return int(build_transform(backbone).crop_size[0])  # type: ignore[attr-defined]


def parse_arguments() -> argparse.Namespace:
    """The folder of <class>/<photo>.jpg, and the backbone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default="resnet18", choices=WEIGHTS)
    return parser.parse_args()


def report(features: Any, began: float) -> None:
    """Print what the benchmark reads; `began` is when imports, JVM and cluster were there."""
    matrix = np.asarray(features, dtype=np.float64)
    said = {
        "images": len(matrix),
        "dim": matrix.shape[1],
        "checksum": float(np.abs(matrix).mean()),
        "seconds_without_start": round(time.monotonic() - began, 3),
    }
    print(json.dumps(said))
