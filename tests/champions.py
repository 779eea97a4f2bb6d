"""Champions by hand, on real features of real networks with seeded weights: without Spark, in a second."""

from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from sightline import backbones, images, models, storage, tables
from sightline.backbones.inference import Network
from sightline.catalog import Catalog
from sightline.classifiers import (
    Classifier,
    LinearSvm,
    LogisticRegression,
    MultilayerPerceptron,
    Pca,
    PortableHead,
    RandomForest,
    Scaler,
)
from sightline.config import BackboneSpec, DatasetSpec
from sightline.evaluation import evaluate
from sightline.fine_tune_config import FineTuneSpec
from sightline.fine_tuning.network import make_network
from sightline.models import Plan
from tests.conftest import (
    catalog_of,
    image_row,
    jpeg,
    make_task,
    store_partition,
    store_rows,
)

DATASET = """
source: {type: folder, path: photos}
backbone: {name: resnet18, weights: random, image_size: 48, precision: fp32}
reduce: {components: 4}
"""
SIDES = [20, 48, 49, 64, 90, 131, 200, 333]  # pixels: of those to blow up and those to shrink
RNG = np.random.default_rng(0)
FOREST = RandomForest(
    roots=np.array([0, 5], np.int32),
    features=np.array([0, 1, 0, 0, 0, 2, 0, 0], np.int32),
    thresholds=np.array([0.1, -0.2, 0, 0, 0, 0.3, 0, 0]),
    left=np.array([1, 3, 2, 3, 4, 6, 6, 7], np.int32),
    right=np.array([2, 4, 2, 3, 4, 7, 6, 7], np.int32),
    leaves=np.array([0, 0, 0, 1, 2, 0, 3, 4], np.int32),
    votes=np.array([[1, 0], [0.2, 0.8], [0.5, 0.5], [0, 1], [0.9, 0.1]]),
)
HEADS: dict[str, PortableHead] = {
    "logistic_regression": LogisticRegression(RNG.normal(size=(2, 4)), np.array([0.1, -0.1])),
    "linear_svm": LinearSvm(RNG.normal(size=(2, 4)), np.array([0.0, 0.2])),
    "random_forest": FOREST,
    "multilayer_perceptron": MultilayerPerceptron(
        np.array([4, 3, 5, 2], np.int32), RNG.normal(size=4 * 3 + 3 + 3 * 5 + 5 + 5 * 2 + 2)
    ),
}


def store_photos(spec: DatasetSpec) -> Catalog:
    """Test images of many sizes, one of them lying on its side, and a train image."""
    catalog, rng = catalog_of(spec), np.random.default_rng(1)
    rows = [image_row(jpeg(rng, rng.uniform(0, 255, 3), side), "ab"[n % 2], rotation=90 * (n == 3))
            for n, side in enumerate(SIDES)]  # fmt: skip
    store_rows(catalog.images, rows)
    splits = ["train", *["test"] * (len(rows) - 1)]
    store_partition(
        catalog.splits,
        [
            {"image_id": row["image_id"], "group_id": row["image_id"], "split": split}
            for row, split in zip(rows, splits, strict=True)
        ],
        None,
    )
    return catalog


def embed(catalog: Catalog, spec: BackboneSpec) -> str:
    """Featurize for real, without Spark; returns the backbone's id."""
    backbone = backbones.load_backbone(spec)
    network = Network(backbone.module, backbone.preprocessing, "fp32")
    rows = stored(catalog.images)
    pixels = [images.decode_pixels(row["content"], row["rotation"]) for row in rows]
    found = network.embed([backbone.preprocessing.prepare(one) for one in pixels])
    backbone_id = backbone.identity("fp32")
    features = [
        {"image_id": row["image_id"], "backbone_id": backbone_id, "embedding": values}
        for row, values in zip(rows, found, strict=True)
    ]
    store_rows(catalog.features, features, backbone_id)
    return backbone_id


def head_champion(catalog: Catalog, spec: DatasetSpec, kind: str) -> Plan:
    """A head by hand on real features, evaluated and crowned."""
    backbone_id = embed(catalog, spec.backbone)
    features = np.array([row["embedding"] for row in stored(catalog.features)])
    pca = Pca(features.mean(axis=0), 0.5 * np.linalg.svd(features)[2][:4], np.ones(4) / 4)
    scaler = Scaler(np.full(4, 0.01), np.array([1.0, 2.0, 3.0, 4.0]))
    plan = models.make_plan(spec, catalog, backbone_id)
    models.write_plan(catalog, plan)
    classifier = Classifier(["a", "b"], pca, scaler, HEADS[kind])
    models.save_classifier(catalog, plan.version, classifier)
    head = {"kind": kind, "parameters": {"trees": 2}}
    write_model(catalog, spec, plan.version, "head", head=head, backbone_id=backbone_id)
    task, record = make_task("evaluate")
    evaluate(spec, catalog, task, record, plan)
    models.crown(catalog, plan.version)
    return plan


def tuned_champion(
    catalog: Catalog, spec: DatasetSpec, backbone_id: str = "none", views: tuple[str, ...] = ()
) -> str:
    """A fine-tuned network with seeded weights, and its scores."""
    tune = FineTuneSpec.model_validate(
        {
            "head": {"hidden": 8, "batch_norm": True},
            "precision": "fp32",
            "test_time_augmentation": views,
        }
    )
    backbone = backbones.load_backbone(spec.backbone)
    network = make_network(backbone, tune.head, 2, seed=3).eval()
    version = "00001-tuned"
    settings = {"backbone": spec.backbone.model_dump(mode="json"), "precision": "fp32"}
    settings |= {"settings": tune.model_dump(mode="json"), "history": []}
    write_model(
        catalog,
        spec,
        version,
        "fine_tuned",
        head=None,
        fine_tuning=settings,
        backbone_id=backbone_id,
    )
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    storage.write_bytes(storage.join(catalog.model(version), "weights.safetensors"), save(weights))
    working = Network(network, backbone.preprocessing, "fp32")
    rows = stored(catalog.images)
    pixels = [images.decode_pixels(row["content"], row["rotation"]) for row in rows]
    logits = torch.from_numpy(working.embed([backbone.preprocessing.prepare(p) for p in pixels]))
    scores = [
        {"image_id": row["image_id"], "model_version": version, "probabilities": shares,
         "augmented": [0.5, 0.5]}
        for row, shares in zip(rows, logits.softmax(dim=1).numpy(), strict=True)
    ]  # fmt: skip
    store_partition(catalog.scores, scores, version)
    models.crown(catalog, version)
    return version


def write_model(catalog: Catalog, spec: DatasetSpec, version: str, kind: str, **more: Any) -> None:
    model = {"version": version, "kind": kind, "labels": ["a", "b"], "metrics": {}, "rows": {}}
    model |= {"created_at": "2026-01-01T00:00:00+00:00", "fingerprint": f"of {version}"}
    model |= {"spec": spec.model_dump(mode="json"), "backbone_id": "none"}
    models.write_model(catalog, {**model, "tables": {"images": 1}, **more})


def stored(table: tables.Table) -> list[dict[str, Any]]:
    batches = tables.read_batches(table, table.schema.names)
    return [row for batch in batches for row in batch.to_pylist()]
