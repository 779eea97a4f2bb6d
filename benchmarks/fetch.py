"""Fetching side by side: Sightline's fetch_images and img2dataset, from one local server, in one run.

    .venv/bin/python -m benchmarks.fetch --images 20000 --rounds 3

Both get the same list of addresses, in turns, and keep the bytes as they come; Sightline's figures hold
the decoding, hashing and committing of every image.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import measuring
from benchmarks.measuring import median
from benchmarks.sightline_jobs import Workplace

PICTURES = (
    64  # distinct ones; each answer ends in bytes of its own, so that no two images are the same
)


@dataclass(frozen=True)
class Timing:
    """One run of one system; img2dataset does not say what its start takes."""

    seconds: float
    seconds_without_start: float | None
    peak_bytes: int


def picture(seed: int, size_bytes: int) -> bytes:
    """A JPEG of about this size: smooth colours and noise."""
    rng = np.random.default_rng(seed)
    base = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(base.resize((320, 240), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = (smooth + rng.integers(-24, 24, smooth.shape)).clip(0, 255).astype(np.uint8)
    quality = 95
    while True:
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= size_bytes or quality <= 20:
            return buffer.getvalue()
        quality -= 5


class Server(asyncio.Protocol):
    """As little of HTTP/1.1 as both clients need, so that the server is not what is measured."""

    pictures: list[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.seen = b""

    def data_received(self, data: bytes) -> None:
        self.seen += data
        while b"\r\n\r\n" in self.seen:
            head, self.seen = self.seen.split(b"\r\n\r\n", 1)
            number = int(head.split(b" ", 2)[1].strip(b"/").split(b".")[0])
            body = self.pictures[number % PICTURES] + b"%012d" % number
            closes = b"connection: close" in head.lower()
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n%s\r\n"
                % (len(body), b"Connection: close\r\n" if closes else b"")
                + body
            )
            if closes:
                self.transport.close()


def serve(port: "multiprocessing.Queue[int]", size_bytes: int) -> None:
    """Run the server until the process is ended."""
    Server.pictures = [picture(seed, size_bytes) for seed in range(PICTURES)]

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(
            Server, "127.0.0.1", 0, backlog=1024
        )
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def sightline(place: Workplace, addresses: Path) -> Timing:
    """The listing is not timed; the Spark job is, from its start to its end."""
    place.forget("")
    place.write_dataset(
        f"source: {{type: url_list, path: {json.dumps(str(addresses))}}}",
        "fetch: {allow_addresses: [127.0.0.0/8]}",
    )
    place.list_images()
    done = place.submit("fetch_images")
    return Timing(done.seconds, done.seconds_without_start, done.peak_bytes)


def img2dataset(folder: Path, addresses: Path, peer: Path, more: list[str]) -> Timing:
    """As its documentation has it, on as many processes as there are cores."""
    shutil.rmtree(folder / "peer", ignore_errors=True)
    command = [
        str(peer / "bin" / "img2dataset"), "--url_list", str(addresses), "--input_format", "csv",
        "--url_col", "url", "--caption_col", "label", "--output_folder", str(folder / "peer"),
        "--output_format", "parquet", "--processes_count", str(os.cpu_count()),
        "--thread_count", "64", "--number_sample_per_shard", "1000", "--enable_wandb", "False",
        *more,
    ]  # fmt: skip
    done = measuring.run(command, {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}, folder)
    return Timing(done.seconds, None, done.peak_bytes)


def describe(system: str, timings: list[Timing], images: int) -> dict[str, Any]:
    """Medians of a system's rounds as a row."""
    row: dict[str, Any] = {"system": system}
    parts = [one.seconds_without_start for one in timings if one.seconds_without_start]
    if parts:
        row["images_per_second"] = round(images / median(parts), 1)
    row["images_per_second_with_start"] = round(images / median(one.seconds for one in timings), 1)
    row["peak_rss_bytes"] = int(median(one.peak_bytes for one in timings))
    row["seconds_of_rounds"] = [round(one.seconds, 2) for one in timings]
    return row


def main() -> None:
    """Run the rounds in turns and write medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peers", type=Path, default=measuring.PEERS_FETCH, help="their environment"
    )
    asked = measuring.add_arguments(parser, images=20_000, size=30_000, rounds=3)
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(port, asked.size), daemon=True)
    server.start()
    place = Workplace(asked.workplace / "fetch")
    place.folder.mkdir(parents=True, exist_ok=True)
    addresses = place.folder / "addresses.csv"
    address = f"http://127.0.0.1:{port.get()}"
    rows = "".join(f"{address}/{number}.jpg,any\n" for number in range(asked.images))
    addresses.write_text("url,label\n" + rows)
    as_they_come = ["--resize_mode", "no", "--skip_reencode", "True"]
    peer = partial(img2dataset, place.folder, addresses, asked.peers)
    ways = {
        "Sightline": partial(sightline, place, addresses),
        "img2dataset, bytes as they come": partial(peer, as_they_come),
        "img2dataset, 256 px (its default)": partial(peer, ["--image_size", "256"]),
    }
    found = measuring.in_turns(ways, asked.rounds)
    server.terminate()
    shutil.rmtree(place.folder)
    peers = measuring.versions_of(("img2dataset",), asked.peers / "bin" / "python")
    measuring.write_results(
        asked.results,
        [describe(way, timings, asked.images) for way, timings in found.items()],
        measuring.our_versions(),
        peers=peers,
        images=asked.images,
        size_bytes=asked.size,
        rounds=asked.rounds,
    )


if __name__ == "__main__":
    main()
