"""Images a second on a GPU for the four backbones of the founding datasets, from JPEG bytes and forward only.

    .venv/bin/python -m benchmarks.gpu --photos 2000

End to end goes through what the job's worker calls for a batch. Without a GPU the results say so, unless
`--device cpu` asks for the processor's figures.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from benchmarks import measuring, photos
from benchmarks.measuring import median
from sightline import backbones
from sightline.backbones.inference import Network
from sightline.backbones.worker import ahead, prepare_picture, prepared
from sightline.config import BackboneSpec

BACKBONES = ("resnet18", "inception_v3", "vgg16", "efficientnet_b6")


@dataclass(frozen=True)
class Size:
    """How much is measured, and where."""

    device: str  # cuda or cpu
    batch: int  # photos of a batch
    forward_batches: int  # of a round that measures the forward pass alone
    rounds: int


def describe(name: str, contents: list[bytes], size: Size) -> dict[str, Any]:
    """A backbone's two figures as a row."""
    spec = BackboneSpec(name=name, weights="random")
    backbone = backbones.load_backbone(spec)
    network = Network(backbone.module, backbone.preprocessing, "bf16", size.device)
    prepare = partial(prepare_picture, spec, network.preprocessing)

    def end_to_end() -> None:
        for _, pictures in ahead(prepared(in_batches(contents, size.batch), network, prepare)):
            network.embed(pictures)

    forward = forward_only(backbone, size)
    peak = peak_bytes(forward, size.device)
    images = size.forward_batches * size.batch
    return {
        "system": name,
        "images_per_second": round(len(contents) / seconds(end_to_end, size.rounds), 1),
        "forward_images_per_second": round(images / seconds(forward, size.rounds), 1),
        **({"peak_gpu_bytes": peak} if peak is not None else {}),
    }


def in_batches(contents: list[bytes], size: int) -> Iterator[pa.RecordBatch]:
    """Batches of the photos as Spark hands them to a worker."""
    for start in range(0, len(contents), size):
        some = contents[start : start + size]
        names = [str(start + number) for number in range(len(some))]
        yield pa.record_batch({"image_id": names, "content": some, "rotation": [0] * len(some)})


def forward_only(backbone: backbones.Backbone, size: Size) -> Callable[[], None]:
    """Batches that are on the device already, through the network in bf16."""
    import torch
    from PIL import Image

    picture = backbone.preprocessing.transform(Image.new("RGB", (1024, 768)))
    module = backbone.module.to(size.device, torch.bfloat16)
    batch = torch.stack([picture] * size.batch).to(size.device, torch.bfloat16)
    batch = batch.contiguous(memory_format=torch.channels_last)

    def forward() -> None:
        with torch.inference_mode():
            for _ in range(size.forward_batches):
                module(batch)
        if size.device == "cuda":
            torch.cuda.synchronize()  # launches return before the work is done

    return forward


def peak_bytes(work: Callable[[], None], device: str) -> int | None:
    """The peak GPU memory that torch allocates during some work, which also warms it up."""
    import torch

    if device != "cuda":
        work()
        return None
    torch.cuda.reset_peak_memory_stats()
    work()
    return int(torch.cuda.max_memory_allocated())


def seconds(work: Callable[[], None], rounds: int) -> float:
    """The median of some rounds after one that does not count."""
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return median(taken[1:])


def main() -> None:
    """Measure every backbone, or say that there is nothing to measure on."""
    import torch

    asked = parse_arguments()
    device = asked.device or ("cuda" if torch.cuda.is_available() else None)
    if device is None:
        rows: list[dict[str, Any]] = [
            {"system": name, "not_measured": "not measured: no GPU"} for name in asked.backbones
        ]
    else:
        made = asked.workplace / "made"
        photos.make(made, asked.photos)
        contents = [photos.path_of(made, number).read_bytes() for number in range(asked.photos)]
        size = Size(device, asked.batch, asked.forward, asked.rounds)
        rows = [describe(name, contents, size) for name in asked.backbones]
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    measuring.write_results(
        asked.results, rows, measuring.our_versions(), gpu=gpu, rounds=asked.rounds
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: the GPU, if any")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, metavar="NAME")
    return measuring.add_arguments(parser, photos=2_000, rounds=3, batch=64, forward=30)


if __name__ == "__main__":
    main()
