"""What a night costs that finds nothing, one, 1 % or 10 % new, against the first night of all photos.

    .venv/bin/python -m benchmarks.night --photos 4000

A night is what the ingest DAG does from listing to featurizing, its looks whether Spark is needed
included, each step a process of its own; Airflow's own seconds a task are not in it. The night with one
new photo is the fixed cost of any night that has something to do.
"""

from math import ceil
from typing import Any

from benchmarks import measuring, photos
from benchmarks.sightline_jobs import JobRun, Workplace

SHARES = (0.01, 0.1)  # new photos, of those of the first night


def run_night(place: Workplace, partition: str) -> tuple[list[JobRun], int]:
    """The steps of a night, and how many of them started Spark: those that had something to do."""
    steps, started = [place.list_images(partition)], 0
    for task in ("fetch_images", "featurize"):
        steps.append(place.look(task, partition))
        if steps[-1].counts == "None":
            steps.append(place.submit(task, partition))
            started += 1
    return steps, started


def describe(name: str, new: int, steps: list[JobRun], started: int) -> dict[str, Any]:
    """A night as a row; its start is what processes and JVMs take before they work, and to end."""
    seconds = sum(step.seconds for step in steps)
    work = sum(step.seconds_without_start for step in steps)
    return {
        "system": name,
        "images": new,
        "images_per_second": round(new / seconds, 1),
        "spark_jobs": started,
        "seconds": round(seconds, 1),
        "start_seconds": round(seconds - work, 1),
        "work_seconds": round(work, 1),
        "peak_rss_bytes": max(step.peak_bytes for step in steps),
    }


def main() -> None:
    """One night after the other on the same tables, each with its new photos."""
    asked = measuring.parse_arguments(__doc__, photos=4_000)
    place, made = Workplace(asked.workplace / "night"), asked.workplace / "made"
    folder = place.write_folder_dataset()
    nights = [("the first night, all new", asked.photos)]
    nights += [("a night with nothing new", 0), ("a night with one new photo", 1)]
    nights += [(f"a night with {share:.0%} new", ceil(share * asked.photos)) for share in SHARES]
    photos.make(made, sum(new for _, new in nights))
    rows: list[dict[str, Any]] = []
    held = 0
    for number, (name, new) in enumerate(nights, 1):
        photos.take(made, range(held, held + new), folder)
        held += new
        rows.append(describe(name, new, *run_night(place, f"2026-01-{number:02d}")))
        print(rows[-1], flush=True)
    place.forget("")
    full, _, fixed = (row["seconds"] for row in rows[:3])
    for row in rows:
        row["share_of_full"] = round(row["seconds"] / full, 4)
        row["share_beyond_fixed"] = round(max(0.0, row["seconds"] - fixed) / full, 4)
    measuring.write_results(asked.results, rows, measuring.our_versions())


if __name__ == "__main__":
    main()
