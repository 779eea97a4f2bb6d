"""Peak memory and speed of an ingest and its featurizing, against the number of photos.

    .venv/bin/python -m benchmarks.memory --photos 4000 12000 41620 --backbone resnet18

The last is Open Images' validation set at its real size. Peak is of all processes of a job together.
"""

import argparse
from typing import Any

from benchmarks import measuring, photos
from benchmarks.sightline_jobs import JobRun, Workplace


def ingest(place: Workplace, made: Any, count: int, backbone: str) -> dict[str, JobRun]:
    """List, fetch and featurize so many photos into empty tables, which are deleted in the end."""
    photos.take(made, range(count), place.write_folder_dataset(backbone))
    runs = {"list_images": place.list_images()}
    for task in ("fetch_images", "featurize"):
        runs[task] = place.submit(task)
    place.forget("")  # else the next size would need the disk of both
    return runs


def main() -> None:
    """Run every size once, the smallest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[4_000, 12_000, 41_620])
    parser.add_argument("--backbone", default="resnet18")
    asked = measuring.add_arguments(parser)
    made = asked.workplace / "made"
    photos.make(made, max(asked.photos))
    place = Workplace(asked.workplace / "memory")
    rows: list[dict[str, Any]] = []
    first: dict[str, int] = {}
    for count in sorted(asked.photos):
        for task, job in ingest(place, made, count, asked.backbone).items():
            rows.append(
                {
                    "system": task,
                    "images": count,
                    "images_per_second": round(count / job.seconds, 1),
                    "images_per_second_without_start": round(
                        count / max(job.seconds_without_start, 0.1), 1
                    ),
                    "seconds": round(job.seconds, 1),
                    "peak_rss_bytes": job.peak_bytes,
                    "ratio_to_first": round(
                        job.peak_bytes / first.setdefault(task, job.peak_bytes or 1), 3
                    ),
                }
            )
            print(rows[-1], flush=True)
    measuring.write_results(asked.results, rows, measuring.our_versions(), backbone=asked.backbone)


if __name__ == "__main__":
    main()
