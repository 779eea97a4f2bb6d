"""Daft: download, decode and transform as expressions, the network as a class with a batch method.

One instance for all cores: torch's own threads use them.
"""

import time

import daft
import numpy as np
import torch
from network import (
    BATCH_SIZE,
    build_network,
    build_transform,
    parse_arguments,
    picture_size,
    report,
)
from PIL import Image

asked = parse_arguments()
transform = build_transform(asked.backbone)
side = picture_size(asked.backbone)


@daft.cls(max_concurrency=1)
class Network:
    """Loaded once."""

    def __init__(self, backbone: str) -> None:
        self.network = build_network(backbone)

    @daft.method.batch(
        return_dtype=daft.DataType.list(daft.DataType.float32()), batch_size=BATCH_SIZE
    )
    def embed(self, pictures: daft.Series) -> list[np.ndarray]:
        """Features of a batch."""
        if not len(pictures):
            return []
        with torch.inference_mode():
            batch = torch.from_numpy(np.array(pictures.to_pylist()))
            return list(self.network(batch).numpy())


def main() -> None:
    """Featurize the folder."""
    began = time.monotonic()
    photos = daft.from_glob_path(f"{asked.folder}/*/*.jpg")
    pictures = photos.with_column(
        "picture",
        photos["path"].download().decode_image(mode=daft.ImageMode.RGB).apply(
            lambda pixels: transform(Image.fromarray(pixels)).numpy(),
            return_dtype=daft.DataType.tensor(daft.DataType.float32(), shape=(3, side, side)),
        ),
    )  # fmt: skip
    features = pictures.select(Network(asked.backbone).embed(pictures["picture"]).alias("features"))
    report(features.to_pydict()["features"], began)


if __name__ == "__main__":
    main()
