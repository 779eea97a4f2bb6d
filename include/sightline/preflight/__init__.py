"""Before a run costs anything: are source, weights, disk and memory there for what the dataset asks?

Each check returns one line of fact, or raises a SightlineError whose sentence says what to do.
"""

import math

from sightline import backbones, emr, storage, tables
from sightline.catalog import open_catalog
from sightline.config import DatasetSpec
from sightline.errors import ResourceError, SourceError, WeightsError
from sightline.memory import shown
from sightline.preflight import memory_needs
from sightline.settings import load_settings
from sightline.sources import SOURCES, Access, Survey

TYPICAL_IMAGE_BYTES = 300_000  # where the source does not say
KEPT_FREE_BYTES = 200 * 2**20  # logs, Spark's own files, the operating system's comfort


def check(spec: DatasetSpec, access: Access) -> list[str]:
    """Run every check; the facts are for a person to read."""
    return check_survey(spec, SOURCES[spec.source.type].survey(spec.source, access))


def check_survey(spec: DatasetSpec, survey: Survey) -> list[str]:
    """The checks that follow from what a source holds."""
    facts = [*survey.facts, *_check_compute(spec)]
    if survey.images_by_class is not None:
        facts.append(_check_classes(spec, survey.images_by_class))
    dim, weights_bytes, weights = _check_weights(spec)
    size = memory_needs.Workload.of(survey, dim, weights_bytes)
    memory = memory_needs.check(spec, size)  # first: unlike a disk, it is seldom made larger
    return [*facts, weights, _check_disk(spec, survey, size), *memory]


def _check_classes(spec: DatasetSpec, counts: dict[str, int]) -> str:
    if not counts:
        path = getattr(spec.source, "path", spec.source.type).rstrip("/")
        raise SourceError(
            f"Dataset {spec.name}: {path} holds no image; put photos into {path}/<class>/."
        )
    if len(counts) < 2:
        raise SourceError(
            f"Dataset {spec.name} has one class only, {next(iter(counts))!r}; a classifier needs two: "
            "add a folder for another class."
        )
    least = spec.limits.images_per_class
    small = [f"{name!r} has {count}" for name, count in sorted(counts.items()) if count < least]
    if small:
        more = f" and {len(small) - 5} more classes have too few" if len(small) > 5 else ""
        raise SourceError(
            f"Dataset {spec.name}: class {', class '.join(small[:5])}{more}, but a class needs "
            f"{least} images or more; add images, remove the class, or set limits.images_per_class."
        )
    return f"source: {sum(counts.values()):,} images in {len(counts)} classes"


def _check_weights(spec: DatasetSpec) -> tuple[int, int, str]:
    """The width of the features, the bytes of the weights if they were loaded, and the fact."""
    backbone = spec.backbone
    dim = backbones.known_dimension(backbone)
    if backbones.is_random(backbone):
        dim = dim or backbones.load_backbone(backbone).dim
        return (
            dim,
            0,
            f"backbone: {backbone.name}, {dim:,} features, seeded random weights (never trained)",
        )
    loaded = backbones.load_backbone(backbone)
    return (
        loaded.dim,
        sum(parameter.nbytes for parameter in loaded.module.parameters()),
        f"backbone: {backbone.name}, {loaded.dim:,} features, weights {backbone.weights}",
    )


def _check_compute(spec: DatasetSpec) -> list[str]:
    """What jobs on EMR must find elsewhere than on this machine."""
    compute, weights = spec.compute, spec.backbone.weights
    if compute.where == "spark":
        return []
    emr.check_storage(load_settings().storage)
    if backbones.is_from_file(spec.backbone) and storage.is_local(weights):
        raise WeightsError(
            f"Weights file {weights} lies on this machine, where no job on EMR finds it; copy it to the "
            "tables' bucket, and set backbone.weights to its s3:// address."
        )
    sizes = f"{compute.executor_cores} cores and {compute.executor_memory_gigabytes} GB"
    return [f"compute: {compute.where}, up to {compute.executors} executors of {sizes}"]


def _check_disk(spec: DatasetSpec, survey: Survey, size: memory_needs.Workload) -> str:
    """Images that are held already are not written again; the weights lie on the storage for the workers."""
    catalog = open_catalog(spec.name)
    images = survey.total
    known = tables.count_rows(catalog.images) + tables.count_rows(catalog.rejects)
    new = max(0, images - known)
    new_bytes = new * TYPICAL_IMAGE_BYTES
    if survey.size_bytes is not None:
        new_bytes = math.ceil(survey.size_bytes * (new / images if images else 1.0))
    needed = int(1.2 * new_bytes) + 2 * images * size.dim * 4 + size.weights + KEPT_FREE_BYTES
    free = storage.free_bytes(catalog.root)
    if free is None:
        return f"disk: about {shown(needed)} will be written to {catalog.root}"
    if free < needed:
        raise ResourceError(
            f"Dataset {spec.name} needs about {shown(needed)} on disk at {catalog.root}, but "
            f"{shown(free)} are free; make room or set SIGHTLINE_STORAGE to a larger place."
        )
    return f"disk: about {shown(needed)} needed, {shown(free)} free at {catalog.root}"
