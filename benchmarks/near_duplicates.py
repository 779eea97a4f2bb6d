"""Near-duplicates among a million images, by their hashes alone: seconds, memory, and what is found.

    .venv/bin/python -m benchmarks.near_duplicates --images 1000000

The hashes are made up, with the unevenness of real ones: signs are drawn around a few hundred kinds of
pictures, so that some values of a band are far more frequent than others. A hundredth of the images are
copies of another one, with up to five bits of the key and nine of the rest turned, a third of them mirrored.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measuring
from benchmarks.measuring import HOME

KINDS = 300  # of pictures
UNEVEN_BITS = 24  # of each word, which follow the kind, most of the time
FOLLOWS = 0.7
COPIES = 0.01
Array = np.ndarray[Any, Any]


def make_views(images: int) -> tuple[Array, Array]:
    """View hashes (images, views, 2), and (copies, 2): which image is a copy of which."""
    from sightline.view_hashes import MIRRORED, WINDOWS

    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2**64, (KINDS, 2), np.uint64)[rng.zipf(1.3, images) % KINDS]
    views = np.empty((images, len(WINDOWS), 2), np.uint64)
    for view in range(len(WINDOWS)):
        views[:, view] = rng.integers(0, 2**64, (images, 2), np.uint64)
    for bit in range(UNEVEN_BITS):
        mask = np.uint64(1 << (bit * 64 // UNEVEN_BITS))
        follows = (rng.random(images) < FOLLOWS)[:, None, None]
        views[...] = np.where(follows, (views & ~mask) | (kinds & mask)[:, None], views)
    count = int(images * COPIES)
    chosen = rng.choice(images, (count, 2), replace=False)
    copies = views[chosen[:, 1], rng.integers(0, len(WINDOWS), count)]
    copies ^= _few_bits(rng, count)
    copies[: count // 3] ^= MIRRORED
    views[chosen[:, 0], 0] = copies
    return views, chosen


def _few_bits(rng: np.random.Generator, count: int) -> Array:
    """Masks (count, 2) of up to five and up to nine bits."""
    masks = np.zeros((count, 2), np.uint64)
    for word, most in ((0, 5), (1, 9)):
        for _ in range(most):
            is_turned = rng.random(count) < 0.5
            bits = np.uint64(1) << rng.integers(0, 64, count, np.uint64)
            masks[:, word] |= np.where(is_turned, bits, np.uint64(0))
    return masks


def run_one(images: int) -> None:
    """Find and group; says what it took."""
    from sightline.near_duplicates import Groups, Hashed, pairs_among

    views, copies = make_views(images)
    began = time.monotonic()
    groups, pairs = Groups(images), 0
    for found in pairs_among(Hashed(views)):
        groups.join(found.rows.tolist(), found.others.tolist())
        pairs += len(found.rows)
    seconds = time.monotonic() - began
    names = [groups.name(row) for row in range(images)]
    together = sum(names[one] == names[other] for one, other in copies.tolist())
    sizes = np.unique(names, return_counts=True)[1]
    facts = {
        "seconds": round(seconds, 1),
        "copies_found": together / len(copies),
        "in_groups": int(sizes[sizes > 1].sum()),
        "planted": 2 * len(copies),
        "largest_group": int(sizes.max()),
    }
    print(json.dumps(facts))


def main() -> None:
    """A tenth of the images, then all of them, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", type=int, metavar="IMAGES", help=argparse.SUPPRESS)
    asked = measuring.add_arguments(parser, images=1_000_000)
    if asked.one:
        run_one(asked.one)
        return
    rows = []
    environment = {**os.environ, "PYTHONPATH": f"{HOME / 'include'}{os.pathsep}{HOME}"}
    for images in (asked.images // 10, asked.images):
        command = [sys.executable, "-m", "benchmarks.near_duplicates", "--one", str(images)]
        with tempfile.TemporaryDirectory() as folder:
            done = measuring.run(command, environment, Path(folder))
        facts = json.loads(done.said.splitlines()[-1])
        system = f"{images:,} images"
        rows.append(
            {"system": system, "images": images, **facts, "peak_rss_bytes": done.peak_bytes}
        )
    measuring.write_results(asked.results, rows, measuring.our_versions(), images=asked.images)


if __name__ == "__main__":
    main()
