"""Our principal components against MLlib's, on the same features in the same run.

    .venv/bin/python -m benchmarks.pca --images 41620 --dim 2048 --components 64 --rounds 3

Each round gives both a fresh Spark session of the same settings and times from reading the features to
having the components, without the session's start. MLlib's is pyspark.ml.feature.PCA.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import measuring
from benchmarks.measuring import HOME, median

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DRIVER_MEMORY = "8g"  # MLlib holds its covariance several times in the driver
ROWS_A_FILE = 1_024
STRONG = 128  # directions with variance of their own; the rest is noise
Array = np.ndarray[Any, Any]
Found = tuple[Array, Array]  # components (k, dim), shares of the variance (k,)


def write_features(folder: Path, rows: int, dim: int) -> None:
    """Features as a backbone gives them in kind: float32, means off zero, variance that falls off, so
    that each component stands clear of the next and both answers can be compared one by one.
    """
    rng = np.random.default_rng(0)
    strong = min(STRONG, dim)
    directions = (
        np.linalg.qr(rng.normal(size=(dim, strong)))[0].T * 10 * 0.97 ** np.arange(strong)[:, None]
    )
    mean = rng.uniform(0, 1, dim)
    folder.mkdir(parents=True)
    for start in range(0, rows, ROWS_A_FILE):
        count = min(ROWS_A_FILE, rows - start)
        features = (
            rng.normal(size=(count, strong)) @ directions + mean + rng.normal(0, 0.1, (count, dim))
        )
        offsets = np.arange(0, (count + 1) * dim, dim, dtype=np.int32)
        ids = [f"{row:064x}" for row in range(start, start + count)]
        lists = pa.ListArray.from_arrays(offsets, features.astype(np.float32).ravel())
        pq.write_table(
            pa.table({"image_id": ids, "embedding": lists}), folder / f"{start:06d}.parquet"
        )


def ours(session: "SparkSession", folder: Path, components: int) -> Found:
    """As the reduce job does it: moments summed by the workers, one eigen-decomposition."""
    from sightline import embeddings, principal_components
    from sightline.config import ReduceSpec

    files = sorted(str(path) for path in folder.iterdir())
    shift = embeddings.first_embedding(files)
    with tempfile.TemporaryDirectory() as folder_of_sums:
        every = embeddings.whole_files(session, files)
        (summed,) = embeddings.sum_features(every, shift, folder_of_sums).values()
        moments = embeddings.read_moments(summed, dim=len(shift))
    pca = principal_components.fit_pca(moments, shift, ReduceSpec(components=components))
    return pca.components, pca.explained_variance_ratio


def mllib(session: "SparkSession", folder: Path, components: int) -> Found:
    """As MLlib's documentation has it; its vectors are made of our lists."""
    from pyspark.ml.feature import PCA
    from pyspark.ml.functions import array_to_vector

    features = session.read.parquet(f"file://{folder}")
    vectors = features.select(array_to_vector(features["embedding"]).alias("features"))
    fitted = PCA(k=components, inputCol="features", outputCol="reduced").fit(vectors)
    return fitted.pc.toArray().T, fitted.explainedVariance.toArray()


WAYS: dict[str, Callable[["SparkSession", Path, int], Found]] = {
    "Sightline": ours,
    "MLlib PCA": mllib,
}


def run_one(way: str, folder: Path, components: int) -> None:
    """One way in a session of its own; leaves what it found beside the features."""
    from sightline.spark import start_session

    session = start_session("pca")
    began = time.monotonic()
    found = WAYS[way](session, folder, components)
    seconds = time.monotonic() - began
    np.savez(found_file(folder, way), components=found[0], ratios=found[1])
    session.stop()
    print(json.dumps({"seconds": seconds}))


def run_way(way: str, folder: Path, components: int) -> tuple[float, int]:
    """Seconds and peak bytes of `run_one` in a process of its own."""
    submit = f"--driver-memory {DRIVER_MEMORY} --conf spark.driver.maxResultSize=0 pyspark-shell"
    path = f"{HOME / 'include'}{os.pathsep}{HOME}"
    environment = {**os.environ, "PYSPARK_SUBMIT_ARGS": submit, "PYTHONPATH": path}
    command = [sys.executable, "-m", "benchmarks.pca", "--one", way, str(folder)]
    command += ["--components", str(components)]
    done = measuring.run(command, environment, folder.parent)
    return json.loads(done.said.splitlines()[-1])["seconds"], done.peak_bytes


def found_file(folder: Path, way: str) -> Path:
    """Where a way leaves its components."""
    return folder.parent / f"{way.split()[0]}.npz"


def largest_differences(folder: Path) -> dict[str, float]:
    """Between the two answers: of any entry of a component, up to its sign, and of a share."""
    first, second = (np.load(found_file(folder, way)) for way in WAYS)
    signs = np.sign((first["components"] * second["components"]).sum(axis=1))
    components = first["components"] - signs[:, None] * second["components"]
    return {
        "components_difference": float(np.abs(components).max()),
        "variance_difference": float(np.abs(first["ratios"] - second["ratios"]).max()),
    }


def main() -> None:
    """Write the features once, then let both fit them in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    sizes = {"images": 41_620, "dim": 2_048, "components": 64, "rounds": 3}
    asked = measuring.add_arguments(parser, **sizes)
    if asked.one:
        run_one(asked.one[0], Path(asked.one[1]), asked.components)
        return
    asked.workplace.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.workplace) as name:
        folder = Path(name) / "features"
        write_features(folder, asked.images, asked.dim)
        ways = {way: partial(run_way, way, folder, asked.components) for way in WAYS}
        found = measuring.in_turns(ways, asked.rounds)
        differences = largest_differences(folder)
    seconds = {way: median(one for one, _ in runs) for way, runs in found.items()}
    rows = [
        {
            "system": way,
            "seconds": round(seconds[way], 2),
            "times_faster_than_mllib": round(seconds["MLlib PCA"] / seconds[way], 2),
            "images_per_second": round(asked.images / seconds[way], 1),
            "peak_rss_bytes": int(median(peak for _, peak in found[way])),
        }
        for way in WAYS
    ]
    shape = {name: getattr(asked, name) for name in sizes}
    measuring.write_results(asked.results, rows, measuring.our_versions(), **shape, **differences)


if __name__ == "__main__":
    main()
