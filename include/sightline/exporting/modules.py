"""A model as one torch module: upright RGB pixels of any size in, probabilities of its classes out.

Resizing is two products with matrices that are made of the picture's size, so that any runtime can do it.
It rounds where torch's resizing of uint8 pixels rounds: the weights to 16 bits, and what each product gives
to whole numbers.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from sightline import backbones, classifiers, models
from sightline.backbones.preprocessing import Geometry, Preprocessing
from sightline.catalog import Catalog
from sightline.classifiers import Classifier
from sightline.config import BackboneSpec
from sightline.errors import ConfigError, WeightsError
from sightline.fine_tuning.tuned_models import load_tuned

EDGE = 2  # rows of a picture
CUBIC = -0.5  # Catmull-Rom, as Pillow and torch's antialiased resizing have it


class Served(nn.Module):
    """Pixels uint8 (height, width, 3) to probabilities float32 (classes,)."""

    def __init__(self, geometry: Geometry, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.prepare = Prepare(geometry)
        self.network = network
        self.head = head

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The same as ours, in fp32."""
        found: torch.Tensor = self.head(self.network(self.prepare(pixels)).flatten(1))
        return found[0].to(torch.float32)


class Prepare(nn.Module):
    """Pixels uint8 (height, width, 3) to a picture float32 (1, 3, h, w): resized, cropped, normalised."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        for name, values in (("mean", geometry.mean), ("std", geometry.std)):
            self.register_buffer(name, 255 * torch.tensor(values)[:, None, None])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The crop alone is worked out, not the whole resized picture."""
        height, width = (
            torch.scalar_tensor(side, dtype=torch.float64) for side in pixels.shape[:2]
        )
        shorter, longer = torch.minimum(height, width), torch.maximum(height, width)
        stretched = torch.floor(self.geometry.resize * longer / shorter)
        wanted = torch.scalar_tensor(self.geometry.resize, dtype=torch.float64)
        to_height = torch.where(height <= width, wanted, stretched)
        to_width = torch.where(height <= width, stretched, wanted)
        across = self._weights(pixels.shape[1], width, to_width, self.geometry.crop[1])
        down = self._weights(pixels.shape[0], height, to_height, self.geometry.crop[0])
        picture = pixels.permute(2, 0, 1).to(torch.float32)
        picture = _whole(torch.matmul(picture, across.T))
        picture = _whole(torch.matmul(down, picture))
        return ((picture - self.mean) / self.std)[None]

    def _weights(
        self, pixels: int, have: torch.Tensor, want: torch.Tensor, crop: int
    ) -> torch.Tensor:
        """(crop, pixels): what each pixel of a side adds to each of the crop's."""
        first = torch.round((want - crop) / 2)
        scale = have / want
        rows = first + torch.arange(crop, dtype=torch.float64)
        # The whole picture's largest weight counts in rounding; its edge may have it.
        rows = torch.cat([torch.arange(EDGE, dtype=torch.float64), rows])
        centres = scale * (rows + 0.5)
        places = torch.arange(pixels, dtype=torch.float64) + 0.5
        reach = torch.clamp(scale, min=1.0)  # what shrinks is averaged over more pixels
        distance = torch.abs((places[None, :] - centres[:, None]) / reach)
        if self.geometry.interpolation == "bicubic":
            weights = _cubic(distance)
        else:
            weights = torch.clamp(1.0 - distance, min=0.0)
        weights = weights / weights.sum(dim=1, keepdim=True)
        return _sixteen_bits(weights)[EDGE:].to(torch.float32)


def _sixteen_bits(weights: torch.Tensor) -> torch.Tensor:
    """Weights as torch keeps them: the finest power of two with which the largest fits into 16 bits."""
    unit = torch.exp2(torch.ceil(torch.log2(32_767.5 / weights.max())) - 1)
    return torch.sign(weights) * torch.floor(torch.abs(weights) * unit + 0.5) / unit


def _whole(values: torch.Tensor) -> torch.Tensor:
    """Levels of a colour, rounded half up."""
    return torch.floor(values + 0.5).clamp(0, 255)


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * CUBIC - 4 * CUBIC
    beyond = torch.zeros_like(distance)
    return torch.where(distance < 1, near, torch.where(distance < 2, far, beyond))


class Head(nn.Module):
    """PCA, scaler and head: features (n, dim) to probabilities (n, classes), in double precision."""

    centre: torch.Tensor
    components: torch.Tensor
    mean: torch.Tensor
    factors: torch.Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        pca, scaler = classifier.pca, classifier.scaler
        self.is_reduced = pca is not None
        if pca is not None:
            self.register_buffer("centre", _double(pca.mean))
            self.register_buffer("components", _double(pca.components))
        self.register_buffer("mean", _double(scaler.mean))
        self.register_buffer("factors", _double(scaler.factors))
        self.head = HEAD_MODULES[type(classifier.head)](classifier.head)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """As `Classifier.probabilities`."""
        values = features.to(torch.float64)
        if self.is_reduced:
            values = torch.matmul(values - self.centre, self.components.T)
            values = values.to(torch.float32).to(torch.float64)  # as the reduced table keeps them
        found: torch.Tensor = self.head((values - self.mean) * self.factors)
        return found


class Linear(nn.Module):
    """Logistic regression and linear SVM: the softmax of linear scores."""

    coefficients: torch.Tensor
    intercepts: torch.Tensor

    def __init__(self, head: classifiers.LogisticRegression | classifiers.LinearSvm) -> None:
        super().__init__()
        self.register_buffer("coefficients", _double(head.coefficients))
        self.register_buffer("intercepts", _double(head.intercepts))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Probabilities (n, classes)."""
        return torch.softmax(torch.matmul(values, self.coefficients.T) + self.intercepts, dim=1)


class Perceptron(nn.Module):
    """Layers of sigmoids below a softmax."""

    def __init__(self, head: classifiers.MultilayerPerceptron) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        at = 0
        for width, out in zip(head.layers[:-1].tolist(), head.layers[1:].tolist(), strict=True):
            layer, end = nn.Linear(width, out, dtype=torch.float64), at + width * out
            layer.weight.data = _double(head.weights[at:end].reshape(width, out).T)
            layer.bias.data = _double(head.weights[end : end + out])
            layers += [layer, nn.Sigmoid()]
            at = end + out
        self.layers = nn.Sequential(*layers[:-1], nn.Softmax(dim=1))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Probabilities (n, classes)."""
        found: torch.Tensor = self.layers(values)
        return found


class Forest(nn.Module):
    """All trees go down together, as many levels as the deepest has; who has arrived stays."""

    roots: torch.Tensor
    features: torch.Tensor
    thresholds: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    leaves: torch.Tensor
    votes: torch.Tensor

    def __init__(self, head: classifiers.RandomForest) -> None:
        super().__init__()
        for name in ("roots", "features", "left", "right", "leaves"):
            self.register_buffer(name, torch.from_numpy(getattr(head, name).astype(np.int64)))
        self.register_buffer("thresholds", _double(head.thresholds))
        self.register_buffer("votes", _double(head.votes))
        self.depth = _depth(head)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Probabilities (n, classes)."""
        at = self.roots[None, :].expand(values.shape[0], -1)
        for _ in range(self.depth):
            goes_left = torch.gather(values, 1, self.features[at]) <= self.thresholds[at]
            at = torch.where(goes_left, self.left[at], self.right[at])
        total = self.votes[self.leaves[at]].sum(dim=1)
        return total / total.sum(dim=1, keepdim=True)


HEAD_MODULES: dict[type, Any] = {
    classifiers.LogisticRegression: Linear,
    classifiers.LinearSvm: Linear,
    classifiers.MultilayerPerceptron: Perceptron,
    classifiers.RandomForest: Forest,
}


def build_module(catalog: Catalog, model: dict[str, Any]) -> Served:
    """A model of storage, in evaluation mode and fp32; ConfigError where its pictures are prepared in a way
    that cannot be exported."""
    if model["kind"] == models.FINE_TUNED:
        network, preprocessing = load_tuned(catalog, model["version"]).build()
        geometry = _plain(preprocessing, model["fine_tuning"]["backbone"]["name"])
        served = Served(geometry, network, nn.Softmax(dim=1))
    else:
        spec = BackboneSpec.model_validate(model["spec"]["backbone"])
        backbone = backbones.load_backbone(spec)
        _refuse_other_weights(model, backbone)
        geometry = _plain(backbone.preprocessing, spec.name)
        served = Served(geometry, backbone.module, Head(models.load_classifier(catalog, model)))
    return served.to(memory_format=torch.contiguous_format).eval()


def _plain(preprocessing: Preprocessing, name: str) -> Geometry:
    if preprocessing.geometry is None:
        raise ConfigError(
            f"Backbone {name} prepares its pictures otherwise than by resizing the shorter side and "
            "cropping the centre, which cannot be exported; choose a model of another backbone."
        )
    return preprocessing.geometry


def _refuse_other_weights(model: dict[str, Any], backbone: backbones.Backbone) -> None:
    known = [backbone.identity(precision) for precision in ("fp32", "bf16")]
    if model["backbone_id"] not in known:
        raise WeightsError(
            f"Model {model['version']} was trained on features of {model['backbone_id']}, but the "
            f"backbone's weights are now those of {known[0]}; put the old ones back, or train anew."
        )


def _depth(forest: classifiers.RandomForest) -> int:
    """Levels below the roots."""
    at, depth = forest.roots, 0
    while len(at := _below(forest, at)):
        depth += 1
    return depth


def _below(forest: classifiers.RandomForest, at: Any) -> Any:
    inner = at[forest.left[at] != at]
    return np.concatenate([forest.left[inner], forest.right[inner]])


def _double(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))
