"""Both candidates and a scaling study in a real Airflow: trained, killed, judged together, published."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from sightline import models, storage, tables
from sightline.catalog import open_catalog
from tests.conftest import run_sightline, write_photos

pytestmark = pytest.mark.nightly

DATASET = """
source: {{type: folder, path: {photos}}}
backbone: {{name: resnet18, weights: random, image_size: 32}}
reduce: {{components: 8}}
train: {{penalties: [0.01], folds: 2}}
fine_tune:
  trainable: head+bn
  epochs: 6
  learning_rate: 0.02
  batch_size: 16
  test_time_augmentation: [flips]
"""
STUDY = {"dataset": "colours", "workers": [1, 2], "batch_sizes": [16], "epochs": 1}
STUDY |= {"price_per_hour": 1.5}


def kill_the_training(data: Path) -> None:
    """kill -9 the driver of fine_tune when two epochs are over."""
    staging = data / "colours" / "staging"
    deadline = time.monotonic() + 400
    while _epochs(staging) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(word.endswith("fine_tune.py") for word in words) and words[0].endswith("python"):
            os.kill(process.pid, signal.SIGKILL)


def _epochs(staging: Path) -> int:
    from sightline.fine_tuning.checkpoints import read_checkpoint

    for path in staging.glob("fine-tune-*/checkpoint.safetensors"):
        found = read_checkpoint(str(path))
        return 0 if found is None else len(found.history)
    return 0


def test_a_killed_training_is_judged_beside_the_head_and_a_study_follows(own_places: Path) -> None:
    photos = write_photos(own_places / "photos", {"amber": 30, "blue": 30, "coral": 30})
    (own_places / "datasets" / "colours.yaml").write_text(DATASET.format(photos=photos))
    environment = dict(os.environ)
    said = run_sightline(
        environment,
        "run",
        "colours",
        seconds=500,
        meanwhile=lambda: kill_the_training(own_places / "data"),
    )
    catalog = open_catalog("colours")
    champion = models.read_champion(catalog)
    assert champion is not None
    plan = champion["version"].removesuffix("-tuned")
    tuned = models.read_model(catalog, f"{plan}-tuned")
    assert tuned is not None
    assert len(tuned["fine_tuning"]["history"]) == 6
    decision = storage.read_json(storage.join(catalog.model(plan), "decision.json"))
    assert decision["passed"]
    assert {one["kind"] for one in decision["candidates"]} == {"head", "fine_tuned"}
    assert "fine_tune" in said
    log = next((own_places / "state").rglob("*fine_tune*/attempt=2.log")).read_text()
    assert "goes on after epoch" in log
    run_sightline(
        environment, "airflow", "dags", "test", "scaling_study", "--conf", json.dumps(STUDY),
        seconds=300,
    )  # fmt: skip
    assert tables.count_rows(catalog.scaling) == 2
    pages = [name for name in storage.list_names(catalog.reports) if name.startswith("scaling-")]
    assert len(pages) == 1
    if os.environ.get("SIGHTLINE_KEEP_PAGES"):
        for name in (*pages, "latest.html"):
            content = storage.read_bytes(storage.join(catalog.reports, name))
            storage.write_bytes(storage.join(os.environ["SIGHTLINE_KEEP_PAGES"], name), content)
