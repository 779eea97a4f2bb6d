"""A model as one file for elsewhere, its preprocessing inside: pixels in, probabilities out.

modules is the model in torch, formats writes and reads the files, comparison holds them against our own
answers on the test images, facts says beside the file what it is. No file is left that answers otherwise
than we do.
"""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline import models, storage
from sightline.catalog import Catalog
from sightline.errors import CheckFailed, ConfigError
from sightline.exporting.comparison import Comparison, compare, tolerance_of
from sightline.exporting.facts import describe
from sightline.exporting.formats import FORMATS, trace
from sightline.exporting.modules import build_module

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """Where the file and its description lie, and how it compares with our own answers."""

    version: str
    url: str
    facts_url: str
    size_bytes: int
    compared: Comparison


def export(
    catalog: Catalog,
    kind: str,
    version: str | None = None,
    to: str | None = None,
    most_images: int = 1000,
) -> Exported:
    """Write the champion, or another version, as a file of a kind of FORMATS, with a JSON file beside.

    ConfigError where there is no such version, or the network prepares pictures in a way of its own;
    CheckFailed where the file disagrees with our answers on so many test images.
    """
    model = _find_model(catalog, version)
    made = FORMATS[kind]
    url = to or storage.join(catalog.exports, f"{model['version']}{made.suffix}")
    program = trace(build_module(catalog, model))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{made.suffix}"
        made.write(program, path)
        compared = compare(catalog, model, made.open(path), most_images)
        _refuse_others(model, compared)
        storage.put_file(url, path)
        size_bytes = path.stat().st_size
    facts_url = f"{url.removesuffix(made.suffix)}{made.suffix}.json"
    storage.write_json(facts_url, describe(catalog, model, kind, compared))
    return Exported(model["version"], url, facts_url, size_bytes, compared)


def _find_model(catalog: Catalog, version: str | None) -> dict[str, Any]:
    if version is None:
        return models.require_champion(catalog)
    model = models.read_model(catalog, version)
    if model is None:
        raise ConfigError(
            f"Dataset {catalog.dataset} has no model {version!r}; 'sightline models "
            f"{catalog.dataset}' lists them."
        )
    models.refuse_retired(model)
    return model


def _refuse_others(model: dict[str, Any], compared: Comparison) -> None:
    if compared.differing:
        raise CheckFailed(
            f"The file of model {model['version']} disagrees with its answers on {compared.differing} of "
            f"{compared.images} test images, by up to {compared.largest_difference:.4f} in probability "
            f"({tolerance_of(model):g} is allowed); it is not kept."
        )
