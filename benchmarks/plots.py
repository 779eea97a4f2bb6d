"""docs/benchmarks.md and its plots, from benchmarks/results: nothing on that page is written by hand.

.venv/bin/python -m benchmarks.plots
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.measuring import HOME, RESULTS
from benchmarks.sections import SECTIONS, Column

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
