"""Fine-tuned networks on storage: model.json says how one is built, weights.safetensors what it knows."""

import hashlib
from dataclasses import dataclass
from typing import Any

from safetensors.torch import save

from sightline import backbones, models, shared_files, storage
from sightline.backbones.mapped import build_mapped, read_mapped
from sightline.backbones.preprocessing import Preprocessing
from sightline.catalog import Catalog
from sightline.config import BackboneSpec
from sightline.errors import TrainingError
from sightline.fine_tune_config import FineTuneSpec
from sightline.fine_tuning.checkpoints import Tensors
from sightline.fine_tuning.network import TunedNetwork, empty_network
from sightline.shared_files import SharedFile

PRECISION = "fp32"  # of every answer, whatever the training's: what is published is the reference


@dataclass(frozen=True)
class TunedModel:
    """How a fine-tuned network is built; its weights stay in their file, which each process maps."""

    version: str
    labels: list[str]
    backbone: BackboneSpec
    fine_tune: FineTuneSpec
    weights: SharedFile

    def build(self) -> tuple[TunedNetwork, Preprocessing]:
        """The network in evaluation mode, and how pictures are made ready for it."""

        def build() -> TunedNetwork:
            return empty_network(self.backbone, self.fine_tune.head, len(self.labels))

        with shared_files.local_path(self.weights) as path:
            network = build_mapped(build, read_mapped(path))
        return network.requires_grad_(False).eval(), backbones.preprocessing_of(self.backbone)


def load_tuned(catalog: Catalog, version: str) -> TunedModel:
    """A fine-tuned model; TrainingError where it is not trained."""
    model = models.read_model(catalog, version)
    if model is None or model["kind"] != models.FINE_TUNED:
        raise TrainingError(
            f"Dataset {catalog.dataset} has no fine-tuned model {version}; clear task fine_tune."
        )
    return TunedModel(
        version,
        model["labels"],
        BackboneSpec.model_validate(model["fine_tuning"]["backbone"]),
        FineTuneSpec.model_validate(model["fine_tuning"]["settings"]),
        shared_files.describe(weights_url(catalog, version), model.get("weights_sha256", "")),
    )


def save_tuned(catalog: Catalog, model: dict[str, Any], weights: Tensors) -> None:
    """Keep a network: first its weights, then the model.json that says they are there."""
    content = save({name: value.contiguous() for name, value in weights.items()})
    storage.write_bytes(weights_url(catalog, model["version"]), content)
    digest = hashlib.sha256(content).hexdigest()  # by which other machines verify their download
    models.write_model(catalog, {**model, "weights_sha256": digest})


def weights_url(catalog: Catalog, version: str) -> str:
    """Where a model's weights lie."""
    return storage.join(catalog.model(version), "weights.safetensors")
