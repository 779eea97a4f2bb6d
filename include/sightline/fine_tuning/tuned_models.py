"""Fine-tuned networks on storage: model.json says how one is built, weights.safetensors what it knows."""

from dataclasses import dataclass
from typing import Any

from safetensors.torch import load, save

from sightline import backbones, models, storage
from sightline.backbones.preprocessing import Preprocessing
from sightline.catalog import Catalog
from sightline.config import BackboneSpec
from sightline.errors import TrainingError
from sightline.fine_tune_config import FineTuneSpec
from sightline.fine_tuning.checkpoints import Tensors
from sightline.fine_tuning.network import TunedNetwork, empty_network

PRECISION = "fp32"  # of every answer, whatever the training's: what is published is the reference


@dataclass(frozen=True)
class TunedModel:
    """How a fine-tuned network is built; `packed` are its weights as safetensors."""

    version: str
    labels: list[str]
    backbone: BackboneSpec
    fine_tune: FineTuneSpec
    packed: bytes

    def build(self) -> tuple[TunedNetwork, Preprocessing]:
        """The network in evaluation mode, and how pictures are made ready for it."""
        network = empty_network(self.backbone, self.fine_tune.head, len(self.labels))
        network.load_state_dict(load(self.packed))
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
        storage.read_bytes(weights_url(catalog, version)),
    )


def save_tuned(catalog: Catalog, model: dict[str, Any], weights: Tensors) -> None:
    """Keep a network: first its weights, then the model.json that says they are there."""
    storage.write_bytes(weights_url(catalog, model["version"]), save(weights))
    models.write_model(catalog, model)


def weights_url(catalog: Catalog, version: str) -> str:
    """Where a model's weights lie."""
    return storage.join(catalog.model(version), "weights.safetensors")
