"""Images a second on a GPU for the four backbones of the founding datasets, from JPEG bytes and forward only.

    .venv/bin/python -m benchmarks.gpu --photos 2000

End to end goes through what the job's worker calls for a batch. Without a GPU the results say so.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from benchmarks import measuring, photos
from benchmarks.measuring import median
from sightline import backbones
from sightline.backbones.inference import Network
from sightline.backbones.worker import ahead, prepared
from sightline.config import BackboneSpec

BACKBONES = ("resnet18", "inception_v3", "vgg16", "efficientnet_b6")
BATCH_SIZE = 64
FORWARD_BATCHES = 30


def describe(name: str, contents: list[bytes], rounds: int) -> dict[str, Any]:
    """A backbone's two figures as a row."""
    spec = BackboneSpec(name=name, weights="random")
    backbone = backbones.load_backbone(spec)
    network = Network(backbone.module, backbone.preprocessing, "bf16", "cuda")

    def end_to_end() -> None:
        for _, pictures in ahead(prepared(in_batches(contents), spec, network)):
            network.embed(pictures)

    forward = forward_only(name)
    peak = peak_bytes(forward)
    return {
        "system": name,
        "images_per_second": round(len(contents) / seconds(end_to_end, rounds), 1),
        "forward_images_per_second": round(
            FORWARD_BATCHES * BATCH_SIZE / seconds(forward, rounds), 1
        ),
        "peak_gpu_bytes": peak,
    }


def in_batches(contents: list[bytes]) -> Iterator[pa.RecordBatch]:
    """Batches of the photos as Spark hands them to a worker."""
    for start in range(0, len(contents), BATCH_SIZE):
        some = contents[start : start + BATCH_SIZE]
        names = [str(start + number) for number in range(len(some))]
        yield pa.record_batch({"image_id": names, "content": some, "rotation": [0] * len(some)})


def forward_only(name: str) -> Callable[[], None]:
    """Batches that lie on the GPU already, through the network in bf16."""
    import torch
    from PIL import Image

    backbone = backbones.load_backbone(BackboneSpec(name=name, weights="random"))
    picture = backbone.preprocessing.transform(Image.new("RGB", (1024, 768)))
    module = backbone.module.to("cuda", torch.bfloat16)
    batch = torch.stack([picture] * BATCH_SIZE).to("cuda", torch.bfloat16)
    batch = batch.contiguous(memory_format=torch.channels_last)

    def forward() -> None:
        with torch.inference_mode():
            for _ in range(FORWARD_BATCHES):
                module(batch)
        torch.cuda.synchronize()  # launches return before the work is done

    return forward


def peak_bytes(work: Callable[[], None]) -> int:
    """The most GPU memory that torch holds during some work, which also warms it up."""
    import torch

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

    asked = measuring.parse_arguments(__doc__, photos=2_000, rounds=3)
    if not torch.cuda.is_available():
        rows: list[dict[str, Any]] = [
            {"system": name, "not_measured": "not measured: no GPU"} for name in BACKBONES
        ]
        device = None
    else:
        made = asked.workplace / "made"
        photos.make(made, asked.photos)
        contents = [photos.path_of(made, number).read_bytes() for number in range(asked.photos)]
        rows = [describe(name, contents, asked.rounds) for name in BACKBONES]
        device = torch.cuda.get_device_name()
    measuring.write_results(
        asked.results, rows, measuring.our_versions(), gpu=device, rounds=asked.rounds
    )


if __name__ == "__main__":
    main()
