"""What made a model or a table: which code, in which environment."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sightline import __version__
from sightline.settings import load_settings

# Those that change what comes out.
PACKAGES = (
    "albumentations", "apache-airflow", "deltalake", "numpy", "pandas", "pillow", "pyarrow", "pyspark",
    "safetensors", "scikit-learn", "scipy", "simplejpeg", "timm", "torch", "torchvision",
)  # fmt: skip


def made_by(java: str | None = None) -> dict[str, Any]:
    """For a model.json: the code and the environment that trains it, with the version of its JVM."""
    return {"code": describe_code(), "environment": describe_environment(java)}


def java_of(session: Any) -> str:
    """The version of the JVM of a Spark session."""
    return str(session.sparkContext._jvm.java.lang.System.getProperty("java.version"))


@cache
def describe_code() -> dict[str, Any]:
    """Sightline's version, and the commit of its checkout where there is one.

    SIGHTLINE_COMMIT names it where the code is not in a checkout, as in an image of a container.
    """
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "version": __version__,
        "commit": commit(),
        "modified": None if changed is None else bool(changed),
    }


@cache
def commit() -> str | None:
    """The commit of the code, or None where nobody knows it."""
    return os.environ.get("SIGHTLINE_COMMIT") or _git("rev-parse", "HEAD")


@cache
def repository() -> str | None:
    """The https address of the checkout's origin, or None; a login in it is left out."""
    remote = _git("remote", "get-url", "origin")
    if not remote:
        return None
    if "://" not in remote and ":" in remote:  # git@host:owner/name.git
        host, _, path = remote.rpartition("@")[2].partition(":")
        return f"https://{host}/{path.removesuffix('.git')}"
    parts = urlsplit(remote)
    if not parts.hostname:
        return None
    port = f":{parts.port}" if parts.port and parts.scheme.startswith("http") else ""
    return f"https://{parts.hostname}{port}{parts.path.removesuffix('.git')}"


@cache
def folder_in_repository() -> str:
    """Where Sightline's home lies in its repository: nothing, or a path with a slash at its end."""
    return _git("rev-parse", "--show-prefix") or ""


def describe_environment(java: str | None = None) -> dict[str, Any]:
    """Versions and hardware of this process."""
    return {
        "python": platform.python_version(),
        "java": java,
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "gpus": _gpus(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name; Linux tells it in a file only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpus() -> list[str]:
    """Names of the GPUs that this process uses; one that has not loaded torch uses none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _git(*arguments: str) -> str | None:
    """What git says of Sightline's home, or None where it is no checkout or there is no git."""
    command = ["git", "-C", str(load_settings().home), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
