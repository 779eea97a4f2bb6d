"""Every backbone that the README, the docs and the dataset files name featurizes four images in a real Spark
job, started with the settings of the task `featurize`, and gives features of its declared width.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline import backbones, ledger, memory, spark, tables
from sightline.airflow_environment import TASK_FAILURES, airflow_environment, prepare_home
from sightline.backbone_names import TORCHVISION_NAMES
from sightline.catalog import Catalog, open_catalog
from sightline.config import BackboneSpec, DatasetSpec
from sightline.settings import load_settings
from sightline.spark_workers import TORCH_WORKERS
from tests.conftest import image_row, jpeg, store_rows, write_dataset
from tests.memory_watch import MemoryWatch

HOME = Path(__file__).parents[1]
IN_CI = ("vgg16", "efficientnet_b6")  # the most weights, and the largest pictures
MORE = ("convnext_base", "vit_b_16", "timm/vit_small_patch14_dinov2.lvd142m")
MOST_BYTES = int(
    3.5 * memory.GIB
)  # of a job's processes together: JVM, driver, daemon, two workers
SECONDS = 600
DATASET = """
source: {{type: folder, path: photos}}
backbone: {{name: {name}, weights: random}}
"""


def named_backbones() -> list[str]:
    """The networks that the README, the docs and the dataset files name, as in vgg16 or MobileNetV2."""
    files = [HOME / "README.md", *(HOME / "docs").glob("*.md")]
    files += (HOME / "include" / "datasets").glob("*.yaml")
    text = "\n".join(path.read_text() for path in files)
    known = {name.replace("_", ""): name for name in TORCHVISION_NAMES}
    words = {re.sub("[-_]", "", word).lower() for word in re.findall(r"[A-Za-z][\w-]+", text)}
    of_timm = re.findall(r"timm/[a-z]\w+(?:\.\w+)?", text)
    return sorted({known[word] for word in words & known.keys()} | set(of_timm))


def marked(name: str) -> object:
    """All are of the nightly suite, two of CI's as well."""
    nightly, in_ci = pytest.mark.nightly, pytest.mark.founding
    return pytest.param(name, marks=[nightly, in_ci] if name in IN_CI else nightly)


ALL = sorted({*named_backbones(), *IN_CI, *MORE})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Four photos in two files, so that both workers have some; every backbone featurizes them."""
    folder = tmp_path_factory.mktemp("backbones")
    (folder / "datasets").mkdir()
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as here:
        set_places(here, folder)
        prepare_home(load_settings())
        for label in ("amber", "blue"):
            colours = [rng.integers(0, 256, 3) for _ in range(2)]
            rows = [image_row(jpeg(rng, colour, 640), label) for colour in colours]
            store_rows(open_catalog("photos").images, rows)
    yield folder


@pytest.fixture(autouse=True)
def look_there(places: Path, own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look into the module's places rather than the test's own."""
    set_places(monkeypatch, places)


def set_places(patch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in ("storage", "state", "datasets"):
        patch.setenv(f"SIGHTLINE_{name.upper()}", str(folder / name))
    patch.setenv("SIGHTLINE_SPARK_MASTER", "")


def run_featurize(spec: DatasetSpec) -> None:
    """Submit the job as the task does: its settings, its daemon, its environment."""
    conf = {
        **spark.submit_conf(),
        **TORCH_WORKERS,
    }  # test_dags compares TORCH_WORKERS with the task's
    command = [str(Path(sys.executable).with_name("spark-submit"))]
    command += ["--master", f"local[2,{TASK_FAILURES}]"]
    command += [f"--conf={key}={value}" for key, value in conf.items()]
    command += [str(HOME / "spark_jobs" / "featurize.py"), spec.name]
    task = {"SIGHTLINE_DAG_ID": f"ingest_{spec.name}", "SIGHTLINE_PARTITION": "all"}
    task["SIGHTLINE_RUN_ID"] = spec.backbone.name.replace("/", ".")
    environment = airflow_environment(load_settings(), port=8080) | task
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4_000:]


def declared_width(spec: BackboneSpec) -> int:
    """The width that a dataset's preflight counts with; of other networks, that of their last layer."""
    known = backbones.known_dimension(spec)
    if known is not None:
        return known
    with torch.device("meta"):
        return backbones.build_untrained(spec)[1]


def embeddings(catalog: Catalog, backbone_id: str) -> np.ndarray:  # type: ignore[type-arg]
    """(images, width) float32."""
    statement = f"SELECT embedding FROM features WHERE backbone_id = '{backbone_id}'"
    with tables.query(features=catalog.features) as sql:
        return np.array(sql(statement)["embedding"].to_pylist(), np.float32)


def test_the_docs_name_the_backbones_that_we_know_of() -> None:
    named = named_backbones()
    assert {"resnet18", "resnet50", "inception_v3", "vgg16", "efficientnet_b6"} <= set(named)
    assert "mobilenet_v2" in named  # docs/fine-tuning.md writes MobileNetV2
    assert "resnext50_32x4d" not in named


@pytest.mark.parametrize("name", [marked(name) for name in ALL])
def test_a_backbone_featurizes_with_the_default_settings(
    places: Path, tell: Callable[[str], None], name: str
) -> None:
    spec = write_dataset(places, "photos", DATASET.format(name=name))
    catalog = open_catalog("photos")
    with MemoryWatch(f"SIGHTLINE_STATE={places / 'state'}") as watch, watch.measured() as peak:
        run_featurize(spec)
    tell(f"{name}: {peak.describe()}")
    counts = ledger.last_record(catalog, "ingest_photos", "featurize")["counts"]
    assert counts["backbone"] == spec.backbone.model_dump(mode="json")
    assert counts["featurized"] == 4
    found = embeddings(catalog, counts["backbone_id"])
    assert found.shape == (4, declared_width(spec.backbone))
    assert np.isfinite(found).all()
    assert len(np.unique(found, axis=0)) == 4
    assert peak.size_bytes <= MOST_BYTES, peak.describe()
