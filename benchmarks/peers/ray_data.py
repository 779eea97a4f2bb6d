"""Ray Data: read_images, map, and map_batches with a class in a pool of actors.

Ray gives an actor one core and one torch thread. A pool of all cores would leave none to read with and
stand still, so the pool takes all but one.
"""

import os
import time
from pathlib import Path
from typing import Any

import ray
import torch
from network import BATCH_SIZE, build_network, build_transform, parse_arguments, report
from PIL import Image

asked = parse_arguments()
transform = build_transform(asked.backbone)


def transform_image(row: dict[str, Any]) -> dict[str, Any]:
    """Preprocess a photo."""
    return {"image": transform(Image.fromarray(row["image"])).numpy()}


class Network:
    """Loaded once an actor."""

    def __init__(self, backbone: str) -> None:
        self.network = build_network(backbone)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Features of a batch."""
        with torch.inference_mode():
            return {"features": self.network(torch.from_numpy(batch["image"])).numpy()}


def main() -> None:
    """Featurize the folder."""
    ray.init(include_dashboard=False, runtime_env={"working_dir": str(Path(__file__).parent)})
    began = time.monotonic()
    photos = ray.data.read_images(str(asked.folder), mode="RGB")
    features = photos.map(transform_image).map_batches(
        Network,
        fn_constructor_args=[asked.backbone],
        compute=ray.data.ActorPoolStrategy(size=max(1, (os.cpu_count() or 1) - 1)),
        batch_size=BATCH_SIZE,
    )
    report([row["features"] for row in features.take_all()], began)


if __name__ == "__main__":
    main()
