"""A plan: every stage at a size, on a cluster, with its storage and its price; and where each is outgrown."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from sightline import backbones, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import ConfigError
from sightline.ledger import describe
from sightline.planning.machines import GIB, PRICES_OF, Cluster, Prices
from sightline.planning.measured import Measured
from sightline.planning.parts import ON_EXECUTORS, PARTS, Need, Size, Stage, useful_executors

TYPICAL_IMAGE_BYTES = 300_000  # where none is held yet
MANIFEST_ROW_BYTES, IMAGE_ROW_BYTES, ID_BYTES = 150, 300, 50  # beside the content, compressed
WRITES_A_COMMIT = 4  # objects: data, log entry, and their share of checkpoints and listings
SIZES = (1e6, 1e7, 1e8, 1e9)
BEYOND = 1e12  # images, at which a search for a limit ends


@dataclass(frozen=True)
class Planned:
    """A stage at a size; `most_images` is where it needs more than `hours` or than a machine's memory."""

    name: str
    on_executors: bool
    need: Need
    most_images: float
    outgrows: str  # "hours" or "memory"


@dataclass(frozen=True)
class Plan:
    """What a dataset of a size needs."""

    dataset: str
    size: Size
    cluster: Cluster
    hours_allowed: float
    useful_executors: int  # more make no stage faster
    measured_on: str
    parts: list[Planned]
    storage_bytes: dict[str, float]
    dollars: dict[str, float]

    @property
    def hours(self) -> float:
        """Of the stages, one after the other."""
        return sum(part.need.hours for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "hours": self.hours}


def size_of(spec: DatasetSpec, catalog: Catalog, images: float | None) -> Size:
    """The size that the tables tell, or that was asked for, with images as large as those that we hold."""
    held = describe(catalog.images)
    found = images or tables.count_rows(catalog.manifest)
    if not found:
        raise ConfigError(
            f"Dataset {spec.name} has listed no image yet; say how many there will be, such as "
            f"'sightline plan {spec.name} --images 1e6'."
        )
    dim = backbones.known_dimension(spec.backbone) or backbones.load_backbone(spec.backbone).dim
    components = spec.reduce.components if spec.reduce else None
    return Size(
        images=found,
        image_bytes=held["bytes"] / held["rows"] if held["rows"] else TYPICAL_IMAGE_BYTES,
        dim=dim,
        width=components or dim,
        images_per_commit=spec.limits.images_per_commit,
        backbone=spec.backbone.name,
    )


def make_plan(
    spec: DatasetSpec, size: Size, cluster: Cluster, measured: Measured, prices: Prices
) -> Plan:
    """Every stage at the size; ConfigError where the backbone was not measured."""
    if size.backbone not in measured.featurizing:
        known = ", ".join(measured.featurizing)
        raise ConfigError(
            f"How fast {size.backbone} is was not measured (known: {known}); give its images a second of "
            "one core, such as --rate 20: the log of featurize tells it."
        )
    allowed = spec.compute.hours
    parts = [
        _planned(name, stage, size, cluster, measured, allowed) for name, stage in PARTS.items()
    ]
    stored = storage_bytes(size)
    hours = sum(part.need.hours for part in parts if part.on_executors)
    writes = 2 * size.chunks * WRITES_A_COMMIT
    machines = cluster.dollars(hours)
    dollars = {
        "instances": machines,
        "EMR on top": machines * prices.emr_share,
        "or EMR Serverless": cluster.serverless_dollars(hours, prices),
        "requests": writes / 1_000 * prices.requests_per_thousand,
        "storage, a month": sum(stored.values()) / 1e9 * prices.storage_gigabyte_month,
    }
    useful = useful_executors(size, cluster, measured)
    return Plan(spec.name, size, cluster, allowed, useful, measured.machine, parts, stored, dollars)


def _planned(
    name: str, stage: Stage, size: Size, cluster: Cluster, measured: Measured, hours: float
) -> Planned:
    def need(images: float) -> Need:
        return stage(replace(size, images=images), cluster, measured)

    by_hours = largest(lambda images: need(images).hours <= hours)
    by_memory = largest(lambda images: need(images).memory_bytes <= cluster.memory_bytes)
    outgrows = "hours" if by_hours <= by_memory else "memory"
    on_executors = name in ON_EXECUTORS
    return Planned(name, on_executors, need(size.images), min(by_hours, by_memory), outgrows)


def largest(fits: Callable[[float], bool]) -> float:
    """The most images, to two digits, that fit; needs grow with the images."""
    low, high = 0.0, math.log10(BEYOND)
    if fits(BEYOND):
        return math.inf
    while high - low > 0.004:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(10**middle) else (low, middle)
    return float(f"{10**low:.2g}")


def storage_bytes(size: Size) -> dict[str, float]:
    """By table; a run that is being replaced is held twice until a vacuum."""
    return {
        "manifest": size.images * MANIFEST_ROW_BYTES,
        "images": size.images * (size.image_bytes + IMAGE_ROW_BYTES),
        "features": size.images * (size.dim * 4 + ID_BYTES),
        "reduced": size.images * (size.width * 4 + ID_BYTES),
    }


def describe_plan(plan: Plan) -> list[str]:
    """Lines for a person."""
    size, cluster = plan.size, plan.cluster
    instance = cluster.instance
    lines = [
        f"{plan.dataset}: {size.images:,.0f} images of {size.image_bytes / 1e3:,.0f} kB, {size.backbone} "
        f"({size.dim:,} features)",
        f"on {cluster.executors} x {instance.name} ({instance.cores} cores, "
        f"{instance.memory_gigabytes} GB, ${instance.dollars_per_hour:g}/h) and a driver alike; "
        f"measured on {plan.measured_on}",
        "",
        f"{'stage':<16}{'hours':>8}{'memory':>13}   outgrown beyond, with {plan.hours_allowed:g} h",
    ]
    lines += [_describe_part(part) for part in plan.parts]
    lines += ["", f"{'together':<16}{_hours(plan.hours):>8}"]
    lines.append(f"more than {plan.useful_executors:,} such executors make no stage faster")
    stored = ", ".join(f"{name} {value / 1e9:,.1f}" for name, value in plan.storage_bytes.items())
    lines.append(f"storage, GB: {stored}")
    lines.append(", ".join(f"{name} ${value:,.2f}" for name, value in plan.dollars.items()))
    lines.append(f"prices: {PRICES_OF}; --price takes yours")
    return lines


def _describe_part(part: Planned) -> str:
    where = "each executor" if part.on_executors and part.name != "fetch_images" else "one machine"
    memory = f"{part.need.memory_bytes / GIB:,.1f} GiB"
    limit = (
        "never" if math.isinf(part.most_images) else f"{part.most_images:,.0f} ({part.outgrows})"
    )
    hours = _hours(part.need.hours) if part.name != "train" else "-"
    return f"{part.name:<16}{hours:>8}{memory:>13}   {limit}; memory of {where}"


def _hours(hours: float) -> str:
    return f"{hours:,.2f}" if hours < 100 else f"{hours:,.0f}"
