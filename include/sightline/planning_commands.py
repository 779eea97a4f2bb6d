"""`sightline plan`: what a dataset needs, at its own size or at any other."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from sightline.catalog import open_catalog
from sightline.command_output import OK, Add, out, say
from sightline.config import load_dataset
from sightline.errors import ConfigError

LARGEST_SIZES = "1e6,1e7,1e8,1e9"


def add_commands(add: Add) -> None:
    """Add it to the parser of the command."""
    asked = add(
        "plan", plan, "hours, machines, storage and price of a dataset, and where limits lie"
    )
    asked.add_argument("dataset")
    asked.add_argument(
        "--images", metavar="N[,N]", help=f"such as {LARGEST_SIZES}; default: those of the manifest"
    )
    asked.add_argument("--instance", default="m7i.xlarge", metavar="TYPE", help="of AWS EC2")
    asked.add_argument("--price", type=float, metavar="DOLLARS", help="an hour of the instance")
    asked.add_argument("--executors", type=int, metavar="N", help="default: the dataset's compute")
    asked.add_argument(
        "--rate", type=float, metavar="R", help="images a second that one core featurizes"
    )
    asked.add_argument(
        "--results", type=Path, metavar="FOLDER", help="measured figures; default: the project's"
    )
    asked.add_argument("--json", action="store_true", help="for programs")


def plan(asked: argparse.Namespace) -> int:
    """What a dataset needs."""
    from sightline import planning
    from sightline.planning.measured import results_folder
    from sightline.planning.plan import describe_plan

    spec = load_dataset(asked.dataset)
    measured = planning.read_measured(asked.results or results_folder())
    if asked.rate:
        rates = {**measured.featurizing, spec.backbone.name: asked.rate}
        measured = replace(measured, featurizing=rates)
    instance = planning.choose_instance(asked.instance, asked.price)
    cluster = planning.Cluster(instance, asked.executors or spec.compute.executors)
    plans = [
        planning.make_plan(
            spec,
            planning.size_of(spec, open_catalog(spec.name), images),
            cluster,
            measured,
            planning.Prices(),
        )
        for images in _numbers(asked.images)
    ]
    if asked.json:
        out.print_json(json.dumps([one.as_json() for one in plans]))
    else:
        say("\n\n".join("\n".join(describe_plan(one)) for one in plans))
    return OK


def _numbers(text: str | None) -> list[float | None]:
    if text is None:
        return [None]
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"--images takes numbers such as {LARGEST_SIZES}, not {text!r}.")
    return list(found)
