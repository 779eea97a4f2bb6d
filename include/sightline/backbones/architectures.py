"""Networks as torchvision and timm build them: right in size, without the head, with preprocessing."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sightline.backbones import weights
from sightline.config import BackboneSpec
from sightline.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn


def create(spec: BackboneSpec, pretrained: Any) -> "nn.Module":
    """The whole network; `pretrained` is torchvision's weights, or whether timm loads its own."""
    network: nn.Module
    try:
        if is_timm(spec):
            import timm

            options = _timm_options(spec)
            network = timm.create_model(_timm_name(spec), pretrained=bool(pretrained), **options)
        else:
            from torchvision.models import get_model

            network = get_model(spec.name, weights=pretrained, **_torchvision_options(spec))
    except (ValueError, AssertionError) as error:
        if spec.image_size is None:
            raise
        raise refuse_image_size(spec, error) from error
    return network


def _torchvision_options(spec: BackboneSpec) -> dict[str, Any]:
    """What torchvision sets itself where it loads weights by name, and we must where we load them."""
    if spec.name in ("inception_v3", "googlenet"):
        random = weights.are_random(spec)
        return {"init_weights": random, "transform_input": not random, "aux_logits": True}
    if spec.name.startswith("vit_"):
        return {"image_size": picture_size(spec)}
    if spec.name.startswith("maxvit_"):
        return {"input_size": (picture_size(spec), picture_size(spec))}
    return {}


def _timm_options(spec: BackboneSpec) -> dict[str, Any]:
    config = _timm_config(spec)
    fixed = spec.image_size and config.get("fixed_input_size")
    return {"img_size": spec.image_size} if fixed else {}


def _timm_config(spec: BackboneSpec) -> dict[str, Any]:
    """What timm knows of the network; ConfigError where it knows no such network."""
    import timm

    name = _timm_name(spec)
    try:
        return dict(timm.get_pretrained_cfg(name, allow_unregistered=False).to_dict())
    except RuntimeError as error:  # no such network, or no such training of it
        architecture = name.partition(".")[0]
        known = timm.list_pretrained(f"{architecture}*") or timm.list_models(f"{architecture[:5]}*")
        hint = f"; timm knows {', '.join(known[:3])}." if known else "; see timm.list_models()."
        raise ConfigError(f"Unknown backbone {spec.name!r}{hint}") from error


def find_weights(spec: BackboneSpec) -> Any:
    """Weights by name, as `create` takes them: an entry of torchvision's list, or True for timm's own.

    For random weights and files, torchvision's entry by default, whose preprocessing they take.
    """
    from torchvision.models import get_model_weights

    if is_timm(spec):
        return _timm_weights(spec)
    known = get_model_weights(spec.name)
    if spec.weights == "default" or weights.are_random(spec) or weights.are_a_file(spec):
        # V1 where there is one: the weights that papers, and other people's files, mean by the name.
        return known.__members__.get("IMAGENET1K_V1", known.DEFAULT)
    if spec.weights not in known.__members__:
        raise WeightsError(
            f"Weights {spec.weights!r} of {spec.name} are unknown; give 'default', 'random', a file, "
            f"or one of {', '.join(known.__members__)}."
        )
    return known[spec.weights]


def _timm_weights(spec: BackboneSpec) -> bool:
    if spec.weights == "default":
        return True
    raise WeightsError(
        f"Weights {spec.weights!r} of {spec.name} are unknown; give 'default', 'random' or a file, "
        "and name another training of a timm network as in timm/resnet50.a1_in1k."
    )


def cut_head(spec: BackboneSpec, network: "nn.Module") -> tuple["nn.Module", int]:
    """Take the last linear layer off; returns the network and the width of what it now gives."""
    from torch import nn

    if is_timm(spec):
        network.reset_classifier(0)  # type: ignore[operator]
        return network, int(getattr(network, "head_hidden_size", None) or network.num_features)  # type: ignore[arg-type]
    if spec.name.startswith("squeezenet"):  # classifies by a convolution: its input is what we want
        network.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return network, 512
    for name in ("aux1", "aux2", "AuxLogits"):  # heads beside the last, for training only
        if hasattr(network, name):
            setattr(network, name, None)
    if hasattr(network, "aux_logits"):
        # Else their outputs come along in training mode.
        network.aux_logits = False  # type: ignore[assignment]
    name, head = [
        (name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)
    ][-1]
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return network, int(head.in_features)


def make_transform(spec: BackboneSpec) -> "Callable[[Image.Image], torch.Tensor]":
    """The preprocessing that the weights require, or the same at the image size of the dataset file."""
    size = spec.image_size
    if is_timm(spec):
        from timm.data import create_transform, resolve_data_config

        wanted = {"input_size": (3, size, size)} if size else {}
        config = resolve_data_config(wanted, pretrained_cfg=_timm_config(spec))
        return create_transform(**config)  # type: ignore[no-any-return]
    preset = find_weights(spec).transforms
    return preset(crop_size=size, resize_size=size) if size else preset()  # type: ignore[no-any-return]


def picture_size(spec: BackboneSpec) -> int:
    """Pixels of a side of the pictures that the network gets."""
    if is_timm(spec):
        from timm.data import resolve_data_config

        return spec.image_size or int(
            resolve_data_config({}, pretrained_cfg=_timm_config(spec))["input_size"][-1]
        )
    required: int = find_weights(spec).transforms.keywords["crop_size"]
    return spec.image_size or required


def refuse_image_size(spec: BackboneSpec, error: Exception) -> ConfigError:
    """What to raise where a network objects to backbone.image_size."""
    problem = " ".join(str(error).split())[:120]
    return ConfigError(
        f"Backbone {spec.name} with weights {spec.weights!r} cannot work on pictures of "
        f"{spec.image_size} pixels ({problem}); correct backbone.image_size or leave it out."
    )


def is_timm(spec: BackboneSpec) -> bool:
    """Whether timm, and not torchvision, builds the network."""
    return spec.name.startswith("timm/")


def _timm_name(spec: BackboneSpec) -> str:
    return spec.name.removeprefix("timm/")
