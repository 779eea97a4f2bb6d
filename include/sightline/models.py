"""Trained models on storage: model.json beside weights.safetensors, and the champion that serves.

A version is named by what the model is made of, so a retried or doubled task writes the same version
again and a changed input makes another one. A plan trains up to two candidates, a head on features and
a fine-tuned network; each is a version of its own. The gate's decision on them lies beside the plan.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from safetensors.numpy import load

from sightline import (
    __version__,
    compaction,
    exclusions,
    label_overrides,
    provenance,
    storage,
    tables,
)
from sightline.catalog import Catalog
from sightline.classifiers import Classifier, Pca, pack, unpack, write_pca
from sightline.config import DatasetSpec
from sightline.conflicts import dropped_images
from sightline.errors import ConfigError, TrainingError
from sightline.shared_files import SharedFile
from sightline.tables import Table

HEAD = "head"  # model.json's kind of a classifier on features
FINE_TUNED = "fine_tuned"  # and of a network trained on the images
TUNED = "-tuned"  # ends the version of a network, after its plan's
# How a model became the champion: by the gate, by a person beyond it, or once more.
PUBLISHED, PROMOTED, ROLLED_BACK = "published", "promoted", "rolled back"


@dataclass(frozen=True)
class Plan:
    """What a training run works from: fixed before it begins, whatever nightly runs add meanwhile."""

    version: str
    backbone_id: str
    images_version: int
    features_version: int
    fingerprint: str
    splits_version: int | None = None  # None until the split is made: then the newest counts
    label_overrides_version: int | None = None  # None where nobody had said anything of labels


def make_plan(spec: DatasetSpec, catalog: Catalog, backbone_id: str) -> Plan:
    """Fix the inputs of a training run at their present versions."""
    images = compaction.data_version(catalog.images) or 0
    features = compaction.data_version(catalog.features) or 0
    parts = [spec.backbone, spec.reduce, spec.split, spec.labels, spec.train, spec.fine_tune]
    settings = [None if part is None else part.model_dump(mode="json") for part in parts]
    overrides_version = tables.current_version(catalog.label_overrides)
    overrides = label_overrides.read(catalog, overrides_version)
    dropped = dropped_images(spec.labels, catalog, images, overrides)  # by what is said by now
    said = sorted((image_id, row["label"]) for image_id, row in overrides.items())
    inputs = [images, features, backbone_id, settings, dropped, said, __version__]
    text = json.dumps(inputs, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    version = f"{features:05d}-{fingerprint[:8]}"
    return Plan(
        version,
        backbone_id,
        images,
        features,
        fingerprint,
        label_overrides_version=overrides_version,
    )


def candidates(spec: DatasetSpec, plan: Plan) -> dict[str, str]:
    """The versions of the models that a plan trains, by their kind."""
    versions = {HEAD: plan.version} if spec.train else {}
    return {**versions, FINE_TUNED: f"{plan.version}{TUNED}"} if spec.fine_tune else versions


def plan_of(version: str) -> str:
    """The version of the plan that a model is of: a head's own."""
    return version.removesuffix(TUNED)


def describe(
    spec: DatasetSpec, catalog: Catalog, plan: Plan, kind: str, java: str
) -> dict[str, Any]:
    """What the model.json of a candidate says whatever its kind. It is created now, by this process and a
    JVM of that version; the list of what it leaves out is written beside it."""
    version = candidates(spec, plan)[kind]
    return {
        "version": version,
        "kind": kind,
        "fingerprint": plan.fingerprint,
        "dataset": spec.name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "backbone_id": plan.backbone_id,
        "spec": spec.model_dump(mode="json"),
        "tables": {
            "images": plan.images_version,
            "features": plan.features_version,
            "splits": splits_version(catalog, plan),
            **_overrides_named(plan),
        },
        **provenance.made_by(java),
        "excluded": exclusions.list_beside(catalog, plan.version, version),
        "overridden": label_overrides.list_beside(catalog, plan.label_overrides_version, version),
        "metrics": {},  # `evaluate` fills them in
    }


def _overrides_named(plan: Plan) -> dict[str, int]:
    version = plan.label_overrides_version
    return {} if version is None else {"label_overrides": version}


def refuse_too_few_classes(spec: DatasetSpec, labels: Collection[str]) -> None:
    """TrainingError where the train split's labels are fewer than two."""
    if len(labels) < 2:
        raise TrainingError(
            f"Dataset {spec.name} has {len(labels)} class(es) in its train split "
            f"({', '.join(labels)}); a classifier needs two, so add images of another class."
        )


def write_plan(catalog: Catalog, plan: Plan) -> None:
    """Keep a plan for the tasks that follow it."""
    storage.write_json(_url(catalog, plan.version, "plan.json"), asdict(plan))


def fix_splits(catalog: Catalog, plan: Plan) -> None:
    """Fix the splits of a plan, once its images have theirs, at their present version."""
    write_plan(catalog, replace(plan, splits_version=tables.current_version(catalog.splits)))


def splits_version(catalog: Catalog, plan: Plan) -> int | None:
    """The version of the splits that a plan works from."""
    if plan.splits_version is not None:
        return plan.splits_version
    return tables.current_version(catalog.splits)


def open_splits(catalog: Catalog, plan: Plan) -> Table | DeltaTable:
    """The splits that a plan works from, to be queried."""
    return tables.open_table(catalog.splits, plan.splits_version) or catalog.splits


def open_overrides(catalog: Catalog, plan: Plan) -> DeltaTable | pa.Schema:
    """The decisions on labels that a plan works from, to be queried."""
    return label_overrides.open_version(catalog, plan.label_overrides_version)


def read_plan(catalog: Catalog, version: str) -> Plan:
    """The plan of a model; TrainingError where there is none."""
    plan = storage.read_json(_url(catalog, version, "plan.json"))
    if plan is None:
        dataset = catalog.dataset
        raise TrainingError(f"Dataset {dataset} has no plan {version!r}; run train_{dataset}.")
    return Plan(**plan)


def read_champion(catalog: Catalog) -> dict[str, Any] | None:
    """The champion's model.json, or None where there is no champion."""
    pointer = storage.read_json(catalog.champion)
    return None if pointer is None else read_model(catalog, pointer["version"])


def require_champion(catalog: Catalog) -> dict[str, Any]:
    """The champion's model.json; TrainingError where there is no champion."""
    champion = read_champion(catalog)
    if champion is None:
        raise no_champion(catalog)
    return champion


def require_model(catalog: Catalog, version: str) -> dict[str, Any]:
    """A model's model.json; ConfigError where there is none. `version` may come from a stranger."""
    model = read_model(catalog, version) if version in list_versions(catalog) else None
    if model is None:
        raise ConfigError(
            f"Dataset {catalog.dataset} has no model {version!r}; 'sightline models {catalog.dataset}' "
            "lists them."
        )
    return model


def no_champion(catalog: Catalog) -> TrainingError:
    """The refusal of what a dataset without a champion cannot do."""
    dataset = catalog.dataset
    return TrainingError(f"Dataset {dataset} has no champion; run train_{dataset}.")


def read_model(catalog: Catalog, version: str) -> dict[str, Any] | None:
    """A model's model.json."""
    model: dict[str, Any] | None = storage.read_json(_json_url(catalog, version))
    return model


def write_model(catalog: Catalog, model: dict[str, Any]) -> None:
    """Write a model's model.json."""
    storage.write_json(_json_url(catalog, model["version"]), model)


def is_retired(model: dict[str, Any]) -> bool:
    """Whether maintenance has removed the weights of an old model."""
    return "retired_at" in model


def refuse_retired(model: dict[str, Any]) -> None:
    """TrainingError where a model's weights are gone."""
    if is_retired(model):
        raise TrainingError(
            f"Model {model['version']} of {model['dataset']} was retired on {model['retired_at'][:10]}: its "
            "weights are gone (`keep: models` in the dataset file says how many stay)."
        )


def taken_down_sentences(model: dict[str, Any]) -> list[str]:
    """A sentence for each take-down of images that a model was trained on."""
    return [
        f"{one['images']:,} of the images that this model was trained on were taken down on "
        f"{one['at'][:10]}: {one['reason']}"
        for one in model.get("taken_down", [])
    ]


def crown(
    catalog: Catalog, version: str, action: str = PUBLISHED, by: str = "", reason: str = ""
) -> None:
    """Let a model serve. The pointer and its history are one file, so both change in one step; the
    champion crowned again changes nothing."""
    history = champion_history(catalog)
    previous = history[-1]["version"] if history else None
    if previous == version:
        return
    entry = {
        "version": version,
        "previous": previous,
        "action": action,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": by,
        "reason": reason,
    }
    storage.write_json(catalog.champion, {"version": version, "history": [*history, entry]})


def champion_history(catalog: Catalog) -> list[dict[str, Any]]:
    """Each change of the champion, oldest first: version, previous, action, at, by, reason."""
    pointer = storage.read_json(catalog.champion)
    if pointer is None:
        return []
    first = {"version": pointer["version"], "previous": None, "action": PUBLISHED}
    return list(pointer.get("history") or [{**first, "at": "", "by": "", "reason": ""}])


def list_versions(catalog: Catalog) -> list[str]:
    """The versions that have a folder, oldest features first; a hidden name is a file being written."""
    names = storage.list_names(catalog.models)
    return [name for name in names if name != "champion.json" and not name.startswith(".")]


def write_decision(catalog: Catalog, version: str, decision: dict[str, Any]) -> None:
    """Keep what the gate has decided on a plan's candidates."""
    storage.write_json(_url(catalog, version, "decision.json"), decision)


def read_decision(catalog: Catalog, version: str) -> dict[str, Any] | None:
    """What the gate has decided on a plan's candidates, or None where it has not."""
    decision: dict[str, Any] | None = storage.read_json(_url(catalog, version, "decision.json"))
    return decision


def save_pca(catalog: Catalog, version: str, pca: Pca) -> SharedFile:
    """Keep the PCA that a model's head is to be trained on."""
    return write_pca(_url(catalog, version, "pca.safetensors"), pca)


def load_pca(catalog: Catalog, version: str) -> Pca | None:
    """The PCA that `reduce` has kept for a model, or None where it reduced nothing."""
    url = _url(catalog, version, "pca.safetensors")
    return Pca(**load(storage.read_bytes(url))) if storage.exists(url) else None


def save_classifier(catalog: Catalog, version: str, classifier: Classifier) -> None:
    """Keep PCA, scaler and head of a model; the head's kind and the labels stand in model.json."""
    storage.write_bytes(_url(catalog, version, "weights.safetensors"), pack(classifier))


def load_classifier(catalog: Catalog, model: dict[str, Any]) -> Classifier:
    """The classifier of a model.json: embeddings in, probabilities out."""
    content = storage.read_bytes(_url(catalog, model["version"], "weights.safetensors"))
    return unpack(content, model["head"]["kind"], model["labels"])


def _json_url(catalog: Catalog, version: str) -> str:
    return _url(catalog, version, "model.json")


def _url(catalog: Catalog, version: str, name: str) -> str:
    return storage.join(catalog.model(version), name)
