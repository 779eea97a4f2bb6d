"""Pretrained networks without their heads: pooled penultimate features, preprocessing from the weights.

torchvision's classification models by name, timm's as `timm/<name>` (architectures.py builds them).
Weights are explicit: by name, from a file (weights.py), or seeded random ones; never a silent fallback.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from sightline.backbones import architectures, weights
from sightline.config import BackboneSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

PRECISION = "fp32"

# Width of the features of well-known backbones, so that a preflight needs no torch; a test compares.
DIMENSIONS = {
    "resnet18": 512,
    "resnet50": 2048,
    "inception_v3": 2048,
    "vgg16": 4096,
    "efficientnet_b6": 2304,
    "mobilenet_v2": 1280,
    "squeezenet1_0": 512,
}


@dataclass(frozen=True)
class Backbone:
    """A network ready to featurize.

    `module` maps float32 (n, 3, h, w) to (n, dim); `transform` maps an upright RGB picture to
    (3, h, w). `backbone_id` changes when weights, preprocessing or precision do.
    """

    backbone_id: str
    dim: int
    module: "nn.Module"
    transform: Callable[[Image.Image], "torch.Tensor"]


def load_backbone(spec: BackboneSpec) -> Backbone:
    """Build the network of a dataset file with its weights.

    WeightsError where they are not to be had, ConfigError where there is no such network or it takes
    no pictures of backbone.image_size.
    """
    network = _load_network(spec)
    module, dim = architectures.cut_head(spec, network)
    transform = architectures.make_transform(spec)
    if spec.image_size is not None:
        _try_image_size(spec, module, transform)
    name = f"{spec.name.replace('/', '.')}-{weights.label(spec)}"
    return Backbone(f"{name}-{_digest(module, transform)}", dim, _frozen(module), transform)


def build_untrained(spec: BackboneSpec) -> tuple["nn.Module", int]:
    """The network without its head, its weights seeded random, and the width of its features."""
    return architectures.cut_head(spec, _build(spec))


def pack_weights(backbone: Backbone) -> bytes:
    """The weights as safetensors, for `unpack_backbone` on a worker."""
    from safetensors.torch import save

    return save({name: value.contiguous() for name, value in backbone.module.state_dict().items()})


def unpack_backbone(spec: BackboneSpec, backbone_id: str, packed: bytes) -> Backbone:
    """The same backbone on a worker, which needs neither the weights file nor a network."""
    from safetensors.torch import load

    module, dim = build_untrained(spec)
    weights.load_state(module, load(packed))
    return Backbone(backbone_id, dim, _frozen(module), architectures.make_transform(spec))


def known_dimension(spec: BackboneSpec) -> int | None:
    """The width of the features where it is known without building the network."""
    return DIMENSIONS.get(spec.name)


def is_from_file(spec: BackboneSpec) -> bool:
    """Whether the weights lie in a file, whose bytes may change under its name."""
    return weights.are_a_file(spec)


def is_random(spec: BackboneSpec) -> bool:
    """Whether the weights are seeded random ones."""
    return weights.are_random(spec)


def _load_network(spec: BackboneSpec) -> "nn.Module":
    if weights.are_random(spec):
        return _build(spec)
    if weights.are_a_file(spec):
        network = _build(spec)
        weights.load_file(network, spec)
        return network
    pretrained = architectures.find_weights(spec)
    return weights.download(spec, lambda: architectures.create(spec, pretrained))


_SEEDING = threading.Lock()  # a process has one random state, whatever the number of its threads


def _build(spec: BackboneSpec) -> "nn.Module":
    """The architecture with seeded random weights; the caller's random state is left alone."""
    import torch

    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.seed)
        return architectures.create(spec, None)


def _frozen(module: "nn.Module") -> "nn.Module":
    import torch

    module.requires_grad_(False)
    return module.eval().to(memory_format=torch.channels_last)


def _try_image_size(
    spec: BackboneSpec, module: "nn.Module", transform: Callable[[Image.Image], "torch.Tensor"]
) -> None:
    """Better a sentence before the run than a traceback from a worker."""
    import torch

    assert spec.image_size is not None
    picture = transform(Image.new("RGB", (spec.image_size, spec.image_size)))
    try:
        with torch.inference_mode():
            module.eval()(picture.unsqueeze(0))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise architectures.refuse_image_size(spec, error) from error


def _digest(module: "nn.Module", transform: Callable[[Image.Image], "torch.Tensor"]) -> str:
    """Eight hexadecimal digits of the weights, the preprocessing and the precision."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    digest.update(f"{transform!r} {PRECISION}".encode())
    return digest.hexdigest()[:8]
