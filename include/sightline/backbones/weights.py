"""Pretrained weights: by name through the library's own cache and download, or from a file, strictly.

Whatever is missing, broken or of another network is a WeightsError with one sentence; nothing falls
back to random weights, and no dead network keeps a task waiting.
"""

import logging
import re
import socket
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline import storage
from sightline.config import BackboneSpec
from sightline.errors import WeightsError

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

NETWORK_TIMEOUT_SECONDS = 15.0  # of silence, before a download is given up
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")

# torchvision's own densenet files are from a time when a module's name could hold a dot.
OLD_DENSENET_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def are_random(spec: BackboneSpec) -> bool:
    """Whether the weights are seeded random ones."""
    return spec.weights == "random"


def are_a_file(spec: BackboneSpec) -> bool:
    """Whether the weights lie in a file, as opposed to having a name."""
    return "/" in spec.weights or Path(spec.weights).suffix in SUFFIXES


def label(spec: BackboneSpec) -> str:
    """What stands for the weights in a backbone's id, which also names a folder and stands in SQL."""
    if are_random(spec):
        return f"random{spec.seed}"
    name = Path(spec.weights).stem if are_a_file(spec) else spec.weights
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def download(spec: BackboneSpec, build: Callable[[], "nn.Module"]) -> "nn.Module":
    """Build a network with weights by name, from the library's cache or from its hub."""
    try:
        with _impatience(), _hub_or_cache() if spec.name.startswith("timm/") else nullcontext():
            return build()
    except (OSError, RuntimeError) as error:  # no network, no such weights, or a wrong hash
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise WeightsError(
            f"Weights {spec.weights!r} of {spec.name} are neither in the local cache nor to be "
            f"downloaded ({reason}); connect once, or set backbone.weights to a file that you have, "
            "or to 'random'."
        ) from error


def load_file(network: "nn.Module", spec: BackboneSpec) -> None:
    """Load a file's state dict into the network it was saved from."""
    state = _read_state(spec)
    try:
        load_state(network, state)
    except (RuntimeError, ValueError) as error:
        problem = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"Weights file {spec.weights} does not fit {spec.name}: {problem}; "
            "give the file of this network, or name the file's network in backbone.name."
        ) from error


def load_state(network: "nn.Module", state: dict[str, Any], assign: bool = False) -> None:
    """Load a state dict strictly; with `assign` its tensors become the network's own, without a copy."""
    whole = OrderedDict(state)
    # safetensors keep no version marks, without which a few networks (mnasnet) refuse their own state.
    marks = getattr(state, "_metadata", {"": network.state_dict()._metadata[""]})  # type: ignore[attr-defined]
    whole._metadata = marks  # type: ignore[attr-defined]
    network.load_state_dict(whole, assign=assign)


def _read_state(spec: BackboneSpec) -> dict[str, Any]:
    path = storage.located(spec.weights)
    if not storage.exists(path):
        raise WeightsError(f"Weights file {path} does not exist; correct backbone.weights.")
    try:
        state = _parse(path)
    except Exception as error:  # torch.load raises a dozen kinds when it meets a broken file
        raise WeightsError(
            f"Weights file {path} ({_size(path)}) cannot be read, it may be cut short or of another "
            f"kind ({type(error).__name__}); get it again, or save model.state_dict() to it."
        ) from error
    for wrapper in ("state_dict", "model"):  # as training scripts save it
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    if not _is_state(state):
        raise WeightsError(
            f"Weights file {path} holds no state dict; save model.state_dict() to it."
        )
    if spec.name.startswith("densenet"):
        return {OLD_DENSENET_NAME.sub(r"\1\2", name): value for name, value in state.items()}
    assert isinstance(state, dict)
    return state


def _parse(path: str) -> Any:
    """The file's content, mapped if its format allows, so that the network is the only copy in memory."""
    import torch
    from safetensors.torch import load_file

    with _on_disk(path) as file:
        if path.endswith(".safetensors"):
            return load_file(file)
        is_mapped = zipfile.is_zipfile(file)  # files of before torch 1.6 are not
        return torch.load(file, map_location="cpu", weights_only=True, mmap=is_mapped)


@contextmanager
def _on_disk(path: str) -> Iterator[str]:
    """The file on this machine; what was mapped of it stays valid."""
    fs, name = storage.filesystem(path)
    if storage.is_local(path):
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/weights"
        fs.get_file(name, file)
        yield file


def _is_state(state: Any) -> bool:
    return isinstance(state, dict) and all(
        isinstance(name, str) and hasattr(value, "shape") for name, value in state.items()
    )


def _size(path: str) -> str:
    fs, name = storage.filesystem(path)
    return f"{fs.size(name) or 0:,} bytes"


@contextmanager
def _impatience() -> Iterator[None]:
    """torch's downloads have no timeout of their own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _hub_or_cache() -> Iterator[None]:
    """Tell timm's hub that it is offline when it is: it would try again for a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = not _hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_answers() -> bool:
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=NETWORK_TIMEOUT_SECONDS)
    except Exception as error:  # the hub's HTTP client has exceptions of its own
        log.warning("%s does not answer (%s)", constants.ENDPOINT, type(error).__name__)
        return False
    return True
