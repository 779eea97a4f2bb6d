"""What the benchmarks have measured, as figures of one core: the base of every plan."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import ConfigError
from sightline.settings import load_settings

PCA_DIM = 2_048  # of the benchmark


@dataclass(frozen=True)
class Line:
    """Seconds or bytes that grow with the images: `fixed` + `each` for an image."""

    fixed: float
    each: float

    def at(self, images: float) -> float:
        """Of so many images."""
        return self.fixed + self.each * images


@dataclass(frozen=True)
class Commit:
    """Seconds of one commit that looks whether the table holds its keys already."""

    fixed: float
    each_file: float  # of the table
    each_row: float  # of the table

    def at(self, rows: float, files: float) -> float:
        """On a table of so many rows in so many files."""
        return self.fixed + self.each_file * files + self.each_row * rows


@dataclass(frozen=True)
class Measured:
    """Figures of the machine that was measured; rates are images a second of one core."""

    machine: str
    listing: float  # of the one process that lists
    fetching: float
    featurizing: dict[str, float]  # by backbone
    pca: float  # at PCA_DIM
    worker_bytes: float  # of a Python worker with its network
    commit: Commit
    near_duplicate_seconds: Line
    near_duplicate_bytes: Line
    split_seconds: Line
    split_bytes: Line


def results_folder() -> Path:
    """Where the results lie that come with the code."""
    return load_settings().home / "benchmarks" / "results"


def read_measured(folder: Path) -> Measured:
    """The figures of a folder of results; ConfigError where one is missing."""
    found = {name: _read(folder, name) for name in ("throughput", "memory", "pca", "scale")}
    alike = _read(folder, "near_duplicates")["rows"]
    cores = found["throughput"]["machine"]["cores"]
    largest = {row["system"]: row for row in found["memory"]["rows"]}  # the last is the largest
    ours = [row for row in found["throughput"]["rows"] if row["system"] == "Sightline"]
    splits = [row for row in found["scale"]["rows"] if row["system"] == "split"]
    return Measured(
        machine=f"{found['throughput']['machine']['cpu']}, {cores} cores",
        listing=largest["list_images"]["images_per_second_without_start"],
        fetching=largest["fetch_images"]["images_per_second_without_start"] / cores,
        featurizing={row["backbone"]: row["images_per_second"] / cores for row in ours},
        pca=_named(found["pca"], "Sightline")["images_per_second"] / cores,
        worker_bytes=max(row["peak_rss_bytes"] for row in ours) / cores,
        commit=_commit([row for row in found["scale"]["rows"] if row["system"] == "commit"]),
        near_duplicate_seconds=_line(alike, "seconds"),
        near_duplicate_bytes=_line(alike, "peak_rss_bytes"),
        split_seconds=_line(splits, "seconds"),
        split_bytes=_line(splits, "peak_rss_bytes"),
    )


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    if not path.exists():
        raise ConfigError(
            f"A plan needs what was measured, but {path} is missing; run `make bench ARGS={name}` or name "
            "another folder of results."
        )
    return dict(json.loads(path.read_text()))


def _named(result: dict[str, Any], system: str) -> dict[str, Any]:
    return dict(next(row for row in result["rows"] if row["system"] == system))


def _line(rows: list[dict[str, Any]], key: str) -> Line:
    """Through the smallest and the largest size."""
    first, last = (min(rows, key=_images), max(rows, key=_images))
    each = (last[key] - first[key]) / (last["images"] - first["images"])
    return Line(max(0.0, first[key] - each * first["images"]), each)


def _images(row: dict[str, Any]) -> int:
    return int(row["images"])


def _commit(rows: list[dict[str, Any]]) -> Commit:
    """Least squares, no cost below nothing; each measurement weighs by its relative error."""
    from scipy.optimize import nnls

    seconds = np.array([row["seconds"] for row in rows])
    sizes = np.array([[1.0, row["files"], row["images"]] for row in rows]) / seconds[:, None]
    fixed, each_file, each_row = nnls(sizes, np.ones(len(rows)))[0].tolist()
    return Commit(fixed, each_file, each_row)
