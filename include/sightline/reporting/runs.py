"""Sections about the runs: what each task took, and what the model was made from."""

from typing import Any

from sightline import tables
from sightline.reporting.formats import number, parameters, percent, place, size
from sightline.reporting.report_input import ReportInput

# What a task's counts say of its work: the first phrase always, the others where they are not 0.
COUNTED = {
    "list_images": {
        "listed": "listed",
        "taken_down": "left out, for they were taken down",
        "withdrawn": "withdrawn for their licence",
    },
    "fetch_images": {
        "images": "taken",
        "held_before": "known, not fetched again",
        "rejects": "rejected",
        "duplicates": "held under another name",
        "conflicts": "of them with another label",
    },
    "inspect_images": {"issues": "issues", "near_duplicate": "near-duplicates"},
    "featurize": {"featurized": "featurized", "known": "known, not computed again"},
    "split": {
        "train": "train",
        "val": "val",
        "test": "test",
        "new": "new",
        "set_aside": "set aside",
        "straddling": "groups of near-copies straddle splits",
    },
    "measure_drift": {"images": "new images", "warnings": "numbers warn"},
    "audit_labels": {
        "judged": "labels judged",
        "label_issues": "suspicious",
        "outliers": "like no other",
        "conflicts": "in conflict and left out",
        "excluded": "suspicious ones left out",
    },
    "reduce": {"components": "components"},
    "train": {"rows": "rows"},
    "evaluate": {"rows": "test images"},
}
CHECKED = {"rows": "rows", "checks": "checks"}  # of every validate_* task
RATES = {"fetch_images": "images", "featurize": "featurized"}  # which count makes images a second


def timings(report: ReportInput) -> dict[str, Any]:
    """Seconds of each task of the two runs, with images a second where images were counted."""
    parts = [
        ("Last ingest", report.ingest_records(), "No record of an ingest run is held."),
        ("Training", report.train_records(), "No record of this training run is held."),
    ]
    slowest = max((record["seconds"] for _, records, _ in parts for record in records), default=0)
    return {
        "runs": [
            {
                "title": title,
                "absent": absent,
                "tasks": [describe_task(record) for record in records],
                "started_at": records[0]["started_at"] if records else None,
                "partition": records[0]["partition"] if records else None,
                "seconds": sum(record["seconds"] for record in records),
            }
            for title, records, absent in parts
        ],
        "slowest": slowest or 1,
    }


def describe_task(record: dict[str, Any]) -> dict[str, Any]:
    """A task in words: its name, seconds, images a second where they were counted, and what it counted."""
    counts = record["counts"]
    done = counts.get(RATES.get(record["task"], ""), 0)
    return {
        "name": record["task"],
        "seconds": record["seconds"],
        "images_per_second": done / record["seconds"] if done and record["seconds"] else None,
        "note": _note(record["task"], counts),
    }


def _note(task: str, counts: dict[str, Any]) -> str:
    if "skipped" in counts:
        return f"skipped: {counts['skipped']}"
    phrases = CHECKED if task.startswith("validate_") else COUNTED.get(task, {})
    said = [
        f"{number(counts[key])} {phrase}"
        for index, (key, phrase) in enumerate(phrases.items())
        if counts.get(key) or (index == 0 and key in counts)
    ]
    if counts.get("bytes"):
        said.append(size(counts["bytes"]))
    if counts.get("explained_variance"):
        said.append(f"{percent(counts['explained_variance'])} of the variance")
    return ", ".join(said)


def provenance(report: ReportInput) -> dict[str, Any]:
    """Table versions, parameters, seeds and the grid tried."""
    model = report.model
    versions, head = model["tables"], model.get("head") or {}  # a fine-tuned network has no head
    return {
        "tables": [
            {
                "name": table.name,
                "version": versions[table.name],
                "rows": tables.count_rows(table, versions[table.name]),
            }
            for table in report.catalog.tables
            if table.name in versions
        ],
        "grid": _grid(head) if head else [],
        "parameters": [("seed of this run", str(model["seed"])), *describe_settings(model["spec"])],
        "rows": model["rows"],
    }


def _grid(head: dict[str, Any]) -> list[dict[str, Any]]:
    """What was tried, weakest first: its parameters in words, its scores, and which was chosen."""
    rows = []
    for tried in head["grid"]:
        scores = {"accuracy": tried["accuracy"], "log_loss": tried.get("log_loss")}
        entry = {name: value for name, value in tried.items() if name not in scores}
        rows.append({"tried": entry, **scores, "chosen": entry == head["parameters"]})
    ordered = sorted(rows, key=lambda row: list(row["tried"].values()))
    return [{**row, "tried": parameters(row["tried"])} for row in ordered]


def describe_settings(spec: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The dataset file flattened, one line a value; of free options only the names are shown."""
    lines: list[tuple[str, str]] = []
    for key, value in spec.items():
        if not prefix and key in ("name", "description"):
            continue
        if isinstance(value, dict) and key == "options":
            lines.append((f"{prefix}{key}", ", ".join(value) or "none"))
        elif isinstance(value, dict):
            lines += describe_settings(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", _shown(value)))
    return lines


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(one) for one in value)
    return place(value) if isinstance(value, str) else str(value)
