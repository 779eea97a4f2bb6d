"""docs/benchmarks.md and its plots, from benchmarks/results: nothing on that page is written by hand.

.venv/bin/python -m benchmarks.plots
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import svg
from benchmarks.measuring import HOME, RESULTS

Rows = list[dict[str, Any]]
PAGE = "docs/benchmarks.md"
IMAGES = "docs/images"
PREFIX = "benchmark-"  # of the plots' names, so that old ones are found

INTRODUCTION = """# Benchmarks

Everything here is made by `make bench` from `benchmarks/results/*.json`; `make bench ARGS="night pca"`
runs some of it. Each part names its command, machine, versions and date. Figures are medians; systems
that are compared ran in turns in one run. Memory is of all processes of a system together, a page that
several share counted once (PSS), sampled twice a second.
"""


def number(value: Any) -> str:
    """A figure."""
    return svg.shown(float(value))


def count(value: Any) -> str:
    """A whole number."""
    return f"{value:,}"


def gibibytes(value: Any) -> str:
    """Bytes."""
    return f"{value / 2**30:.2f} GiB"


def percent(value: Any) -> str:
    """A share."""
    return f"{100 * value:.3g} %"


def milliseconds(value: Any) -> str:
    """Seconds, where they are small."""
    return f"{1000 * value:.3g} ms"


Column = tuple[str, str, Callable[[Any], str]]  # key of a row, heading, format
MEMORY: Column = ("peak_rss_bytes", "peak memory", gibibytes)


def throughput_plots(result: dict[str, Any]) -> dict[str, str]:
    """Systems against the limit, a plot a backbone."""
    plots = {}
    for backbone in dict.fromkeys(row["backbone"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["backbone"] == backbone]
        speeds = {
            row["system"]: row["images_per_second"] for row in rows if "images_per_second" in row
        }
        limit = speeds.pop("limit")
        title = f"Featurizing with {backbone}, without start-up"
        plots[backbone] = svg.bars(title, speeds, "images a second", limit)
    return plots


def memory_plots(result: dict[str, Any]) -> dict[str, str]:
    """Peak memory against the number of photos, a line a job."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in result["rows"]:
        series.setdefault(row["system"], []).append((row["images"], row["peak_rss_bytes"] / 2**30))
    return {"peak": svg.lines("Peak memory of all processes (GiB)", "photos", series)}


def bar_plots(key: str, title: str, unit: str) -> Callable[[dict[str, Any]], dict[str, str]]:
    """One figure of each row."""

    def plots(result: dict[str, Any]) -> dict[str, str]:
        values = {row["system"]: row[key] for row in result["rows"] if key in row}
        return {"bars": svg.bars(title, values, unit)} if values else {}

    return plots


@dataclass(frozen=True)
class Section:
    """A benchmark on the page; rows of a table are those that have all of its first two columns."""

    title: str
    about: str
    tables: tuple[tuple[Column, ...], ...]
    plots: Callable[[dict[str, Any]], dict[str, str]]


SECTIONS = {
    "throughput": Section(
        "Throughput",
        "The featurize job against the limit of the cores and against peers, each set up as its "
        "documentation shows. The limit is cores / (core-seconds of decoding + of the network, for an "
        "image), each part the fastest of the ways in the second table.",
        (
            (
                ("backbone", "backbone", str),
                ("images_per_second", "images/s", number),
                ("images_per_second_with_start", "images/s with start-up", number),
                ("ratio_to_limit", "of the limit", percent),
                MEMORY,
            ),
            (
                ("backbone", "backbone", str),
                ("core_seconds", "a core's time an image", milliseconds),
            ),
        ),
        throughput_plots,
    ),
    "memory": Section(
        "Memory",
        "A folder of photos through ingest and featurizing, at growing size.",
        (
            (
                ("images", "photos", count),
                ("images_per_second", "images/s with start-up", number),
                ("images_per_second_without_start", "without", number),
                MEMORY,
                ("ratio_to_first", "of the smallest run's", percent),
            ),
        ),
        memory_plots,
    ),
    "night": Section(
        "A night",
        "From listing to features, against the first night of all photos. A night with one new photo is "
        "the fixed cost of having anything to do; the last column is what comes on top of it.",
        (
            (
                ("images", "new photos", count),
                ("spark_jobs", "Spark jobs", count),
                ("seconds", "seconds", number),
                ("start_seconds", "of them starting processes", number),
                ("share_of_full", "of the first night", percent),
                ("share_beyond_fixed", "of it, beyond the fixed cost", percent),
            ),
        ),
        bar_plots("seconds", "A night from listing to features", "seconds"),
    ),
    "pca": Section(
        "PCA",
        "Fitting principal components, from reading the features on, without the session's start.",
        (
            (
                ("seconds", "seconds", number),
                ("times_faster_than_mllib", "times as fast as MLlib", number),
                MEMORY,
            ),
        ),
        bar_plots("seconds", "Fitting principal components", "seconds"),
    ),
    "spark_overhead": Section(
        "Spark's own cost",
        "What a Spark task costs before it works, and what is done about it: a JVM without the last "
        "compiler and with the serial collector, Spark's classes from an archive that is made once, and "
        "torch imported once in the process that Python workers are forked from.",
        (
            (
                ("total_seconds", "whole program (s)", number),
                ("session_seconds", "session (s)", number),
                ("first_job_seconds", "first job (s)", number),
                ("first_python_job_seconds", "first Python job (s)", number),
                ("first_torch_job_seconds", "first with torch (s)", number),
                ("small_job_seconds", "a small job", milliseconds),
                ("small_python_job_seconds", "a small Python job", milliseconds),
                MEMORY,
            ),
        ),
        bar_plots("total_seconds", "A program of a few small jobs", "seconds"),
    ),
    "fetch": Section(
        "Fetching",
        "fetch_images against img2dataset, from one server on the same machine; img2dataset does not say "
        "what its start takes.",
        (
            (
                ("images_per_second_with_start", "images/s with start-up", number),
                ("images_per_second", "images/s without", number),
                MEMORY,
            ),
        ),
        bar_plots("images_per_second_with_start", "Fetching, with start-up", "images a second"),
    ),
    "gpu": Section(
        "GPU",
        "From JPEG bytes to features in host memory, and the network alone, in bf16.",
        (
            (
                ("images_per_second", "images/s from JPEG bytes", number),
                ("forward_images_per_second", "images/s of the network alone", number),
            ),
        ),
        bar_plots("images_per_second", "On a GPU, from JPEG bytes", "images a second"),
    ),
}  # fmt: skip


def make_page(results: Path = RESULTS) -> dict[str, str]:
    """Text of the page and of each plot by their path in the repository."""
    files, parts = {}, [INTRODUCTION]
    for name, section in SECTIONS.items():
        parts.append(f"## {section.title}\n\n{section.about}\n")
        path = results / f"{name}.json"
        if not path.exists():
            parts.append(f"Not measured yet: `make bench ARGS={name}`.\n")
            continue
        result = json.loads(path.read_text())
        plots = section.plots(result)
        for plot, text in plots.items():
            image = f"{PREFIX}{name}-{plot}.svg"
            files[f"{IMAGES}/{image}"] = text
            parts.append(f"![{section.title}](images/{image})\n")
        parts += [
            table for columns in section.tables if (table := make_table(result["rows"], columns))
        ]
        parts += [not_measured(result["rows"]), provenance(result)]
    return {**files, PAGE: "\n".join(part for part in parts if part)}


def make_table(rows: Rows, columns: Iterable[Column]) -> str:
    """The rows that have the table's first two figures; empty where none has."""
    keys = [key for key, _, _ in columns]
    shown = [row for row in rows if all(key in row for key in keys[:2])]
    if not shown:
        return ""
    lines = ["|  | " + " | ".join(heading for _, heading, _ in columns) + " |"]
    lines.append("|---|" + "---:|" * len(keys))
    for row in shown:
        cells = [form(row[key]) if key in row else "" for key, _, form in columns]
        lines.append(f"| {row['system']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def not_measured(rows: Rows) -> str:
    """What could not be measured, and why."""
    lines = [f"- {row['system']}: {row['not_measured']}" for row in rows if "not_measured" in row]
    return "\n".join(dict.fromkeys(lines)) + "\n" if lines else ""


def provenance(result: dict[str, Any]) -> str:
    """Command, machine, settings, versions and date."""
    machine = result["machine"]
    facts = {
        name: value
        for name, value in result.items()
        if name not in ("name", "command", "machine", "versions", "date", "rows", "peers")
    }
    lines = [
        f"`{result['command']}`, {result['date']}",
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}), "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}",
        "versions: " + in_words(result["versions"]),
    ]
    if "peers" in result:
        lines.append("peers: " + in_words(result["peers"]))
    if facts:
        lines.append("settings: " + in_words(facts))
    return "\n".join(f"- {line}" for line in lines) + "\n"


def in_words(facts: dict[str, Any]) -> str:
    """Names and values in a line."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())


def write(home: Path = HOME, results: Path = RESULTS) -> None:
    """Write the page with its plots; plots of results that are gone go, too."""
    files = make_page(results)
    for old in (home / IMAGES).glob(f"{PREFIX}*.svg"):
        old.unlink()
    for path, text in files.items():
        (home / path).write_text(text)


if __name__ == "__main__":
    write()
