"""One model back to what it was made of: table versions, every image, code, parameters and environment."""

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import IO, Any

from sightline import label_overrides, lookup, models, status, tables
from sightline.catalog import Catalog
from sightline.errors import ConfigError, StorageError, TrainingError
from sightline.spreadsheets import defuse

COLUMNS = (
    "image_id", "uri", "label", "split", "group_id", "licence", "author", "landing_url", "partition",
)  # fmt: skip

# A uri can stand in the manifest of several partitions.
OF_MODEL = """
    FROM {images} i
    JOIN splits s ON s.image_id = i.image_id
    {features}
    LEFT JOIN (
        SELECT uri, max(licence) AS licence, max(author) AS author, max(landing_url) AS landing_url
        FROM manifest GROUP BY uri
    ) m ON m.uri = i.uri
    LEFT ANTI JOIN (SELECT image_id FROM exclusions WHERE model_version = {plan}) e
        ON e.image_id = i.image_id
    WHERE i.label IS NOT NULL AND s.split IN ('train', 'val', 'test')
"""


@dataclass(frozen=True)
class ModelTrace:
    """All that is known of a model."""

    version: str
    kind: str
    dataset: str
    created_at: str
    standing: str  # champion, was champion, ...; with why
    tables: dict[str, int]  # versions
    rows: dict[str, int]  # images by what they were for
    excluded: dict[str, int]  # images that it left out, by the reason
    classes: (
        dict[str, dict[str, int]] | None
    )  # images by split and label; None where versions are gone
    parameters: dict[str, Any]
    seed: int
    parents: dict[str, str]  # what it was made of, beside the tables
    code: dict[str, Any] | None  # None where it was trained before this was recorded
    environment: dict[str, Any] | None
    metrics: dict[str, float]
    images_command: str

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def trace_model(catalog: Catalog, version: str | None) -> ModelTrace:
    """What a model, by default the champion, was made of.

    ConfigError where there is no such model, TrainingError where there is no champion.
    """
    model = find_model(catalog, version)
    version = model["version"]
    row = next(row for row in status.list_models(catalog.dataset) if row.version == version)
    return ModelTrace(
        version=version,
        kind=model["kind"],
        dataset=catalog.dataset,
        created_at=model["created_at"],
        standing=", ".join(filter(None, (row.standing, row.note))),
        tables=model["tables"],
        rows=model["rows"],
        excluded={name: n for name, n in model.get("excluded", {}).items() if name != "list"},
        classes=_classes(catalog, model),
        parameters=_parameters(model),
        seed=model["seed"],
        parents=_parents(catalog, model),
        code=model.get("code"),
        environment=model.get("environment"),
        metrics=model["metrics"],
        images_command=f"sightline trace {catalog.dataset} model {version} --images",
    )


def write_images(catalog: Catalog, version: str | None, stream: IO[str]) -> int:
    """Write every labelled image that a model was trained, validated or tested with as lines of CSV; returns
    how many. A spreadsheet shows each cell as it is.

    StorageError where the table versions are gone.
    """
    model = find_model(catalog, version)
    opened = _open_versions(catalog, model)
    lines = csv.writer(stream, lineterminator="\n")
    lines.writerow(COLUMNS)
    written = 0
    for rows in _query(catalog, model, opened, _every_image()):
        lines.writerows([[defuse(row[name] or "") for name in COLUMNS] for row in rows])
        written += len(rows)
    return written


def find_model(catalog: Catalog, version: str | None) -> dict[str, Any]:
    """The model.json of a version, by default the champion's."""
    model = (
        models.read_champion(catalog) if version is None else models.read_model(catalog, version)
    )
    if model is not None:
        return model
    if version is None:
        raise TrainingError(
            f"Dataset {catalog.dataset} has no champion; run train_{catalog.dataset}, or name a version."
        )
    known = ", ".join(models.list_versions(catalog)) or "none"
    raise ConfigError(f"Dataset {catalog.dataset} has no model {version!r}. Known: {known}.")


def _every_image() -> str:
    own = {
        "image_id": "i.image_id", "uri": "i.uri", "label": "i.label", "partition": "i.partition",
        "split": "s.split", "group_id": "s.group_id",
    }  # fmt: skip
    columns = ", ".join(f'{own.get(name, f"m.{name}")} AS "{name}"' for name in COLUMNS)
    return f"SELECT {columns} {OF_MODEL} ORDER BY i.image_id"


def _classes(catalog: Catalog, model: dict[str, Any]) -> dict[str, dict[str, int]] | None:
    """Labelled images by split and label."""
    statement = f"""
        SELECT s.split, i.label, count(*) AS images {OF_MODEL}
        GROUP BY s.split, i.label ORDER BY s.split, i.label
    """
    try:
        opened = _open_versions(catalog, model)
    except StorageError:
        return None
    counts: dict[str, dict[str, int]] = {}
    for rows in _query(catalog, model, opened, statement):
        for row in rows:
            counts.setdefault(row["split"], {})[row["label"]] = row["images"]
    return counts


def _open_versions(catalog: Catalog, model: dict[str, Any]) -> dict[str, Any]:
    """The tables that it was made of, as they were then; StorageError where they are gone."""
    names = ["images", "splits", *(["features"] if model["kind"] == models.HEAD else [])]
    names += ["label_overrides"] if "label_overrides" in model["tables"] else []
    versions = {name: model["tables"][name] for name in names}
    if not all(lookup.is_whole(getattr(catalog, name), versions[name]) for name in names):
        raise StorageError(
            f"The images of model {model['version']} of {catalog.dataset} cannot be listed: the table "
            "versions that it was made of are no longer whole, as their old files were vacuumed or taken "
            "down."
        )
    opened = {name: tables.open_table(getattr(catalog, name), versions[name]) for name in names}
    none_yet = catalog.label_overrides.schema  # where nobody had said anything of labels
    known = {name: table for name, table in opened.items() if table is not None}
    return {"label_overrides": none_yet, **known}


def _query(
    catalog: Catalog, model: dict[str, Any], opened: dict[str, Any], statement: str
) -> Iterator[list[dict[str, Any]]]:
    """Rows of a statement over these tables, batch by batch."""
    features = ""
    if model["kind"] == models.HEAD:
        backbone = tables.literal(model["backbone_id"])
        features = f"JOIN features f ON f.image_id = i.image_id AND f.backbone_id = {backbone}"
    plan = tables.literal(models.plan_of(model["version"]))
    others = {"manifest": catalog.manifest, "exclusions": catalog.exclusions}
    with tables.stream_query(**others, **opened) as sql:
        whole = statement.format(features=features, plan=plan, images=label_overrides.IMAGES)
        for batch in sql(whole):
            if batch.num_rows:
                yield batch.to_pylist()


def _parameters(model: dict[str, Any]) -> dict[str, Any]:
    """What was chosen: by the dataset file, by cross-validation or by a search."""
    spec = model["spec"]
    shared = {"backbone": spec["backbone"], "split": spec["split"]}
    if model["kind"] == models.FINE_TUNED:
        tuning = model["fine_tuning"]
        kept = {name: tuning[name] for name in ("backbone", "settings", "precision", "best_epoch")}
        return {**shared, "fine_tune": kept}
    head = {name: model["head"][name] for name in ("kind", "parameters")}
    return {**shared, "reduce": spec["reduce"], "train": spec["train"], "head": head}


def _parents(catalog: Catalog, model: dict[str, Any]) -> dict[str, str]:
    """The weights that it stands on, the plan that it is of, and the champion that it followed."""
    history = models.champion_history(catalog)
    before = [entry["previous"] for entry in history if entry["version"] == model["version"]]
    parents = {
        "backbone": model["backbone_id"],
        "plan": models.plan_of(model["version"]),
    }
    return {**parents, "champion before it": before[0]} if before and before[0] else parents
