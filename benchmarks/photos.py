"""Distinct photos for benchmarks, drawn by a seed from the two photos in scikit-learn's wheel.

    .venv/bin/python -m benchmarks.photos FOLDER --photos 1000

Each is another crop, flip and colour of a real photo at 1,024 pixels with a sensor's noise, so that a
JPEG of quality 90 takes about 300 KB, as photos of that size on the web do. <folder>/<class>/<number>.jpg.
"""

import argparse
import functools
import io
import multiprocessing
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

LONG_SIDE, SHORT_SIDE = 1024, 768
QUALITY = 90
NOISE = 10.0  # standard deviation in grey levels: what the enlarged crop has lost in detail
CLASSES = 5


@functools.cache
def originals() -> list[Image.Image]:
    """The photos of scikit-learn: a temple and a flower, 640 x 427."""
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@functools.cache
def noise(seed: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int16]]":
    """More noise than a photo needs: each takes a window of it, for drawing it costs more than a JPEG."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, NOISE, (2 * LONG_SIDE, 2 * LONG_SIDE, 3)).round().astype(np.int16)


def photo(seed: int, number: int) -> bytes:
    """The encoded photo of this number; no two are alike."""
    rng = np.random.default_rng([seed, number])
    original = originals()[number % len(originals())]
    wide = rng.random() < 0.7  # the rest are upright
    width, height = (LONG_SIDE, SHORT_SIDE) if wide else (SHORT_SIDE, LONG_SIDE)
    most = min(original.width / width, original.height / height)
    scale = most * rng.uniform(0.65, 1.0)
    left = rng.uniform(0, original.width - scale * width)
    top = rng.uniform(0, original.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    picture = original.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change in (ImageEnhance.Color, ImageEnhance.Brightness):
        picture = change(picture).enhance(rng.uniform(0.8, 1.2))
    y, x = rng.integers(0, (2 * LONG_SIDE - height, 2 * LONG_SIDE - width))
    pixels = np.asarray(picture, dtype=np.int16) + noise(seed)[y : y + height, x : x + width]
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def path_of(folder: Path, number: int) -> Path:
    """Where the photo of this number lies; the classes take turns."""
    return folder / f"class{number % CLASSES}" / f"{number:06d}.jpg"


def write(folder: Path, seed: int, number: int) -> None:
    """Write a photo that is not there yet; one half written is never taken for a whole one."""
    path = path_of(folder, number)
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(photo(seed, number))
        unfinished.replace(path)


def make(folder: Path, count: int, seed: int = 0) -> None:
    """Let a folder hold at least the photos 0 to count - 1, with every core at work."""
    for number in range(CLASSES):
        path_of(folder, number).parent.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(count) if not path_of(folder, number).exists()]
    if missing:
        with multiprocessing.get_context("spawn").Pool() as pool:
            pool.map(functools.partial(write, folder, seed), missing, chunksize=16)


def take(made: Path, numbers: range, folder: Path) -> None:
    """Show some of the photos in a folder of their own, as links: a source lists all that it finds."""
    make(made, numbers.stop)
    for number in numbers:
        link = path_of(folder, number)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(path_of(made, number))


def main() -> None:
    """Make photos, and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    make(asked.folder, asked.photos, asked.seed)
    sizes = [path_of(asked.folder, number).stat().st_size for number in range(asked.photos)]
    print(f"{len(sizes)} photos, {sum(sizes) / len(sizes) / 1000:.0f} KB on average")


if __name__ == "__main__":
    main()
