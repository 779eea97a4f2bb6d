"""Dataset files: one YAML file a dataset, checked at the door and frozen from there on.

Unknown keys and values are refused with a sentence that names the file, the key, the value and the
nearest known one. The file's stem is the dataset's name.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    ByteSize,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from sightline.backbone_names import TORCHVISION_NAMES
from sightline.compute_config import ComputeSpec
from sightline.errors import ConfigError
from sightline.fine_tune_config import FineTuneSpec
from sightline.keep_config import KeepSpec
from sightline.labels_config import DriftSpec, LabelsSpec
from sightline.licence_config import LicencesSpec
from sightline.quality_config import QualitySpec
from sightline.settings import load_settings
from sightline.source_config import SOURCE_SPECS, FetchSpec, Section, SourceSpec


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("give at least one")
    return values


HeadName = Literal["logistic_regression", "linear_svm", "random_forest", "multilayer_perceptron"]
Value = TypeVar("Value")
Grid = Annotated[tuple[Value, ...], AfterValidator(_some)]
HEADS_OF_KEYS: dict[str, tuple[HeadName, ...]] = {
    "class_weights": ("logistic_regression", "linear_svm", "random_forest"),
    "penalties": ("logistic_regression", "linear_svm"),
    "l1_ratios": ("logistic_regression",),
    "max_iterations": ("logistic_regression", "linear_svm", "multilayer_perceptron"),
    "trees": ("random_forest",),
    "depths": ("random_forest",),
    "hidden_layers": ("multilayer_perceptron",),
}


class BackboneSpec(Section):
    """The pretrained network: a torchvision classification model or timm/<name>.

    weights: `default`, a name from torchvision such as IMAGENET1K_V1, a file, or `random` (with seed).
    precision: `auto` is bf16 where the hardware has it and a self-check agrees with fp32.
    decode: `scaled` decodes JPEGs at a fraction of their size, faster and less exact.
    """

    name: str = "resnet18"
    weights: str = "default"
    seed: int = 0
    image_size: int | None = Field(
        None, ge=16, le=2048
    )  # pixels; default: what the weights require
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    decode: Literal["full", "scaled"] = "full"

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if not name.startswith("timm/") and name not in TORCHVISION_NAMES:
            raise ValueError(f"unknown backbone {name!r}{_nearest(name, TORCHVISION_NAMES)}")
        return name


class ReduceSpec(Section):
    """PCA on the train split: a number of components, or enough for a share of the variance."""

    components: int | None = Field(None, ge=1)
    explained_variance: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.components is None) == (self.explained_variance is None):
            raise ValueError("give one of components and explained_variance")
        return self


class SplitSpec(Section):
    """Shares of the images that are kept out of training, and what is never torn apart beside copies."""

    test: float = Field(0.25, gt=0, lt=0.9)
    val: float = Field(0.0, ge=0, lt=0.5)
    seed: int = 0  # another seed is another draw; images that have their split keep it
    # `owner`: all images of an author; `burst`: those that an author uploaded within minutes
    group_by: Literal["near_duplicate", "owner", "burst"] = "near_duplicate"
    burst_minutes: float = Field(10, gt=0)  # between one upload and the next

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.test + self.val >= 1:
            raise ValueError(f"test and val leave nothing to train on: {self.test} + {self.val}")
        return self


class TrainSpec(Section):
    """The classifier on top of the features. What takes several values is a grid, and cross-validation
    chooses; `HEADS_OF_KEYS` says which heads a key belongs to where it does not belong to all.
    """

    head: HeadName = "logistic_regression"
    # `together`: one factor for all components, so that strong ones stay strong; `each`: every component
    # to unit variance, which helps untrained backbones and harms trained ones
    scale: Literal["together", "each"] = "together"
    # `balanced`: every class weighs the same in sum, however many images it has
    class_weights: Literal["none", "balanced"] = "none"
    penalties: Grid[Annotated[float, Field(ge=0)]] = (0.0003, 0.003, 0.03, 0.3)
    l1_ratios: Grid[Annotated[float, Field(ge=0, le=1)]] = (0.0,)  # elastic net: 0 is L2, 1 is L1
    trees: int = Field(100, ge=1, le=10_000)
    depths: Grid[Annotated[int, Field(ge=1, le=30)]] = (5, 10)
    hidden_layers: Grid[tuple[Annotated[int, Field(ge=1)], ...]] = (
        (64,),
    )  # widths, from the input
    folds: int = Field(3, ge=2, le=10)
    max_iterations: int = Field(100, ge=1)
    seed: int = 0

    @model_serializer(mode="wrap")
    def _without_what_other_heads_need(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = dump(self)
        return {
            key: value
            for key, value in content.items()
            if self.head in HEADS_OF_KEYS.get(key, [self.head])
        }

    @model_validator(mode="after")
    def _belongs_to_the_head(self) -> Self:
        for key, heads in HEADS_OF_KEYS.items():
            if (
                self.head not in heads
                and getattr(self, key) != type(self).model_fields[key].default
            ):
                listed = " and ".join(", ".join(heads).rsplit(", ", 1))
                raise ValueError(
                    f"{key} belongs to {listed}, and the head is {self.head}; "
                    "remove it or choose another head"
                )
        return self


EXPECTATIONS = ".expectations.yaml"  # ends the name of the file beside a dataset's
# Metrics that a gate can ask a minimum of: those where more is better.
GATE_METRICS = ("accuracy", "duplicate_free_accuracy", "macro_f1", "top_5_accuracy")


class GateSpec(Section):
    """What a model must reach before it serves."""

    min: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}  # metric: the least that is taken
    # How much less accurate than the champion a model may be on the same test images.
    max_drop: float = Field(0.01, ge=0, le=1)
    confidence: float = Field(0.95, gt=0, lt=1)  # of the interval around that difference
    approval: bool = False  # whether a person is asked, in Airflow's UI
    approval_hours: float = Field(24, gt=0)  # how long; then the run fails

    @field_validator("min")
    @classmethod
    def _known(cls, least: dict[str, float]) -> dict[str, float]:
        for name in least:
            if name not in GATE_METRICS:
                raise ValueError(f"unknown metric {name!r}{_nearest(name, GATE_METRICS)}")
        return least


class LimitsSpec(Section):
    """What is refused, and when a run stops."""

    image_megabytes: float = Field(64, gt=0)
    image_megapixels: float = Field(89.478485, gt=0)  # where Pillow begins to warn of a bomb
    rejected_share: float = Field(0.1, ge=0, le=1)  # of a partition, before the run stops
    images_per_class: int = Field(2, ge=1)
    images_per_commit: int = Field(
        1_000, ge=1
    )  # what a killed fetch loses at most, a chunk at work
    # Of one training process, such as 6GiB; default: a share of the machine, of the executor or of the GPU.
    memory: ByteSize | None = Field(None, ge=2**30, exclude=True)


class DatasetSpec(Section):
    """A dataset: where its images come from and what becomes of them."""

    name: str
    description: str = ""
    owner: str = Field("sightline", min_length=1)  # who answers for it, such as team:vision
    schedule: str | None = "0 0 * * *"  # when the night's partition is taken, or null
    late_after_hours: float | None = Field(6, gt=0)  # since a run was queued; null: never late
    source: SourceSpec
    fetch: FetchSpec = FetchSpec()
    licences: LicencesSpec = LicencesSpec()
    backbone: BackboneSpec = BackboneSpec()
    reduce: ReduceSpec | None = ReduceSpec(explained_variance=0.95)
    drift: DriftSpec = DriftSpec()
    split: SplitSpec = SplitSpec()
    labels: LabelsSpec = LabelsSpec()
    train: TrainSpec | None = TrainSpec()
    fine_tune: FineTuneSpec | None = None
    gate: GateSpec = GateSpec()
    limits: LimitsSpec = LimitsSpec()
    quality: QualitySpec = QualitySpec()
    keep: KeepSpec = KeepSpec()
    # Left out of what a model says of itself: it is the same wherever it was computed.
    compute: ComputeSpec = Field(default_factory=ComputeSpec, exclude=True)

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if self.train is None and self.fine_tune is None:
            raise ValueError("give train, fine_tune or both: without one there is no classifier")
        return self

    @model_validator(mode="after")
    def _has_slots_for_training(self) -> Self:
        """All processes of a training start together, or Spark does not start the stage."""
        if self.compute.where == "spark" or self.fine_tune is None:
            return self
        processes = self.fine_tune.processes
        slots = self.compute.barrier_slots(processes)
        if slots < processes:
            raise ValueError(
                f"fine_tune.processes is {processes}, but the executors of compute run only {slots} tasks at "
                "the same time; raise compute.executors or compute.executor_cores, or use fewer processes"
            )
        return self

    @field_validator("schedule")
    @classmethod
    def _is_cron(cls, schedule: str | None) -> str | None:
        if schedule is not None and schedule != cls.model_fields["schedule"].default:
            # A quarter of a second, for the few that need it.
            from croniter import croniter  # type: ignore[import-untyped]

            if not croniter.is_valid(schedule):
                raise ValueError(f"{schedule!r} is not a cron expression such as '0 0 * * *'")
        return schedule


def dataset_files() -> list[Path]:
    """Every dataset file, sorted by name; a file of expectations beside it is none."""
    files = load_settings().datasets.glob("*.yaml")
    return sorted(path for path in files if not path.name.endswith(EXPECTATIONS))


def expectations_file(dataset: str) -> Path:
    """Where a dataset may declare expectations of its own."""
    return load_settings().datasets / f"{dataset}{EXPECTATIONS}"


def load_dataset(name: str) -> DatasetSpec:
    """Read the dataset file of that name; ConfigError says what is wrong with it."""
    names = [path.stem for path in dataset_files()]
    if name not in names:
        folder = load_settings().datasets
        raise ConfigError(f"No dataset {name!r} in {folder}{_nearest(name, names)}")
    return read_dataset(load_settings().datasets / f"{name}.yaml")


def check_known(name: str) -> None:
    """ConfigError where there is no such dataset; a broken file's tables can be looked at, too."""
    if name not in [path.stem for path in dataset_files()]:
        load_dataset(name)  # says which there are


def read_dataset(path: Path) -> DatasetSpec:
    """Read one dataset file."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", path.stem):
        raise ConfigError(
            f"{path.name}: {path.stem!r} cannot name a dataset; use small letters, digits and _."
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path.name} must hold keys such as 'source:', but holds {content!r}.")
    if "name" in content:
        raise ConfigError(f"{path.name}: unknown key 'name'; the file's own name is the dataset's.")
    try:
        return DatasetSpec.model_validate({**content, "name": path.stem})
    except ValidationError as error:
        sentences = [_sentence(DatasetSpec, one) for one in error.errors()]
        raise ConfigError(f"{path.name}: {' '.join(sentences)}") from error


def _sentence(model: type[Section], error: Any) -> str:
    """One pydantic error as a sentence."""
    location = [str(part) for part in error["loc"]]
    in_source = location[:1] == ["source"]  # then pydantic names the source's type next
    path = location[:1] + location[2:] if in_source else location
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, [str(part) for part in error["loc"]])
        return f"unknown key {key!r}{_nearest(path[-1], known)}"
    if error["type"] == "missing":
        return f"key {key!r} is missing."
    if error["type"] == "union_tag_invalid":
        tag, known = error["ctx"]["tag"], re.findall(r"'(\w+)'", error["ctx"]["expected_tags"])
        return f"unknown source type {tag!r}{_nearest(tag, known)}"
    if error["type"] == "union_tag_not_found":
        return f"key '{key}.type' is missing; known types: {', '.join(sorted(SOURCE_SPECS))}."
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    message = message[:1].lower() + message[1:]
    shown = "" if error["type"] == "value_error" else f", but is {error['input']!r}"
    return f"{key}: {message}{shown}." if key else f"{message}{shown}."


def _known_keys(model: type[Section], location: list[str]) -> list[str]:
    """The keys that the block at a location takes."""
    here: Any = model
    for part in location[:-1]:
        field = here.model_fields.get(part)
        if field is None:  # a member of the source union, by its tag
            here = SOURCE_SPECS[part]
        elif part != "source":
            here = next(
                kind
                for kind in [field.annotation, *getattr(field.annotation, "__args__", ())]
                if isinstance(kind, type) and issubclass(kind, Section)
            )
    return [name for name in here.model_fields if name != "name" or here is not DatasetSpec]


def _nearest(value: str, known: Any) -> str:
    """`; did you mean 'x'? Known: ...` for the end of a sentence."""
    close = difflib.get_close_matches(value, known, n=3, cutoff=0.5)
    listed = sorted(known) if len(known) <= 20 else close
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known: {', '.join(listed)}." if listed else hint
