"""The tables of docs/scale.md, from benchmarks/results: what a plan says at four sizes, and the simulation.

.venv/bin/python -m benchmarks.scale_page
"""

import math
import re
from dataclasses import replace
from pathlib import Path

from benchmarks.measuring import HOME, RESULTS
from sightline.config import DatasetSpec
from sightline.planning import Cluster, Measured, Prices, choose_instance, make_plan, read_measured
from sightline.planning.parts import (
    Size,
    chunks_at_once,
    commit_seconds,
    featurize_course,
    fetch_course,
)
from sightline.planning.plan import Planned
from sightline.planning.simulation import Outcome, Stage, simulate

PAGE = HOME / "docs" / "scale.md"
SIZES = (1e6, 1e7, 1e8, 1e9)
SPEC = DatasetSpec.model_validate(
    {"name": "photos", "source": {"type": "digits"}, "backbone": {"name": "resnet18"}}
)
PHOTOS = Size(1e6, 300_000, 512, 512, 1_000, "resnet18")
CLUSTER = Cluster(choose_instance("m7i.4xlarge"), 20)
EXECUTORS = (1, 4, 16, 64, 256)
LOST = 200  # a task in so many
MEASURED_ROWS = 1e6  # beyond which a commit is a formula's word


def make_tables(results: Path = RESULTS) -> dict[str, str]:
    """By the name of their place on the page."""
    measured = read_measured(results)
    return {
        "stages": _stages(measured),
        "money": _money(measured),
        "commits": _commits(measured),
        "simulation": _simulation(measured),
    }


def make_page(text: str, tables: dict[str, str]) -> str:
    """The page with its tables exchanged; each stands between two comments that name it."""
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        text = pattern.sub(lambda _, whole=f"{begin}\n{table}\n{end}": whole, text)  # type: ignore[misc]
    return text


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _stages(measured: Measured) -> str:
    plans = [
        make_plan(SPEC, replace(PHOTOS, images=images), CLUSTER, measured, Prices())
        for images in SIZES
    ]
    rows = [
        [
            f"`{parts[0].name}`",
            *(_need(part) for part in parts),
            _limit(parts[0]),
        ]
        for parts in zip(*(plan.parts for plan in plans), strict=True)
    ]
    return _table(
        ["stage", *(f"{images:.0e}".replace("e+0", "e") for images in SIZES), "outgrown beyond"],
        rows,
    )


def _need(part: Planned) -> str:
    memory = f"{part.need.memory_bytes / 2**30:,.0f} GiB"
    return memory if part.name == "train" else f"{_hours(part.need.hours)}, {memory}"


def _hours(hours: float) -> str:
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:,.0f} h"


def _limit(part: Planned) -> str:
    return "-" if math.isinf(part.most_images) else f"{part.most_images:.1e} ({part.outgrows})"


def _money(measured: Measured) -> str:
    rows = []
    for images in SIZES:
        plan = make_plan(SPEC, replace(PHOTOS, images=images), CLUSTER, measured, Prices())
        hours = sum(part.need.hours for part in plan.parts if part.on_executors)
        money = plan.dollars
        rows.append(
            [
                f"{images:,.0f}",
                _hours(hours),
                f"{sum(plan.storage_bytes.values()) / 1e12:,.1f} TB",
                f"${money['instances'] + money['EMR on top']:,.0f}",
                f"${money['or EMR Serverless']:,.0f}",
                f"${money['storage, a month']:,.0f}",
            ]
        )
    headings = ["images", "executors' hours", "storage", "EMR", "or EMR Serverless", "S3, a month"]
    return _table(headings, rows)


def _commits(measured: Measured) -> str:
    rows = []
    for images in SIZES:
        size = replace(PHOTOS, images=images)
        last = measured.commit.at(images, size.chunks)
        rows.append(
            [
                f"{images:,.0f}",
                f"{size.chunks:,.0f}",
                f"{images / size.chunks:,.0f}",
                f"{last:,.1f} s",
                _hours(commit_seconds(size, measured) / 3_600),
            ]
        )
    headings = ["images", "commits", "images of each", "the last takes", "all, one after another"]
    return _table(headings, rows)


def _simulation(measured: Measured) -> str:
    rows = []
    for executors in EXECUTORS:
        cluster = Cluster(choose_instance("m7i.xlarge"), executors)
        cells = [f"{executors:,} ({cluster.cores:,} cores)"]
        for course_of in (fetch_course, featurize_course):
            course = course_of(PHOTOS, cluster, measured)
            parts = round(course.tasks_at_once / chunks_at_once(cluster))
            found = _simulate(measured, cluster, course.work_seconds, parts)
            cells += [
                _hours(course.seconds / 3_600),
                _hours(found.seconds / 3_600),
                f"{100 * found.busy:.0f} %",
            ]
        rows.append(cells)
    stage = ["formula", "simulated", "cores busy"]
    headings = [
        "executors",
        *(f"fetch: {name}" for name in stage),
        *(f"featurize: {name}" for name in stage),
    ]
    return _table(headings, rows)


def _simulate(measured: Measured, cluster: Cluster, work_seconds: float, parts: int) -> Outcome:
    chunks = int(PHOTOS.chunks)
    return simulate(
        Stage(
            chunks=chunks,
            parts=parts,
            task_seconds=work_seconds / chunks / parts,
            chunks_at_once=chunks_at_once(cluster),
            cores=cluster.cores,
            commit_seconds=lambda held: measured.commit.at(held * PHOTOS.images_per_commit, held),
            tasks_a_loss=LOST,
        )
    )


if __name__ == "__main__":
    PAGE.write_text(make_page(PAGE.read_text(), make_tables()))
