"""Old models retired: weights, pages and rows go; what they were made of and how good they were stays.

The champion and the one before it, to which one rolls back, never retire. A retired model's table versions
are no longer kept for it, so it cannot be made again.
"""

from datetime import UTC, datetime
from typing import Any

from sightline import delta, models, publishing, storage, tables
from sightline.catalog import Catalog
from sightline.keep_config import KeepSpec
from sightline.tables import Table, Writer

KEPT_FILES = ("model.json", "plan.json", "decision.json")
WRITER = Writer("retirement")


def retire_models(catalog: Catalog, keep: KeepSpec, superseded: datetime) -> list[str]:
    """Retire models of old plans; returns the versions that were not retired before."""
    described = _described(catalog)
    due = _due(catalog, described, keep)
    for version in due:
        retired_at = datetime.now(UTC).isoformat(timespec="seconds")
        models.write_model(catalog, {**described[version], "retired_at": retired_at})
    retired = {*due, *(one for one, model in described.items() if models.is_retired(model))}
    if retired:  # those of earlier nights, too: one may have been killed
        _remove_files(catalog, retired)
        for table in _tables_of_models(catalog):
            _drop_rows(table, retired)
    _drop_rows(catalog.reduced, _trained_before(described, superseded))
    return due


def pinned_versions(catalog: Catalog, superseded: datetime) -> dict[str, set[int]]:
    """The versions of each table that models name which are not retired, and plans that may be at work."""
    pins: dict[str, set[int]] = {}
    for version in models.list_versions(catalog):
        model = models.read_model(catalog, version)
        if model is not None and models.is_retired(model):
            continue
        plan_url = storage.join(catalog.model(version), "plan.json")
        plan = storage.read_json(plan_url) or {}
        named = dict(model["tables"]) if model else {}
        if model or (plan and storage.modified_at(plan_url) >= superseded):
            suffix = "_version"
            of_plan = {key.removesuffix(suffix): plan[key] for key in plan if key.endswith(suffix)}
            _add(pins, of_plan)
        _add(pins, named)
    return pins


def _add(pins: dict[str, set[int]], named: dict[str, int | None]) -> None:
    for name, version in named.items():
        if version is not None:
            pins.setdefault(name, set()).add(version)


def _described(catalog: Catalog) -> dict[str, dict[str, Any]]:
    found = {
        version: models.read_model(catalog, version) for version in models.list_versions(catalog)
    }
    return {version: model for version, model in found.items() if model is not None}


def _due(catalog: Catalog, described: dict[str, dict[str, Any]], keep: KeepSpec) -> list[str]:
    """Versions of the plans that are older than so many others, oldest first."""
    line = publishing.succession(models.champion_history(catalog)).line
    spared = {models.plan_of(version) for version in line[-2:]}
    ages: dict[str, tuple[Any, ...]] = {}  # by plan
    for version, model in described.items():
        if not models.is_retired(model):
            plan = models.plan_of(version)
            ages[plan] = max(ages.get(plan, ()), _age(model))
    newest_first = sorted(ages, key=lambda plan: (ages[plan], plan), reverse=True)
    old = set(newest_first[keep.models :]) - spared
    return [one for one, model in described.items()
            if models.plan_of(one) in old and not models.is_retired(model)]  # fmt: skip


def _age(model: dict[str, Any]) -> tuple[Any, ...]:
    """Greater of a model that was made later: by the tables' versions, as a clock may have been wrong; by the
    time where only settings differ."""
    versions = [
        model["tables"].get(name) or 0 for name in ("features", "images", "label_overrides")
    ]
    return (*versions, model["created_at"])


def _trained_before(described: dict[str, dict[str, Any]], moment: datetime) -> set[str]:
    """Plans whose models are made: nothing reads their components again."""
    return {
        models.plan_of(version)
        for version, model in described.items()
        if datetime.fromisoformat(model["created_at"]) < moment
    }


def _remove_files(catalog: Catalog, retired: set[str]) -> None:
    for path in storage.files_below(catalog.models):
        version, _, name = path.partition("/")
        if version in retired and name not in KEPT_FILES:
            storage.remove_file(storage.join(catalog.models, path))
    pages = {f"{version}.html" for version in retired}
    for name in pages.intersection(storage.list_names(catalog.reports)):
        storage.remove_file(storage.join(catalog.reports, name))
    for name in storage.list_names(catalog.predicted):
        if name.split(".")[0].removesuffix("-submission") in retired:
            storage.remove_file(storage.join(catalog.predicted, name))


def _tables_of_models(catalog: Catalog) -> list[Table]:
    """Those whose rows are of a model; its metrics stay, a line in the history."""
    return [
        catalog.reduced,
        catalog.scores,
        catalog.predictions,
        catalog.answers,
        catalog.suspicious_labels,
        catalog.exclusions,
    ]


def _drop_rows(table: Table, versions: set[str]) -> None:
    """Take these models' partitions out of a table."""
    for version in sorted(versions.intersection(map(str, delta.urls_by_partition(table)))):
        tables.exchange(table, version, lambda urls: [], WRITER)
