"""One image through all tables: where it is from, what it passed, and which models it has taught."""

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.dataset as ds

from sightline import exclusions, ledger, lookup, models, storage, tables
from sightline.catalog import Catalog
from sightline.errors import ConfigError, StorageError
from sightline.hashing import is_held_out
from sightline.tables import Table, literal

SHOWN = 5  # ids of an ambiguous prefix
LEAST_PREFIX = 4
Slice = tuple[int, str | None]  # a version of a table, and a partition of it

TRAINED, VALIDATED, TESTED = "trained on it", "validated with it", "was tested with it"
LEFT_OUT = "left it out: "  # with a reason of REASONS
REASONS = {
    exclusions.CONFLICT: "the source gives its bytes under two labels",
    exclusions.SUSPICIOUS: "its label is suspicious",
}
UNKNOWN = "nobody can tell: the versions of the tables that it was made of are gone"


@dataclass(frozen=True)
class Lesson:
    """What an image was to a model."""

    version: str
    kind: str
    role: str  # trained on it, validated with it, was tested with it, left it out, or why nobody can tell
    label: str | None  # that it had then


@dataclass(frozen=True)
class ImageTrace:
    """All that is known of an image; `held` is None where it was only listed or rejected."""

    uri: str
    held: dict[str, Any] | None  # the row of images, without its bytes; and stored_at
    listed: list[
        dict[str, Any]
    ]  # rows of the manifest: licence, author, landing page, partition, ...
    decision: dict[str, Any] | None  # what a person says of its label; stands above the source's
    rejects: list[dict[str, Any]]
    checks: list[
        dict[str, Any]
    ]  # validations of its partition: task, at, run, checks and their findings
    split: dict[str, Any] | None  # split, group_id, and how many images the group has
    features: list[str]  # backbones that have seen it
    models: list[Lesson]
    predictions: list[dict[str, Any]]
    answers: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def trace_image(catalog: Catalog, text: str) -> ImageTrace:
    """Follow the image of this id, of the only id that begins so, or of this uri.

    ConfigError where there is none, or more than one.
    """
    image_id, uri = _find(catalog, text)
    held = _held(catalog, image_id) if image_id else None
    split = _split(catalog, image_id) if image_id else None
    listed = lookup.rows_of(catalog.manifest, "uri", [uri]).to_pylist()
    partitions = {row["partition"] for row in [*listed, *([held] if held else [])]}
    known = [image_id] if image_id else []
    return ImageTrace(
        uri=uri,
        held=held,
        listed=listed,
        decision=next(iter(_rows(catalog.label_overrides, known)), None),
        rejects=_without(lookup.rows_of(catalog.rejects, "uri", [uri]).to_pylist(), "thumbnail"),
        checks=_checks(catalog, partitions),
        split=split,
        features=_backbones(catalog, known),
        models=_lessons(catalog, image_id, split) if image_id and split else [],
        predictions=_without(_rows(catalog.predictions, known), "probabilities"),
        answers=_without(_rows(catalog.answers, known), "probabilities"),
    )


def _find(catalog: Catalog, text: str) -> tuple[str | None, str]:
    """Id and uri of the one image that is meant; the id is None where we do not hold it."""
    is_prefix = len(text) >= LEAST_PREFIX and set(text) <= set("0123456789abcdef")
    begins = f" OR starts_with(image_id, {literal(text)})" if is_prefix else ""
    with tables.query(images=catalog.images) as sql:
        found = sql(
            f"SELECT image_id, uri FROM images WHERE uri = {literal(text)}{begins} "
            f"ORDER BY image_id LIMIT {SHOWN + 1}"
        ).to_pylist()
    if len(found) == 1:
        return found[0]["image_id"], found[0]["uri"]
    if found:
        shown = ", ".join(f"{row['image_id'][:16]} ({row['uri']})" for row in found[:SHOWN])
        more = ", ..." if len(found) > SHOWN else ""
        raise ConfigError(
            f"{text!r} begins several image ids of {catalog.dataset}: {shown}{more}; give more of it."
        )
    for table in (catalog.rejects, catalog.manifest):
        if tables.held_values(table, "uri", [text]):
            return None, text
    raise ConfigError(
        f"Dataset {catalog.dataset} has no image {text!r}: give an image id, {LEAST_PREFIX} or more of its "
        "first digits, or a uri as the manifest has it."
    )


def _held(catalog: Catalog, image_id: str) -> dict[str, Any]:
    """The image's row, and when it was stored."""
    columns = [name for name in catalog.images.schema.names if name != "content"]
    with tables.query(images=catalog.images) as sql:
        listed = ", ".join(f'"{name}"' for name in columns)
        [row] = sql(f"SELECT {listed} FROM images WHERE image_id = {literal(image_id)}").to_pylist()
    files = tables.file_urls(catalog.images, partition=row["partition"])
    holding = next(url for url in files if _row_in(catalog.images, url, image_id))
    return {**row, "stored_at": storage.modified_at(holding)}


def _split(catalog: Catalog, image_id: str) -> dict[str, Any] | None:
    rows = _rows(catalog.splits, [image_id])
    if not rows:
        return None
    with tables.query(splits=catalog.splits) as sql:
        group = literal(rows[0]["group_id"])
        found = sql(f"SELECT count(*) AS images FROM splits WHERE group_id = {group}")
    return {**rows[0], "group_images": found["images"][0].as_py()}


def _checks(catalog: Catalog, partitions: set[str]) -> list[dict[str, Any]]:
    """The newest validation of each kind that its partition has passed: with others, it met them all."""
    newest: dict[str, dict[str, Any]] = {}
    for task in ("validate_manifest", "validate_images", "validate_features"):
        for record in ledger.all_records(catalog, f"ingest_{catalog.dataset}", task):
            if record["partition"] in partitions:
                before = newest.get(task, record)
                newest[task] = max(before, record, key=lambda one: str(one["started_at"]))
    return [
        {
            "task": task,
            "at": record["started_at"],
            "run": record["run_id"],
            "partition": record["partition"],
            **record["counts"],
            "findings": record.get("findings", []),
        }
        for task, record in newest.items()
    ]


def _backbones(catalog: Catalog, image_ids: list[str]) -> list[str]:
    if not image_ids:
        return []
    with tables.query(features=catalog.features) as sql:
        found = sql(
            f"SELECT backbone_id FROM features WHERE image_id = {literal(image_ids[0])} ORDER BY 1"
        )
    backbones: list[str] = found["backbone_id"].to_pylist()
    return backbones


def _lessons(catalog: Catalog, image_id: str, split: dict[str, Any]) -> list[Lesson]:
    """What the image was to each model: only the logs of the versions are read, and each file once,
    however many versions have it."""
    found = [models.read_model(catalog, version) for version in models.list_versions(catalog)]
    described = [model for model in found if model]
    heads = [model for model in described if model["kind"] == models.HEAD]
    images = _holders(catalog.images, image_id, {_images_of(model) for model in described})
    features = _holders(catalog.features, image_id, {_features_of(model) for model in heads})
    reasons = _exclusions(catalog, image_id)
    said = {model["version"]: _said(catalog, image_id, model) for model in described}
    lessons = []
    for model in described:
        row = images[_images_of(model)]
        is_head = model["kind"] == models.HEAD
        embedding = features[_features_of(model)] if is_head else row
        if row is None or embedding is None:
            lessons.append(_lesson(model, UNKNOWN, None))
        elif row.get("label") and embedding:
            reason = reasons.get(models.plan_of(model["version"]))
            role = f"{LEFT_OUT}{REASONS[reason]}" if reason else _role(catalog, model, split)
            label = said[model["version"]] or row["label"]
            lessons += [_lesson(model, role, label)] if role else []
    return lessons


def _exclusions(catalog: Catalog, image_id: str) -> dict[str, str]:
    """Why plans have left the image out, by their versions."""
    rows = lookup.rows_of(catalog.exclusions, "image_id", [image_id]).to_pylist()
    return {row["model_version"]: row["reason"] for row in rows}


def _said(catalog: Catalog, image_id: str, model: dict[str, Any]) -> str | None:
    """The label that a person had given the image when a model was made; None where nobody had."""
    version = model["tables"].get("label_overrides")
    urls = (
        _files_of(catalog.label_overrides, version, None) if version is not None else None
    ) or ()
    found = (_row_in(catalog.label_overrides, url, image_id) for url in sorted(urls))
    return next((str(row["label"]) for row in found if row), None)


def _images_of(model: dict[str, Any]) -> Slice:
    return model["tables"]["images"], None


def _features_of(model: dict[str, Any]) -> Slice:
    """The features that a head reads."""
    return model["tables"]["features"], model["backbone_id"]


def _lesson(model: dict[str, Any], role: str, label: str | None) -> Lesson:
    return Lesson(model["version"], model["kind"], role, label)


def _role(catalog: Catalog, model: dict[str, Any], split: dict[str, Any]) -> str | None:
    """What a labelled image of a split is to a model; None where it takes no notice of it."""
    if split["split"] == "test":
        return TESTED
    is_network = model["kind"] == models.FINE_TUNED
    if split["split"] == "val":
        return VALIDATED if is_network else None
    if split["split"] != "train":  # set aside
        return None
    if is_network and is_held_out(split["group_id"], _held_out_share(catalog, model)):
        return VALIDATED
    return TRAINED


def _held_out_share(catalog: Catalog, model: dict[str, Any]) -> float:
    """The share of the train split that a fine-tuning validates with: none where there is a val split."""
    urls = tables.surviving_urls(catalog.splits, model["tables"]["splits"])
    has_val = lookup.holds(catalog.splits, urls, "split", "val")
    return 0.0 if has_val else float(model["spec"]["fine_tune"]["validation_share"])


def _holders(table: Table, image_id: str, slices: set[Slice]) -> dict[Slice, dict[str, Any] | None]:
    """By slice, the image's row (empty where it has none), or None where the version is gone."""
    files = {one: _files_of(table, *one) for one in slices}
    every = set[str]().union(*(urls for urls in files.values() if urls))
    present = {url for url in every if storage.exists(url)}
    rows = {url: row for url in sorted(present) if (row := _row_in(table, url, image_id))}
    found: dict[Slice, dict[str, Any] | None] = {}
    for one, urls in files.items():
        holding = [row for url, row in rows.items() if url in (urls or ())]
        is_gone = urls is None or (not holding and not urls <= present)
        found[one] = None if is_gone else (holding or [{}])[0]
    return found


def _files_of(table: Table, version: int, partition: str | None) -> set[str] | None:
    """The files of a slice, after take-downs those in their places; None where the log of its version is
    gone."""
    try:
        return set(tables.surviving_urls(table, version, partition))
    except StorageError:
        return None


def _row_in(table: Table, url: str, image_id: str) -> dict[str, Any] | None:
    """The id, and the label where the table has one, of an image in a file; None where it is not there."""
    columns = [name for name in ("image_id", "label") if name in table.schema.names]
    wanted = ds.field("image_id") == image_id
    held = tables.dataset_of([url], table.schema).to_table(columns=columns, filter=wanted)
    return dict(held.to_pylist()[0]) if held.num_rows else None


def _rows(table: Table, image_ids: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lookup.rows_of(table, "image_id", image_ids).to_pylist()
    return rows


def _without(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != column} for row in rows]
