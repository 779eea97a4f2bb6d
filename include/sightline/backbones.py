"""Pretrained networks without their heads: pooled penultimate features, preprocessing from the weights.

torchvision's classification models by name, timm's as `timm/<name>`. Weights are explicit: by name
(the library's own cache and download), from a file, or seeded random ones; never a silent fallback.
"""

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sightline import storage
from sightline.config import BackboneSpec
from sightline.errors import ConfigError, WeightsError
from sightline.settings import load_settings

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
    """Build the network of a dataset file with its weights; WeightsError where they are not to be had."""
    network = _load_network(spec)
    return _finish(spec, network)


def pack_weights(backbone: Backbone) -> bytes:
    """The weights as safetensors, for `unpack_backbone` on a worker."""
    from safetensors.torch import save

    return save({name: value.contiguous() for name, value in backbone.module.state_dict().items()})


def unpack_backbone(spec: BackboneSpec, backbone_id: str, weights: bytes) -> Backbone:
    """The same backbone on a worker, which needs neither the weights file nor a network."""
    from safetensors.torch import load

    module, dim = _cut_head(spec, _build(spec))
    module.load_state_dict(load(weights))
    return Backbone(backbone_id, dim, _frozen(module), _transform(spec))


def known_dimension(spec: BackboneSpec) -> int | None:
    """The width of the features where it is known without building the network."""
    return DIMENSIONS.get(spec.name)


def is_random(spec: BackboneSpec) -> bool:
    """Whether the weights are seeded random ones."""
    return spec.weights == "random"


def _load_network(spec: BackboneSpec) -> "nn.Module":
    if is_random(spec):
        return _build(spec)
    if _looks_like_file(spec.weights):
        network = _build(spec)
        _load_file(network, spec)
        return network
    return _build_pretrained(spec)


def _build(spec: BackboneSpec) -> "nn.Module":
    """The architecture with seeded random weights; the caller's random state is left alone."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        if spec.name.startswith("timm/"):
            return _build_timm(spec, pretrained=False)
        from torchvision.models import get_model

        options: dict[str, Any] = {}
        if spec.name in ("inception_v3", "googlenet"):
            # As torchvision sets them when it loads its own weights.
            options = {"init_weights": True, "transform_input": not is_random(spec)}
        network: nn.Module = get_model(spec.name, weights=None, **options)
        return network


def _build_pretrained(spec: BackboneSpec) -> "nn.Module":
    if spec.name.startswith("timm/"):
        return _download(spec, lambda: _build_timm(spec, pretrained=True))
    from torchvision.models import get_model

    weights = _torchvision_weights(spec)
    network: nn.Module = _download(spec, lambda: get_model(spec.name, weights=weights))
    return network


def _build_timm(spec: BackboneSpec, pretrained: bool) -> "nn.Module":
    import timm

    name = spec.name.removeprefix("timm/")
    if not timm.is_model(name):
        close = timm.list_models(f"*{name[:6]}*")[:3]
        raise ConfigError(f"Unknown backbone {spec.name!r}; timm knows for example: {close}.")
    module: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    return module


def _torchvision_weights(spec: BackboneSpec) -> Any:
    from torchvision.models import get_model_weights

    known = get_model_weights(spec.name)
    if spec.weights == "default":
        # V1 where there is one: the weights that papers, and other people's files, mean by the name.
        return known.__members__.get("IMAGENET1K_V1", known.DEFAULT)
    if spec.weights not in known.__members__:
        raise WeightsError(
            f"Weights {spec.weights!r} of {spec.name} are unknown; give 'default', 'random', a file, "
            f"or one of {', '.join(known.__members__)}."
        )
    return known[spec.weights]


def _download(spec: BackboneSpec, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except (
        OSError,
        RuntimeError,
    ) as error:  # no network, or a download that does not match its hash
        raise WeightsError(
            f"Weights {spec.weights!r} of {spec.name} are neither in the local cache nor to be "
            f"downloaded ({type(error).__name__}: {str(error)[:120]}); connect once, or set "
            "backbone.weights to a file that you have, or to 'random'."
        ) from error


def _looks_like_file(weights: str) -> bool:
    return "/" in weights or Path(weights).suffix in (".pth", ".pt", ".bin", ".safetensors")


def _load_file(network: "nn.Module", spec: BackboneSpec) -> None:
    """Load a state dict strictly; WeightsError says what the file is instead."""
    state = _read_state(spec)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"Weights file {spec.weights} does not fit {spec.name}: {problem}; "
            "give the file of this network, or name the file's network in backbone.name."
        ) from error


def _read_state(spec: BackboneSpec) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    path = spec.weights
    if storage.is_local(path):
        path = str(load_settings().home / path)
    if not storage.exists(path):
        raise WeightsError(f"Weights file {path} does not exist; correct backbone.weights.")
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        fs, name = storage.filesystem(path)
        with fs.open(name, "rb") as stream:
            state = torch.load(stream, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        size = storage.filesystem(path)[0].size(storage.filesystem(path)[1])
        raise WeightsError(
            f"Weights file {path} ({size:,} bytes) cannot be read, it may be cut short or of another "
            f"kind ({type(error).__name__}); download it again."
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(hasattr(value, "shape") for value in state.values()):
        raise WeightsError(
            f"Weights file {path} holds no state dict; save model.state_dict() to it."
        )
    return state


def _finish(spec: BackboneSpec, network: "nn.Module") -> Backbone:
    module, dim = _cut_head(spec, network)
    identity = f"{spec.name.replace('/', '.')}-{_weights_label(spec)}-{_digest(spec, module)}"
    return Backbone(identity, dim, _frozen(module), _transform(spec))


def _weights_label(spec: BackboneSpec) -> str:
    if is_random(spec):
        return f"random{spec.seed}"
    return Path(spec.weights).stem if _looks_like_file(spec.weights) else spec.weights


def _cut_head(spec: BackboneSpec, network: "nn.Module") -> tuple["nn.Module", int]:
    """Take the last linear layer off; returns the network and the width of what it now gives."""
    from torch import nn

    if spec.name.startswith("timm/"):
        return network, int(getattr(network, "head_hidden_size", None) or network.num_features)  # type: ignore[arg-type]
    if spec.name.startswith("squeezenet"):  # classifies by a convolution: its input is what we want
        network.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return network, 512
    name, head = [
        (name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)
    ][-1]
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return network, int(head.in_features)


def _frozen(module: "nn.Module") -> "nn.Module":
    import torch

    module.requires_grad_(False)
    return module.eval().to(memory_format=torch.channels_last)


def _transform(spec: BackboneSpec) -> Callable[[Image.Image], "torch.Tensor"]:
    """The preprocessing that the weights require, or the same at the image size of the dataset file."""
    if spec.name.startswith("timm/"):
        return _timm_transform(spec)
    from torchvision.transforms._presets import ImageClassification

    by_name = not is_random(spec) and not _looks_like_file(spec.weights)
    weights = _torchvision_weights(
        spec if by_name else spec.model_copy(update={"weights": "default"})
    )
    if spec.image_size is not None:
        preset = ImageClassification(crop_size=spec.image_size, resize_size=spec.image_size)
    else:
        preset = weights.transforms()
    return preset  # type: ignore[no-any-return]


def _timm_transform(spec: BackboneSpec) -> Callable[[Image.Image], "torch.Tensor"]:
    import timm
    from timm.data import create_transform, resolve_data_config

    cfg = timm.get_pretrained_cfg(spec.name.removeprefix("timm/"))
    size = {"input_size": (3, spec.image_size, spec.image_size)} if spec.image_size else {}
    config = resolve_data_config(size, pretrained_cfg=cfg.to_dict() if cfg else {})
    return create_transform(**config)  # type: ignore[no-any-return]


def _digest(spec: BackboneSpec, module: "nn.Module") -> str:
    """Eight hexadecimal digits of the weights, the preprocessing and the precision."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    digest.update(f"{_transform(spec)!r} {PRECISION}".encode())
    return digest.hexdigest()[:8]
