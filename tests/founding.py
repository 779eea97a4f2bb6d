"""The founding datasets in small: their own YAML files, pointed at local servers that speak as the
providers do, with seeded random weights in place of the hub's.
"""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sightline import memory
from sightline.airflow_client import ENDED, AirflowClient, Run
from sightline.settings import load_settings
from tests.conftest import SIGHTLINE, run_sightline
from tests.servers.kaggle import _jpeg

DATASETS = ("land_transport", "open_images_car_tree", "fruits_360", "sun397", "car_models")

FLICKR_KEY = "flickr-key-that-nobody-may-read"
KAGGLE_TOKEN = "KGAT_token-that-nobody-may-read"
RUN_SECONDS = 3_600
LARGEST_BYTES = 24 * memory.GIB
BACKBONES = ("resnet18", "inception_v3", "vgg16", "efficientnet_b6")


def shipped(name: str) -> dict[str, Any]:
    """A dataset file of include/datasets."""
    path = load_settings().home / "include" / "datasets" / f"{name}.yaml"
    return dict(yaml.safe_load(path.read_text()))


def pointed_here(name: str, **source: Any) -> dict[str, Any]:
    """The shipped file with other addresses in its source, which may be asked, and a short training: one
    epoch for each phase, two trials of the search. A training takes a fifth of the machine: of a larger one
    than CI's it is told to take no more than there."""
    spec = shipped(name)
    spec["source"] |= source
    spec["fetch"] = {"allow_addresses": ["127.0.0.0/8"]}
    tuning = spec.get("fine_tune", {})
    for trained in tuning.get("phases", [tuning] if tuning else []):
        trained["epochs"] = 1
    if "search" in tuning:
        tuning["search"]["trials"] = 2
    if memory.total_bytes() > LARGEST_BYTES:
        spec.setdefault("limits", {})["memory"] = LARGEST_BYTES // 5
    return spec


def write_dataset(places: Path, name: str, **source: Any) -> None:
    """Write the shipped file, pointed at the servers of the test."""
    text = yaml.safe_dump(pointed_here(name, **source))
    (places / "datasets" / f"{name}.yaml").write_text(text)


def write_weights(folder: Path) -> None:
    """Seeded random weights where torchvision's downloads are kept, under the names it looks for.

    In a process of its own, whose gigabyte is gone before anything is measured.
    """
    checkpoints = folder / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", WRITE_WEIGHTS, str(checkpoints), *BACKBONES], check=True)


WRITE_WEIGHTS = """
import sys
import torch
from torchvision.models import get_model, get_model_weights

folder, *names = sys.argv[1:]
for name in names:
    torch.manual_seed(0)
    fast = {"init_weights": False} if name == "inception_v3" else {}
    network = get_model(name, weights=None, **fast)
    file = get_model_weights(name).DEFAULT.url.rsplit("/", 1)[-1]
    torch.save(network.state_dict(), f"{folder}/{file}")
"""


def sun397(images: int = 12) -> tuple[bytes, bytes]:
    """SUN397.tar.gz and Partitions.zip as they are laid out, three classes of scenes."""
    packed, lists = io.BytesIO(), {"Training_01.txt": "", "Testing_01.txt": ""}
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for number, scene in enumerate(("a/abbey", "c/church/outdoor", "c/church/indoor")):
            for index in range(images):
                content = _jpeg(number, 30_000 + 100 * number + index)
                info = tarfile.TarInfo(f"SUN397/{scene}/sun_{index:03d}.jpg")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
                part = "Testing_01.txt" if index % 2 else "Training_01.txt"
                lists[part] += f"/{scene}/sun_{index:03d}.jpg\n"
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, text in lists.items():
            archive.writestr(name, text)
    return packed.getvalue(), zipped.getvalue()


def md5(content: bytes) -> str:
    """As SUN397's own is given."""
    return hashlib.md5(content).hexdigest()


def environment(places: Path) -> dict[str, str]:
    """The environment of the commands: places of their own, logins, weights."""
    return {
        **os.environ,
        "SIGHTLINE_STORAGE": str(places / "data"),
        "SIGHTLINE_STATE": str(places / "state"),
        "SIGHTLINE_DATASETS": str(places / "datasets"),
        "TORCH_HOME": str(places / "torch"),
        "AIRFLOW_CONN_FLICKR_DEFAULT": f'{{"conn_type": "generic", "password": "{FLICKR_KEY}"}}',
        "AIRFLOW_CONN_KAGGLE_DEFAULT": f'{{"conn_type": "generic", "password": "{KAGGLE_TOKEN}"}}',
    }


def sightline(places: Path, *arguments: str) -> str:
    """Run a command of ours to its end; returns what it said."""
    return run_sightline(environment(places), *arguments, seconds=RUN_SECONDS)


def prepare(places: Path) -> None:
    """Make what every checkout has: the database, and the archive of Spark's classes, which halves the start
    of each job and is copied from this checkout where it fits."""
    (places / "state").mkdir()
    for archive in (load_settings().home / ".sightline").glob("spark-classes.*"):
        shutil.copy2(archive, places / "state")
    sightline(places, "prepare")


@contextmanager
def airflow_up(places: Path) -> Iterator[None]:
    """One Airflow for many commands."""
    with (places / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [SIGHTLINE, "up"], env=environment(places), stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)


@contextmanager
def session(places: Path) -> Iterator[AirflowClient]:
    """A session with the Airflow that is starting here."""
    home = places / "state" / "airflow"
    wait_until(lambda: "Ctrl-C" in (places / "up.log").read_text(), "Airflow's start")
    port = json.loads((home / "server.json").read_text())["port"]
    password = json.loads((home / "passwords.json").read_text())["admin"]
    with AirflowClient(f"http://127.0.0.1:{port}", password) as client:
        yield client


def trigger(client: AirflowClient, dag_id: str, **parameters: Any) -> Run:
    """Start a run with parameters, as a person does in the UI."""
    client.set_paused(dag_id, False)
    asked = {"logical_date": None, "conf": parameters}
    found = client._request("POST", f"/dags/{dag_id}/dagRuns", json=asked).json()
    return client.run(dag_id, found["dag_run_id"])


def runs_of(client: AirflowClient, dag_id: str) -> list[Run]:
    """All runs of a DAG."""
    found = client._request("GET", f"/dags/{dag_id}/dagRuns").json()["dag_runs"]
    return [client.run(dag_id, run["dag_run_id"]) for run in found]


def wait_for_success(client: AirflowClient, run: Run) -> dict[str, str | None]:
    """Wait until a run has ended well; returns the state of each task."""
    wait_until(lambda: client.run(run.dag_id, run.run_id).state in ENDED, f"{run.run_id}'s end")
    states = {task.task_id: task.state for task in client.tasks(run).values()}
    assert client.run(run.dag_id, run.run_id).is_well, states
    return states


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + RUN_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {RUN_SECONDS} s"
        time.sleep(0.2)


def files_with(places: Path, *secrets: str) -> list[Path]:
    """Files below the places that hold one of the secrets."""
    wanted = [secret.encode() for secret in secrets]
    files = [path for path in places.rglob("*") if path.is_file() and "torch" not in path.parts]
    return [path for path in files if any(one in path.read_bytes() for one in wanted)]
