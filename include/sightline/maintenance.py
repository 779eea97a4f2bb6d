"""The nightly clean-up of a dataset: old models retired, small files merged, and what nobody needs removed.

It may run beside an ingest or a training: what it removes is days old, and what it merges is committed as
any other write. Where nothing else is at work, `at_once` removes what killed tasks have left without
waiting for days; then nothing can take up again what they had begun.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sightline import compaction, leftovers, retirement, storage, traces
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.leftovers import Since

log = logging.getLogger(__name__)

EVER = datetime.max.replace(
    tzinfo=UTC
)  # before which all files were written, whatever the clock said
NEWEST_RUNS = 10  # of each DAG, whose records stay however old they are


@dataclass(frozen=True)
class Cleaned:
    """What a clean-up has done."""

    retired: list[str]  # versions of models
    merged_files: int
    removed_files: int

    @property
    def counts(self) -> dict[str, int]:
        """For the task's record."""
        return {
            "retired": len(self.retired),
            "merged_files": self.merged_files,
            "removed_files": self.removed_files,
        }


def maintain(
    spec: DatasetSpec, catalog: Catalog, now: datetime | None = None, at_once: bool = False
) -> Cleaned:
    """Clean up a dataset; whatever is killed on the way is done by the next night."""
    now = now or datetime.now(UTC)
    superseded = now - timedelta(days=spec.keep.days)
    since = Since(superseded, EVER if at_once else superseded)
    retired = retirement.retire_models(catalog, spec.keep, superseded)
    for version in retired:
        log.info("model %s is retired: %d plans are newer", version, spec.keep.models)
    merged = Counter({table.name: compaction.compact(table) for table in catalog.tables})
    pins = retirement.pinned_versions(catalog, superseded)
    removed = Counter[str]()
    for table in catalog.tables:
        planned = compaction.data_version(table)
        pinned = pins.get(table.name, set()) | ({planned} if planned is not None else set())
        removed[table.name] = len(leftovers.sweep(table, pinned, since))
    removed["files"] = _remove_files(catalog, since)
    removed["runs"] = _remove_old_runs(catalog, now - timedelta(days=spec.keep.run_days))
    _tell("merged", merged)
    _tell("removed", removed)
    return Cleaned(retired, merged.total(), removed.total())


def remove_unused(folder: str, before: datetime) -> int:
    """Remove what of a folder nobody has written to since a moment, subfolders whole; returns how much."""
    found = _newest_by_folder(storage.files_below(folder), 1)
    old = [name for name, written_at in found.items() if written_at < before]
    for name in old:
        storage.remove_tree(storage.join(folder, name))
    storage.remove_empty_folders(folder, before)
    return len(old)


def _tell(what: str, counts: Counter[str]) -> None:
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    log.info("maintenance has %s files: %s", what, told or "none")


def _remove_files(catalog: Catalog, since: Since) -> int:
    """Remove the work lists and checkpoints of tasks that were killed, and half-written files."""
    removed = remove_unused(catalog.staging, since.uncommitted)
    inside = tuple(f"{table.name}/" for table in catalog.tables)  # swept on their own
    for path, written_at in storage.files_below(catalog.root).items():
        is_half = traces.HALF_WRITTEN.fullmatch(path.rsplit("/", 1)[-1])
        if is_half and not path.startswith(inside) and written_at < since.uncommitted:
            storage.remove_file(storage.join(catalog.root, path))
            removed += 1
    return removed


def _remove_old_runs(catalog: Catalog, before: datetime) -> int:
    """Remove records of old runs, but for each DAG's newest, and old pages of validations."""
    removed = 0
    runs = _newest_by_folder(storage.files_below(catalog.runs), 2)
    for dag_id in {path.split("/")[0] for path in runs}:
        of_dag = {path: at for path, at in runs.items() if path.startswith(f"{dag_id}/")}
        for path in sorted(of_dag, key=of_dag.__getitem__, reverse=True)[NEWEST_RUNS:]:
            if of_dag[path] < before:
                storage.remove_tree(storage.join(catalog.runs, path))
                removed += 1
    for path, written_at in storage.files_below(catalog.checks).items():
        if path.startswith(("results/", "validations/")) and written_at < before:
            storage.remove_file(storage.join(catalog.checks, path))
            removed += 1
    return removed


def _newest_by_folder(files: dict[str, datetime], depth: int) -> dict[str, datetime]:
    """By the first parts of their paths, when the newest file below was written."""
    newest: dict[str, datetime] = {}
    for path, written_at in files.items():
        folder = "/".join(path.split("/")[:depth])
        newest[folder] = max(newest.get(folder, written_at), written_at)
    return newest
