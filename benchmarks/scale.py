"""What grows with the images that a table holds: a commit, many commits at once, and the split of them all.

    .venv/bin/python -m benchmarks.scale --images 1000000

No picture is decoded: the tables hold ids and made-up hashes, and what is measured reads nothing else. A
plan (`sightline plan`) and docs/scale.md stand on these figures.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import measuring
from benchmarks.measuring import HOME
from benchmarks.near_duplicates import make_views

COMMIT_ROWS = 1_000
COMMITS = 5
AT_ONCE = 9  # as spark.run_chunks works on eight cores
HELD = "made-up"  # the features' backbone


def measure_commit(images: int, files: int) -> dict[str, Any]:
    """Seconds of a commit of new features, alone and with others, on a table that holds so many."""
    from sightline import tables
    from sightline.catalog import open_catalog
    from sightline.tables import Writer

    table, rng = open_catalog("made_up").features, np.random.default_rng(images + files)

    def written(rows: int) -> list[str]:
        return tables.write_batches(table, [_features(rng, rows)])

    held = [url for _ in range(files) for url in written(images // files)]
    tables.replace_partition(table, held, HELD, tables.claim(table, Writer("held")))

    def commit(urls: list[str]) -> float:
        began = time.monotonic()
        tables.append_new(table, urls, HELD, Writer("new"))
        return time.monotonic() - began

    alone = measuring.median([commit(written(COMMIT_ROWS)) for _ in range(COMMITS)])
    many = [written(COMMIT_ROWS) for _ in range(AT_ONCE)]
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(commit, many))
    together = (time.monotonic() - began) / AT_ONCE
    return {"seconds": round(alone, 4), "seconds_of_many": round(together, 4)}


def measure_split(images: int, files: int) -> dict[str, Any]:
    """Seconds in which so many images get their splits, all of them new."""
    from sightline import splitting, tables
    from sightline.catalog import open_catalog
    from sightline.config import DatasetSpec
    from sightline.ledger import Record, TaskRun
    from sightline.tables import Writer

    spec = DatasetSpec.model_validate({"name": "made_up", "source": {"type": "digits"}})
    catalog = open_catalog(spec.name)
    views, _ = make_views(images)
    rng, each = np.random.default_rng(0), images // files
    urls = [
        url
        for start in range(0, images, each)
        for url in tables.write_batches(catalog.images, [_images(rng, views[start : start + each])])
    ]
    held = tables.claim(catalog.images, Writer("held"))
    tables.replace_partition(catalog.images, urls, "all", held)
    del views
    task = TaskRun("train_made_up", "run", "split", "all")
    began = time.monotonic()
    splitting.split_images(spec, catalog, task, Record("split", "", "", "all", ""))
    return {"seconds": round(time.monotonic() - began, 1)}


def _ids(rng: np.random.Generator, rows: int) -> list[str]:
    content = rng.bytes(32 * rows).hex()
    return [content[start : start + 64] for start in range(0, len(content), 64)]


def _features(rng: np.random.Generator, rows: int) -> pa.RecordBatch:
    from sightline.schemas import FEATURES

    embeddings = pa.array([[0.0]] * rows, pa.list_(pa.float32()))
    columns = [pa.array(_ids(rng, rows)), pa.array([HELD] * rows), embeddings]
    return pa.RecordBatch.from_arrays(columns, schema=FEATURES)


def _images(rng: np.random.Generator, views: np.ndarray[Any, Any]) -> pa.RecordBatch:
    from sightline.schemas import IMAGES

    rows, ids = len(views), _ids(rng, len(views))
    known: dict[str, Any] = {
        "image_id": ids,
        "uri": [f"mem://{one}" for one in ids],
        "phash": [one[:16] for one in ids],
        "view_hashes": [view.tobytes() for view in views],
        "label": ["a"] * rows,
    }
    made_up = {pa.string(): "all", pa.binary(): b""}
    columns = [
        pa.array(
            known.get(field.name, [None if field.nullable else made_up.get(field.type, 1)] * rows),
            field.type,
        )
        for field in IMAGES
    ]
    return pa.RecordBatch.from_arrays(columns, schema=IMAGES)


MEASURES: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "commit": measure_commit,
    "split": measure_split,
}


def main() -> None:
    """Each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = measuring.add_arguments(parser, images=1_000_000)
    if asked.one:
        name, images, files = asked.one
        print(json.dumps(MEASURES[name](int(images), int(files))))
        return
    most = asked.images
    sizes = [("commit", most // 10, most // 10_000), ("commit", most, most // 10_000),
             ("commit", most, most // 1_000), ("commit", most, most // 250),
             ("split", most // 10, 10), ("split", most, 100)]  # fmt: skip
    rows = [_run(asked.workplace, *size) for size in sizes]
    measuring.write_results(asked.results, rows, measuring.our_versions(), images=most)


def _run(workplace: Path, name: str, images: int, files: int) -> dict[str, Any]:
    workplace.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workplace) as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{HOME / 'include'}{os.pathsep}{HOME}",
            "SIGHTLINE_STORAGE": f"{folder}/data",
        }
        command = [sys.executable, "-m", "benchmarks.scale", "--one", name, images, files]
        done = measuring.run(command, environment, Path(folder))
    facts = json.loads(done.said.splitlines()[-1])
    row = {"system": name, "images": images, "files": files, **facts}
    print(row, flush=True)
    return {**row, "peak_rss_bytes": done.peak_bytes}


if __name__ == "__main__":
    main()
