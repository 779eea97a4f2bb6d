"""What a machine's cores allow: images a second where decoding and the network alone take its time.

Each part is measured in several ways, on as many single-threaded processes at once as there are cores,
and the fastest counts: cores / (decode core-seconds + forward core-seconds of an image).
"""

import io
import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import cores

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 32
Step = Callable[[], Any]


def measure(backbone: str, contents: list[bytes], seconds: float) -> dict[str, dict[str, Any]]:
    """Core-seconds an image of each way to decode and each way to infer, or why it did not run."""
    context = multiprocessing.get_context("spawn")  # a fork would share torch's threads
    barrier = context.Barrier(cores(), timeout=600)  # where one alone fails, none waits for good
    found: Any = context.Queue()
    environment = os.environ.copy()
    os.environ["OMP_NUM_THREADS"] = "1"
    arguments = (backbone, contents, seconds, barrier, found)
    processes = [context.Process(target=_measure, args=arguments) for _ in range(cores())]
    for process in processes:
        process.start()
    every = [found.get() for _ in processes]
    for process in processes:
        process.join()
    os.environ.clear()
    os.environ.update(environment)
    return {
        part: {
            way: taken
            if isinstance(taken, str)
            else sum(one[part][way] for one in every) / len(every)
            for way, taken in ways.items()
        }
        for part, ways in every[0].items()
    }


def _measure(
    backbone: str, contents: list[bytes], seconds: float, barrier: Any, found: Any
) -> None:
    """One of the processes: all take the same way at the same time."""
    import torch

    torch.set_num_threads(1)
    taken: dict[str, dict[str, float | str]] = {}
    parts = {"decode": decode_ways(backbone, contents), "forward": forward_ways(backbone)}
    for part, ways in parts.items():
        taken[part] = {}
        for name, make_step in ways.items():
            try:
                step = make_step()
                with torch.inference_mode():
                    step()  # compiles, allocates
                    barrier.wait()
                    taken[part][name] = _seconds_a_step(step, seconds) / BATCH_SIZE
            except Exception as error:  # the way is not to be had here: all processes find the same
                taken[part][name] = f"not measured: {' '.join(str(error).split())[:100]}"
    found.put(taken)


def _seconds_a_step(step: Step, seconds: float) -> float:
    began, steps = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < seconds or not steps:
        step()
        steps += 1
    return taken / steps


def decode_ways(backbone: str, contents: list[bytes]) -> dict[str, Callable[[], Step]]:
    """From JPEG bytes to what the network takes."""
    from benchmarks.peers.network import build_transform

    preset = build_transform(backbone)
    in_uint8 = partial(_transform_in_uint8, preset)
    batch = [contents[number % len(contents)] for number in range(BATCH_SIZE)]

    def step(decode: Callable[[bytes], Any], transform: Callable[[Any], Any]) -> Any:
        return [transform(decode(content)) for content in batch]

    return {
        "Pillow, torchvision's preset": lambda: partial(step, _pillow(), preset),
        "torchvision, resize in uint8": lambda: partial(step, _torchvision(), in_uint8),
        "simplejpeg, resize in uint8": lambda: partial(step, _simplejpeg(), in_uint8),
    }


def _transform_in_uint8(preset: Any, picture: Any) -> Any:
    """What the preset does, but it would resize a tensor in fp32."""
    import torch
    from torchvision.transforms.v2 import functional

    size, crop = preset.resize_size, preset.crop_size
    resized = functional.resize(picture, size, interpolation=preset.interpolation, antialias=True)
    cropped = functional.center_crop(resized, crop)
    scaled = functional.to_dtype(cropped, torch.float32, scale=True)
    return functional.normalize(scaled, preset.mean, preset.std)


def _pillow() -> Callable[[bytes], Any]:
    from PIL import Image

    return lambda content: Image.open(io.BytesIO(content)).convert("RGB")


def _torchvision() -> Callable[[bytes], Any]:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    return lambda content: decode_jpeg(
        torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB
    )


def _simplejpeg() -> Callable[[bytes], Any]:
    import simplejpeg
    import torch

    return lambda content: torch.from_numpy(simplejpeg.decode_jpeg(content)).permute(2, 0, 1)


def forward_ways(backbone: str) -> dict[str, Callable[[], Step]]:
    """A batch through the network."""
    import torch

    half, last = torch.bfloat16, torch.channels_last
    plain = torch.contiguous_format
    return {
        "fp32": partial(_forward, backbone, torch.float32, plain),
        "fp32, channels last": partial(_forward, backbone, torch.float32, last),
        "bf16, channels last": partial(_forward, backbone, half, last),
        "bf16, channels last, fused": partial(_forward, backbone, half, last, _fuse),
        "bf16, channels last, compiled": partial(_forward, backbone, half, last, _compile),
    }


def _forward(
    backbone: str,
    precision: "torch.dtype",
    layout: "torch.memory_format",
    change: Callable[[Any], Any] = lambda network: network,
) -> Step:
    import torch

    from benchmarks.peers.network import build_network, picture_size

    network = change(build_network(backbone)).to(dtype=precision, memory_format=layout)
    side = picture_size(backbone)
    batch = torch.rand(BATCH_SIZE, 3, side, side).to(dtype=precision, memory_format=layout)
    return partial(network, batch)


def _fuse(network: Any) -> Any:
    from torch.fx.experimental.optimization import fuse

    return fuse(network)


def _compile(network: Any) -> Any:
    import torch

    return torch.compile(_fuse(network))
