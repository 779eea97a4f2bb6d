"""Featurizing side by side: Sightline, its peers, and the limit that the cores allow, in one run.

    .venv/bin/python -m benchmarks.throughput --photos 1000 --rounds 3

All take the same photos and the same seeded network, in turns. Sightline's job reads its images table,
which its ingest has made beforehand (untimed), and writes features anew each round; the peers read the
folder and hand over the features in memory. A checksum holds them to the same answer.
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import limit, measuring, photos
from benchmarks.measuring import median
from benchmarks.sightline_jobs import Workplace

SCRIPTS = Path(__file__).parent / "peers"
PEERS = {
    "Daft": "daft_class",
    "torch DataLoader": "torch_dataloader",
    "Spark predict_batch_udf": "spark_binary_files",
    "Ray Data": "ray_data",
    "Spark image source": "spark_image_source",
}
PEER_PACKAGES = ("daft", "ray", "pyspark", "torch", "torchvision", "pillow")
LIMIT_SECONDS = 3.0  # of each way a round


@dataclass(frozen=True)
class Timing:
    """One run of one system; `checksum` is the mean of the features' magnitudes."""

    seconds: float
    seconds_without_start: float
    peak_bytes: int
    checksum: float


def run_sightline(place: Workplace, backbone: str) -> Timing:
    """The featurize job with no features there yet."""
    place.set_backbone(backbone)
    place.forget("features")
    done = place.submit("featurize")
    return Timing(done.seconds, done.seconds_without_start, done.peak_bytes, place.checksum())


def run_peer(script: str, folder: Path, python: Path, place: Path, backbone: str) -> Timing:
    """A peer's script in the peers' environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYSPARK_PYTHON": str(python), "SPARK_LOCAL_IP": "127.0.0.1"}
    command = [python, SCRIPTS / f"{script}.py", folder, "--backbone", backbone]
    done = measuring.run(command, environment, place)
    said = json.loads(next(line for line in reversed(done.said.splitlines()) if line[:1] == "{"))
    return Timing(done.seconds, said["seconds_without_start"], done.peak_bytes, said["checksum"])


def describe(system: str, timings: list[Timing], images: int, limit_rate: float) -> dict[str, Any]:
    """Medians of a system's rounds as a row."""
    without_start = images / median(one.seconds_without_start for one in timings)
    return {
        "system": system,
        "images_per_second": round(without_start, 2),
        "images_per_second_with_start": round(images / median(one.seconds for one in timings), 2),
        "ratio_to_limit": round(without_start / limit_rate, 3),
        "peak_rss_bytes": int(median(one.peak_bytes for one in timings)),
        "seconds_of_rounds": [round(one.seconds_without_start, 2) for one in timings],
        "checksum": round(timings[-1].checksum, 4),
    }


def describe_limit(measured: list[dict[str, dict[str, Any]]]) -> tuple[float, list[dict[str, Any]]]:
    """The limit in images a second from the medians of all rounds, and each way as a row."""
    rows: list[dict[str, Any]] = []
    fastest: dict[str, float] = {}
    for part, ways in measured[0].items():
        for way, first in ways.items():
            if isinstance(first, str):
                rows.append({"system": f"{part}: {way}", "not_measured": first})
                continue
            seconds = median(one[part][way] for one in measured)
            rows.append({"system": f"{part}: {way}", "core_seconds": round(seconds, 5)})
            fastest[part] = min(seconds, fastest.get(part, seconds))
    return measuring.cores() / sum(fastest.values()), rows


def compare(asked: argparse.Namespace, place: Workplace, folder: Path, backbone: str) -> list[Any]:
    """Rows of one backbone."""
    python = asked.peers / "bin" / "python"
    contents = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[: limit.BATCH_SIZE]]
    ways: dict[str, Any] = {
        "limit": partial(limit.measure, backbone, contents, LIMIT_SECONDS),
        "Sightline": partial(run_sightline, place, backbone),
    }
    for name, script in PEERS.items():
        ways[name] = partial(run_peer, script, folder, python, place.folder, backbone)
    found = measuring.in_turns(ways, asked.rounds)
    limit_rate, parts = describe_limit(found.pop("limit"))
    rows = [describe(name, timings, asked.photos, limit_rate) for name, timings in found.items()]
    check_answers(rows)
    at_most = {"system": "limit", "images_per_second": round(limit_rate, 2), "ratio_to_limit": 1.0}
    return [{"backbone": backbone, **row} for row in [at_most, *rows, *parts]]


def check_answers(rows: list[dict[str, Any]]) -> None:
    """Refuse figures of systems that did not compute the same; decoders differ by a thousandth, and bf16
    in a network of random weights by a few hundredths.
    """
    expected = median(row["checksum"] for row in rows)
    for row in rows:
        if abs(row["checksum"] / expected - 1) > 0.1:
            sys.exit(f"{row['system']} gives other features: {row['checksum']}, not {expected}")


def main() -> None:
    """Ingest the photos, then compare on each backbone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=measuring.PEERS, help="their environment")
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "inception_v3"])
    asked = measuring.add_arguments(parser, photos=1_000, rounds=3)
    place = Workplace(asked.workplace / "throughput")
    folder = place.write_folder_dataset()
    photos.take(asked.workplace / "made", range(asked.photos), folder)
    place.list_images()
    place.submit("fetch_images")
    rows = [row for one in asked.backbones for row in compare(asked, place, folder, one)]
    shutil.rmtree(place.folder)
    peers = measuring.versions_of(PEER_PACKAGES, asked.peers / "bin" / "python")
    measuring.write_results(
        asked.results,
        rows,
        measuring.our_versions(),
        peers=peers,
        photos=asked.photos,
        rounds=asked.rounds,
    )


if __name__ == "__main__":
    main()
