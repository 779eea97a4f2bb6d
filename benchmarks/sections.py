"""What docs/benchmarks.md shows of each benchmark: its words, its tables' columns, its plots."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from benchmarks import svg


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


def no_plots(result: dict[str, Any]) -> dict[str, str]:
    """Of figures that a table shows well enough."""
    return {}


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


def serving_plots(result: dict[str, Any]) -> dict[str, str]:
    """Memory held against the number of photos answered."""
    rows = [row for row in result["rows"] if "held_bytes" in row]
    answered = accumulate(row["images"] for row in rows)
    held = [row["held_bytes"] / 2**30 for row in rows]
    points = {"server and predictor": list(zip(answered, held, strict=True))}
    return {"memory": svg.lines("Memory held while photos are answered (GiB)", "photos", points)}


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
    "cluster": Section(
        "Workers of a cluster",
        "featurize on Spark's standalone workers, each bound to one core, the driver beside them: two "
        "against one, without the start of Spark; at work: from the first images that the job has counted to "
        "its last, without the start of its executors and their torch as well.",
        (
            (
                ("images_per_second", "images/s", number),
                ("times_one_worker", "times as fast as one", number),
                ("images_per_second_at_work", "images/s at work", number),
                ("times_one_worker_at_work", "times as fast at work", number),
                ("images_per_second_with_start", "images/s with start-up", number),
            ),
        ),
        bar_plots("images_per_second", "Featurizing on a cluster", "images a second"),
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
    "training": Section(
        "Training",
        "ResNet-18 learns scikit-learn's digits, all layers, from the same random weights, anew in each "
        "round: fine-tuning in bf16 and in fp32, beside a plain fp32 loop. The accuracy is that of the test "
        "split, the mean over the rounds.",
        (
            (
                ("images_per_second", "images/s", number),
                ("times_plain", "times as fast as the plain loop", number),
                ("accuracy", "accuracy", percent),
                MEMORY,
            ),
        ),
        bar_plots("images_per_second", "Training ResNet-18", "images a second"),
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
                MEMORY,
                ("images_per_second", "images/s without the JVM's start", number),
            ),
        ),
        bar_plots("images_per_second_with_start", "Fetching, with start-up", "images a second"),
    ),
    "scale": Section(
        "What grows with a table",
        "A commit of 1,000 new rows to a table that holds so many in so many files: alone, and one of nine "
        "threads that commit at once. And the split of so many images, all new. [scale.md](scale.md) says "
        "what follows for a thousand million of them.",
        (
            (
                ("images", "rows held", count),
                ("files", "files", count),
                ("seconds", "seconds", number),
                ("seconds_of_many", "seconds, one of nine", number),
                MEMORY,
            ),
        ),
        no_plots,
    ),
    "near_duplicates": Section(
        "Near-duplicates",
        "Finding and grouping near-duplicates by the hashes of each image and of ten crops of it, mirrored "
        "copies too, in one process. The hashes are made up, unevenly as real ones are, with copies of a "
        "hundredth of the images.",
        (
            (
                ("seconds", "seconds", number),
                ("copies_found", "planted copies found", percent),
                ("in_groups", "images in groups", count),
                ("planted", "of them planted", count),
                ("largest_group", "largest group", count),
                MEMORY,
            ),
        ),
        bar_plots("seconds", "Grouping near-duplicates", "seconds"),
    ),
    "gallery": Section(
        "Pages at 100,000 images",
        "What the server takes for pages of a dataset of 100,000 images in twenty nights: the first time, "
        "when the process has just begun and remembers nothing, and the median of twenty times after it. "
        "The memory is that of the whole server in the end.",
        (
            (
                ("first_seconds", "first time", milliseconds),
                ("median_seconds", "again", milliseconds),
                ("slowest_seconds", "slowest of twenty", milliseconds),
                MEMORY,
            ),
        ),
        bar_plots("first_seconds", "Pages at 100,000 images, the first time", "seconds"),
    ),
    "serving": Section(
        "Photos handed in",
        "`sightline serve` and its predictor: photos of 1,024 pixels by HTTP, answered by a head on "
        "ResNet-18 with what the model sees and the six nearest of 200 training photos, whose thumbnails it "
        "keeps; the first row's all at once, then four at once. One process answers, on one core. Memory is "
        "of the server and its predictor after these photos.",
        (
            (
                ("images", "photos", count),
                ("errors", "errors", count),
                ("images_per_second", "photos/s", number),
                ("median_seconds", "median (s)", number),
                ("slowest_seconds", "slowest (s)", number),
                ("held_bytes", "memory held", gibibytes),
                ("ratio_to_first", "of the first", percent),
            ),
        ),
        serving_plots,
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
