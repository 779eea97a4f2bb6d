"""Taking images down: out of every table and file of a dataset, for good, and never fetched again.

What has to go is found once and kept as a file until all is done, so that a take-down which was killed is
finished by the next one, whatever that is asked for. Tombstones come first: an ingest that runs meanwhile
either sees them, or has committed before and is cleaned up after.
"""

import logging
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from sightline import erasure, exclusions, models, rejection, storage, tables, tombstones, traces
from sightline.catalog import Catalog
from sightline.erasure import Doomed
from sightline.errors import ConfigError, StorageError
from sightline.tables import Table
from sightline.tombstones import Mark, Why

log = logging.getLogger(__name__)

KINDS = ("image_id", "uri", "author", "licence")
TABLES_OF_MODELS = ("images", "features", "splits", "label_overrides")


@dataclass(frozen=True)
class Asked:
    """Which images are asked for: by ids or uris, or all of an author or under a licence."""

    kind: str  # of KINDS
    values: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """A take-down: what has to go, and which models were made of how much of it."""

    id: str
    kind: str
    authors: list[str]  # where an author asked: what they upload later is theirs, too
    reason: str
    by: str
    at: str
    image_ids: list[str]
    uris: list[str]
    models: dict[str, int] = field(default_factory=dict)  # version: train images

    @property
    def doomed(self) -> Doomed:
        """What has to go."""
        return Doomed(frozenset(self.image_ids), frozenset(self.uris))


def make_asked(
    image_ids: Iterable[str], uris: Iterable[str], author: str | None, licence: str | None
) -> Asked:
    """What a person asks for; ConfigError unless it is one thing."""
    given = {
        "image_id": tuple(image_ids),
        "uri": tuple(uris),
        "author": (author,) if author else (),
        "licence": (licence,) if licence else (),
    }
    asked = [Asked(kind, values) for kind, values in given.items() if values]
    if len(asked) != 1:
        raise ConfigError("Give one of image ids, uris, an author and a licence to take down.")
    return asked[0]


def take_down(catalog: Catalog, asked: Asked, reason: str, by: str) -> list[Request]:
    """Take images down; returns what was done: take-downs that were left unfinished, and this one.

    StorageError where something could not be removed; the next take-down goes on from there.
    """
    if not reason.strip():
        raise ConfigError("Say why these images are taken down; the reason is kept.")
    done = [_finish(catalog, request) for request in unfinished(catalog)]
    request = _find(catalog, asked, reason, by)
    storage.write_json(_url(catalog, request), asdict(request))
    done.append(_finish(catalog, request))
    for name in storage.list_names(catalog.take_downs):  # what was killed while it was written
        storage.remove_tree(storage.join(catalog.take_downs, name))
    return done


def describe(catalog: Catalog, request: Request) -> str:
    """One sentence about a take-down that is done."""
    made = [f"{version} ({count:,})" for version, count in sorted(request.models.items())]
    return (
        f"Take-down {request.id} of {catalog.dataset}: {len(request.image_ids):,} images with "
        f"{len(request.uris):,} addresses are gone; models trained on them: {', '.join(made) or 'none'}."
    )


def unfinished(catalog: Catalog) -> list[Request]:
    """Take-downs that were begun and killed, oldest first."""
    names = [name for name in storage.list_names(catalog.take_downs) if not name.startswith(".")]
    found = [storage.read_json(storage.join(catalog.take_downs, name)) for name in names]
    return [Request(**one) for one in found if one is not None]


def _finish(catalog: Catalog, request: Request) -> Request:
    """Every step may be done again."""
    tombstones.lay(catalog, _marks(request), _why(request))
    if request.image_ids or request.uris:
        rows = _erase(catalog, request.doomed)
        storage.remove_tree(catalog.remakes)  # each is to be compared, and can be made again
        changed = traces.scrub(catalog, request.doomed)
        _flag_models(catalog, request)
        _refuse_leftovers(catalog, request.doomed)
        log.info("take-down %s: %d images, %d rows, %d files changed, models %s", request.id,
                 len(request.image_ids), rows, changed, ", ".join(request.models) or "none")  # fmt: skip
    storage.remove_tree(_url(catalog, request))
    return request


def _erase(catalog: Catalog, doomed: Doomed) -> int:
    pins = _pinned_versions(catalog)
    return sum(erasure.erase(table, doomed, pins.get(table.name, ())) for table in catalog.tables)


def _marks(request: Request) -> list[Mark]:
    return [
        *((tombstones.IMAGE, one) for one in request.image_ids),
        *((tombstones.URI, one) for one in request.uris),
        *((tombstones.AUTHOR, one) for one in request.authors),
    ]


def _why(request: Request) -> Why:
    return Why(request.id, request.reason, request.by, datetime.fromisoformat(request.at))


def _url(catalog: Catalog, request: Request) -> str:
    return storage.join(catalog.take_downs, f"{request.id}.json")


# --- what has to go ------------------------------------------------------------------------------------


def _find(catalog: Catalog, asked: Asked, reason: str, by: str) -> Request:
    now = datetime.now(UTC)
    image_ids, uris = _closure(catalog, *_first(catalog, asked))
    return Request(
        id=f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}",
        kind=asked.kind,
        authors=list(asked.values) if asked.kind == "author" else [],
        reason=reason,
        by=by,
        at=now.isoformat(timespec="seconds"),
        image_ids=sorted(image_ids),
        uris=sorted(uris),
        models=_models_made_of(catalog, sorted(image_ids)),
    )


def _first(catalog: Catalog, asked: Asked) -> tuple[set[str], set[str]]:
    """The image ids and uris that are asked for by name."""
    if asked.kind == "image_id":
        return set(asked.values), set()
    if asked.kind == "uri":
        return set(), set(asked.values)
    found = _rows(catalog.manifest, ["uri"], asked.kind, asked.values)
    return set(), set(found["uri"].to_pylist())


def _closure(catalog: Catalog, image_ids: set[str], uris: set[str]) -> tuple[set[str], set[str]]:
    """These images with all their addresses: the same bytes under another uri are the same image."""
    same_bytes = _duplicates(catalog)
    while True:
        before = len(image_ids) + len(uris)
        uris |= {one for pair in same_bytes if not uris.isdisjoint(pair) for one in pair}
        by_uri = _rows(catalog.images, ["image_id"], "uri", uris)
        image_ids |= set(by_uri["image_id"].to_pylist())
        by_id = _rows(catalog.images, ["uri"], "image_id", image_ids)
        uris |= set(by_id["uri"].to_pylist())
        if len(image_ids) + len(uris) == before:
            return image_ids, uris


def _duplicates(catalog: Catalog) -> list[tuple[str, str]]:
    """Pairs of uris with the same bytes."""
    rows = _rows(
        catalog.rejects, ["uri", "detail"], "reason", ["duplicate", "conflict"]
    ).to_pylist()
    return [(row["uri"], (row["detail"] or "").removeprefix(rejection.SAME_BYTES)) for row in rows]


def _rows(table: Table, columns: list[str], key: str, values: Iterable[str]) -> pa.Table:
    """Columns of the rows whose key is one of these."""
    return _rows_of(tables.file_urls(table), table, columns, key, values)


def _rows_of(
    urls: list[str], table: Table, columns: list[str], key: str, values: Iterable[str]
) -> pa.Table:
    wanted = pa.array(sorted(values), pa.string())
    if not urls or not len(wanted):
        return table.schema.empty_table().select(columns)
    return tables.dataset_of(urls, table.schema).to_table(
        columns, filter=ds.field(key).isin(wanted)
    )


# --- the models that were made of it -------------------------------------------------------------------


def _models_made_of(catalog: Catalog, image_ids: list[str]) -> dict[str, int]:
    """How many of these images each model was trained on, from the table versions that it names."""
    held: dict[tuple[str, int], set[str]] = {}

    def ids(table: Table, version: int, key: str, values: Iterable[str]) -> set[str]:
        if (table.name, version) not in held:
            urls = _readable(table, version)
            found = _rows_of(urls, table, ["image_id"], key, values)["image_id"]
            held[table.name, version] = set(found.to_pylist()) & set(image_ids)
        return held[table.name, version]

    made = dict[str, int]()
    for version in models.list_versions(catalog) if image_ids else []:
        model = models.read_model(catalog, version)
        used = model["tables"] if model else {}
        if (
            used.get("images") is None
            or used.get("splits") is None
            or (model and models.is_retired(model))
        ):
            continue
        train = ids(catalog.splits, used["splits"], "split", ["train"])
        left_out = exclusions.read_exclusions(catalog, models.plan_of(version))
        trained_on = train & ids(catalog.images, used["images"], "image_id", image_ids)
        trained_on -= left_out.keys()
        if trained_on:
            made[version] = len(trained_on)
    return made


def _readable(table: Table, version: int) -> list[str]:
    """The files of a version; none where an older release has let its log be forgotten: the take-down goes
    on without it."""
    try:
        return tables.surviving_urls(table, version)
    except StorageError as error:
        log.warning("nobody can tell which models were made of it: %s", error)
        return []


def _flag_models(catalog: Catalog, request: Request) -> None:
    """Say in each model's description and page that images which it was trained on were taken down."""
    for version, count in request.models.items():
        model = models.read_model(catalog, version)
        if model is None:
            continue
        entry = {
            "request": request.id,
            "images": count,
            "at": request.at,
            "by": request.by,
            "reason": request.reason,
        }
        others = [one for one in model.get("taken_down", []) if one["request"] != request.id]
        models.write_model(catalog, {**model, "taken_down": [*others, entry]})
    traces.post_notices(catalog, {
        version: models.taken_down_sentences(model)
        for version in request.models
        if (model := models.read_model(catalog, version))
    })  # fmt: skip


def _pinned_versions(catalog: Catalog) -> dict[str, set[int]]:
    """The versions of each table that a plan or a model names."""
    pins: dict[str, set[int]] = {name: set() for name in TABLES_OF_MODELS}
    for version in models.list_versions(catalog):
        plan = storage.read_json(storage.join(catalog.model(version), "plan.json")) or {}
        model = models.read_model(catalog, version) or {"tables": {}}
        for name in TABLES_OF_MODELS:
            named = (plan.get(f"{name}_version"), model["tables"].get(name))
            pins[name] |= {one for one in named if one is not None}
    return pins


def _refuse_leftovers(catalog: Catalog, doomed: Doomed) -> None:
    """An ingest that had read the tombstones before they were laid may have committed since."""
    for table in catalog.tables:
        columns = doomed.columns(table)
        for batch in tables.read_batches(table, columns) if columns else ():
            if pc.any(doomed.mask(batch)).as_py():
                raise StorageError(
                    f"Table {table.name} of {catalog.dataset} has got rows of images that are being taken "
                    "down while an ingest was running; take them down again once it has ended."
                )
