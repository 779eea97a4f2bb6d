"""The pages of a dataset with 100,000 images: milliseconds at the server, and its memory.

    .venv/bin/python -m benchmarks.gallery --images 100000

The application answers in a process of its own that has just begun; its answers are taken without a network.
The first answer of each kind, when nothing is remembered, stands beside the median of those after it.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import many_images, measuring
from benchmarks.measuring import HOME

TIMES = 20
PAGES = {
    "gallery, first page": "/gallery",
    "gallery, next page": "/gallery?after={after}",
    "gallery, one class": "/gallery?label=class+005",
    "gallery, test split": "/gallery?split=test",
    "gallery, one licence": "/gallery?licence=CC0+1.0",
    "gallery, one issue": "/gallery?issue=dark",
    "gallery, predicted wrong": "/gallery?wrong=1",
    "gallery, what can be chosen": "/gallery/filters",
    "overview": "",
    "image": "/images/{image_id}",
    "image, neighbours": "/images/{image_id}/neighbours",
    "map, 20,000 points": "/map/points",
}


def run_one() -> None:
    """Ask for every page, again and again; says what it took."""
    from starlette.testclient import TestClient

    from sightline.web.access import Open
    from sightline.web.app import create_app

    client = TestClient(create_app(Open()))
    home = f"/datasets/{many_images.DATASET}"

    def get(path: str) -> str:
        answer = client.get(home + path)
        assert answer.status_code == 200, (path, answer.text[:500])
        return answer.text

    rows = [_timed("gallery, first page", lambda: get(PAGES["gallery, first page"]))]
    first = get("/gallery")
    ids = re.findall(r"/thumbnails/([0-9a-f]{64})", first)
    [after] = re.findall(r"after=([^\"&]+)", first)
    with ThreadPoolExecutor(6) as browser:  # as many as a browser asks for at once

        def draw() -> None:
            list(browser.map(get, [f"/thumbnails/{image_id}" for image_id in ids]))

        rows.append(_timed(f"{len(ids)} thumbnails of it", draw))
    for name, path in list(PAGES.items())[1:]:
        whole = path.format(after=after, image_id=ids[7])
        rows.append(_timed(name, lambda whole=whole: get(whole)))  # type: ignore[misc]
    print(json.dumps(rows))


def _timed(name: str, ask: Callable[[], object]) -> dict[str, Any]:
    seconds = []
    for _ in range(1 + TIMES):
        began = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - began)
    return {
        "system": name,
        "first_seconds": round(seconds[0], 4),
        "median_seconds": round(measuring.median(seconds[1:]), 4),
        "slowest_seconds": round(max(seconds[1:]), 4),
    }


def main() -> None:
    """Make the images, unless a folder has them, then ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = measuring.add_arguments(parser, images=100_000)
    if asked.one:
        run_one()
        return
    made = asked.workplace / f"many-{asked.images}"
    if not made.exists():
        many_images.make(made, asked.images)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HOME / 'include'}{os.pathsep}{HOME}",
        "SIGHTLINE_DATASETS": str(made / "datasets"),
        "SIGHTLINE_STORAGE": str(made / "data"),
    }
    command = [sys.executable, "-m", "benchmarks.gallery", "--one"]
    with tempfile.TemporaryDirectory() as folder:
        done = measuring.run(command, environment, Path(folder))
    rows = json.loads(done.said.splitlines()[-1])
    rows[0]["peak_rss_bytes"] = done.peak_bytes  # of the whole server, in the end
    measuring.write_results(asked.results, rows, measuring.our_versions(), images=asked.images)


if __name__ == "__main__":
    main()
