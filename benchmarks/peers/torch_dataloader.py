"""torch: a DataLoader over an ImageFolder and a loop, as the tutorials have it.

A worker process a core decodes; the loop's torch threads take what is left.
"""

import os
import time

import torch
from network import BATCH_SIZE, build_network, build_transform, parse_arguments, report
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder


def main() -> None:
    """Featurize the folder."""
    asked = parse_arguments()
    began = time.monotonic()
    photos = ImageFolder(asked.folder, transform=build_transform(asked.backbone))
    loader = DataLoader(photos, batch_size=BATCH_SIZE, num_workers=os.cpu_count() or 1)
    network = build_network(asked.backbone)
    features = []
    with torch.inference_mode():
        for pictures, _ in loader:
            features.append(network(pictures))
    report(torch.cat(features), began)


if __name__ == "__main__":
    main()
