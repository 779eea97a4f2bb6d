"""Pretrained networks without their heads: pooled penultimate features, preprocessing from the weights.

torchvision's classification models by name, timm's as `timm/<name>` (architectures.py builds them).
Weights are explicit: by name, from a file (weights.py), or seeded random ones; never a silent fallback.
preprocessing.py makes pictures ready for them, and inference.py lets them work.
"""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from sightline import shipping
from sightline.backbones import architectures, inference, mapped, weights
from sightline.backbones.preprocessing import REVISION, Preprocessing, plain_geometry
from sightline.config import BackboneSpec
from sightline.shared_files import SharedFile

if TYPE_CHECKING:
    from torch import nn

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
    """A network ready to featurize: `module` maps float32 (n, 3, h, w) to (n, dim)."""

    name: str
    digest: str  # changes when weights or preprocessing do
    dim: int
    module: "nn.Module"
    preprocessing: Preprocessing

    def identity(self, precision: str) -> str:
        """The `backbone_id` of features that are made of it in this precision."""
        return f"{self.name}-{self.digest}-{precision}"


def load_backbone(spec: BackboneSpec) -> Backbone:
    """Build the network of a dataset file with its weights.

    WeightsError where they are not to be had, ConfigError where there is no such network or it takes
    no pictures of backbone.image_size.
    """
    network = _load_network(spec)
    module, dim = architectures.cut_head(spec, network)
    preprocessing = preprocessing_of(spec)
    if spec.image_size is not None:
        _try_image_size(spec, module, preprocessing)
    name = f"{spec.name.replace('/', '.')}-{weights.label(spec)}"
    digest = _digest(module, preprocessing, spec.decode)
    return Backbone(name, digest, dim, _frozen(module), preprocessing)


def build_untrained(spec: BackboneSpec) -> tuple["nn.Module", int]:
    """The network without its head, its weights seeded random, and the width of its features."""
    return architectures.cut_head(spec, _build(spec))


def ship_weights(backbone: Backbone, precision: str) -> SharedFile:
    """Write the weights to storage in the form that workers use: in their precision, batch norms folded."""
    ready = inference.in_precision(backbone.module, precision)
    return shipping.ship_weights(lambda: mapped.pack_module(ready))


def map_backbone(
    spec: BackboneSpec, precision: str, path: Path
) -> tuple["nn.Module", Preprocessing]:
    """The network on a worker, in its precision: its weights are those of the file, mapped."""

    def build() -> "nn.Module":
        module, _ = build_untrained(spec)
        return inference.in_precision(_frozen(module), precision)

    module = mapped.build_mapped(build, mapped.read_mapped(path))
    return _frozen(module), preprocessing_of(spec)


def preprocessing_of(spec: BackboneSpec) -> Preprocessing:
    """How pictures are made ready for the network."""
    transform = architectures.make_transform(spec)
    return Preprocessing(transform, plain_geometry(transform))


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


def _try_image_size(spec: BackboneSpec, module: "nn.Module", preprocessing: Preprocessing) -> None:
    """Better a sentence before the run than a traceback from a worker."""
    import torch

    assert spec.image_size is not None
    picture = preprocessing.transform(Image.new("RGB", (spec.image_size, spec.image_size)))
    try:
        with torch.inference_mode():
            module.eval()(picture.unsqueeze(0))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise architectures.refuse_image_size(spec, error) from error


def _digest(module: "nn.Module", preprocessing: Preprocessing, decode: str) -> str:
    """Eight hexadecimal digits of the weights and the preprocessing."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    digest.update(f"{preprocessing.transform!r} {REVISION} {decode}".encode())
    return digest.hexdigest()[:8]
