"""The founding datasets in small: their own YAML files, pointed at local servers that speak as the
providers do, with seeded random weights in place of the hub's.
"""

import hashlib
import io
import os
import signal
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sightline.settings import load_settings
from tests.conftest import SIGHTLINE, run_sightline
from tests.servers.kaggle import _jpeg

FLICKR_KEY = "flickr-key-that-nobody-may-read"
KAGGLE_TOKEN = "KGAT_token-that-nobody-may-read"
RUN_SECONDS = 1_800
BACKBONES = ("resnet18", "inception_v3", "vgg16", "efficientnet_b6")


def write_dataset(places: Path, name: str, **addresses: Any) -> None:
    """The shipped file with other addresses in its source; local ones are allowed to be asked."""
    shipped = load_settings().home / "include" / "datasets" / f"{name}.yaml"
    spec = yaml.safe_load(shipped.read_text())
    spec["source"].update(addresses)
    spec["fetch"] = {"allow_addresses": ["127.0.0.0/8"]}
    (places / "datasets" / f"{name}.yaml").write_text(yaml.safe_dump(spec))


def write_weights(folder: Path) -> None:
    """Seeded random weights where torchvision's downloads are kept, under the names it looks for."""
    import torch
    from torchvision.models import get_model, get_model_weights

    checkpoints = folder / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for name in BACKBONES:
        torch.manual_seed(0)
        fast = {"init_weights": False} if name == "inception_v3" else {}
        network = get_model(name, weights=None, **fast)
        file = get_model_weights(name).DEFAULT.url.rsplit("/", 1)[-1]
        torch.save(network.state_dict(), checkpoints / file)


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


def files_with(places: Path, *secrets: str) -> list[Path]:
    """Files below the places that hold one of the secrets."""
    wanted = [secret.encode() for secret in secrets]
    files = [path for path in places.rglob("*") if path.is_file() and "torch" not in path.parts]
    return [path for path in files if any(one in path.read_bytes() for one in wanted)]
