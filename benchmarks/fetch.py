"""Fetching side by side: Sightline's fetch_images and img2dataset, from one local server, in one run.

    .venv/bin/python benchmarks/fetch.py --peer /path/to/an/environment/with/img2dataset

Both get the same list of addresses, in turns, and keep the bytes as they come; Sightline's figures hold
Spark's start, the decoding, hashing and committing of every image. `--images`, `--rounds` make it shorter.
"""

import argparse
import asyncio
import io
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from sightline.spark import submit_conf

HOME = Path(__file__).parents[1]
PICTURES = (
    64  # distinct ones; each answer ends in bytes of its own, so that no two images are the same
)
SAMPLE_SECONDS = 0.5


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


def timed(command: list[str], environment: dict[str, str], log: Path) -> tuple[float, float]:
    """Seconds and peak memory in GiB (shared pages counted once) of a command with its children."""
    began, peak = time.monotonic(), 0
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        sys.exit(f"{command[0]} failed:\n{log.read_text()[-3000:]}")
    return time.monotonic() - began, peak / 2**30


def memory(pid: int) -> int:
    """Bytes of a process and its children."""
    total = 0
    try:
        top = psutil.Process(pid)
        for process in [top, *top.children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.Error:
        pass  # one has ended meanwhile
    return total


def sightline(folder: Path, addresses: Path) -> tuple[float, float]:
    """The listing is not timed; the Spark job is, from its start to its end."""
    for name in ("data", "datasets"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "datasets").mkdir()
    (folder / "datasets" / "many.yaml").write_text(
        f"source: {{type: url_list, path: {addresses}}}\n"
        "fetch: {allow_addresses: [127.0.0.0/8]}\n"
        "backbone: {name: resnet18, weights: random}\n"
    )
    environment = {
        **os.environ,
        "SIGHTLINE_STORAGE": str(folder / "data"),
        "SIGHTLINE_DATASETS": str(folder / "datasets"),
        "PYTHONPATH": str(HOME / "include"),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    listing = "from sightline import jobs; import sys; sys.argv = ['', 'many']; jobs.run_listing()"
    timed([sys.executable, "-c", listing], environment, folder / "list.log")
    submit = [str(Path(sys.executable).with_name("spark-submit")), "--master", "local[*]"]
    submit += [f"--conf={name}={value}" for name, value in submit_conf().items()]  # as the DAG does
    job = [*submit, str(HOME / "spark_jobs" / "fetch_images.py"), "many"]
    return timed(job, environment, folder / "sightline.log")


def img2dataset(folder: Path, addresses: Path, peer: Path, more: list[str]) -> tuple[float, float]:
    """As its documentation has it, on as many processes as there are cores."""
    shutil.rmtree(folder / "peer", ignore_errors=True)
    command = [
        str(peer / "bin" / "img2dataset"), "--url_list", str(addresses), "--input_format", "csv",
        "--url_col", "url", "--caption_col", "label", "--output_folder", str(folder / "peer"),
        "--output_format", "parquet", "--processes_count", str(os.cpu_count()),
        "--thread_count", "64", "--number_sample_per_shard", "1000", "--enable_wandb", "False",
        *more,
    ]  # fmt: skip
    return timed(command, {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}, folder / "peer.log")


def main() -> None:
    """Run the rounds in turns and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="environment with img2dataset")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=30_000, help="bytes of an image")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(port, asked.size), daemon=True)
    server.start()
    runs: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        addresses = folder / "addresses.csv"
        address = f"http://127.0.0.1:{port.get()}"
        rows = "".join(f"{address}/{number}.jpg,any\n" for number in range(asked.images))
        addresses.write_text("url,label\n" + rows)
        ways = {
            "sightline": lambda: sightline(folder, addresses),
            "img2dataset, bytes as they come": lambda: img2dataset(
                folder, addresses, asked.peer, ["--resize_mode", "no", "--skip_reencode", "True"]
            ),
            "img2dataset, 256 px (its default)": lambda: img2dataset(
                folder, addresses, asked.peer, ["--image_size", "256"]
            ),
        }
        for _ in range(asked.rounds):
            for way, run in ways.items():
                seconds, peak = run()
                runs.setdefault(way, []).append((seconds, peak))
                print(
                    f"{way}: {seconds:.1f} s, {asked.images / seconds:.0f} images/s, {peak:.2f} GiB"
                )
    server.terminate()
    print(f"\nmedians of {asked.rounds}, {asked.images} images of {asked.size} bytes")
    for way, found in runs.items():
        seconds = statistics.median(one for one, _ in found)
        peak = statistics.median(one for _, one in found)
        print(f"{way:36} {asked.images / seconds:8.0f} images/s {peak:6.2f} GiB")


if __name__ == "__main__":
    main()
