"""`sightline trace` and `sightline remake`: where things come from, and whether they can be made again."""

import argparse
import io
import json
import sys
from dataclasses import asdict
from typing import Any

from sightline import storage
from sightline.catalog import open_catalog
from sightline.command_output import FAILED, OK, Add, err, out, say
from sightline.config import check_known


def add_commands(add: Add) -> None:
    """Add them to the parser of the command."""
    traced = add(
        "trace", trace_image, "where an image or a model comes from, and what became of it"
    )
    traced.add_argument("dataset")
    things = traced.add_subparsers(title="what", required=True, metavar="image|model")
    one_image = things.add_parser("image", help="an image, by its id, the begin of it, or its uri")
    one_image.add_argument("image", metavar="ID")
    one_image.set_defaults(command=trace_image)
    one_model = things.add_parser("model", help="a model; default: the champion")
    one_model.add_argument("version", nargs="?")
    one_model.add_argument(
        "--images", metavar="FILE", nargs="?", const="-", help="every image as CSV; default: stdout"
    )
    one_model.set_defaults(command=trace_model)
    again = add("remake", remake, "train a model again of what it was made of, and compare")
    again.add_argument("dataset")
    again.add_argument("version")
    again.add_argument(
        "--tolerance",
        metavar="N",
        type=float,
        help="of a probability; default: by the model's kind",
    )
    again.add_argument("--keep", action="store_true", help="keep the new model, beside the others")
    for one in (one_image, one_model, again):
        one.add_argument("--json", action="store_true", help="for programs")


def trace_image(asked: argparse.Namespace) -> int:
    """Where an image is from, and what was made of it."""
    from sightline.tracing import image, text

    check_known(asked.dataset)
    found = image.trace_image(open_catalog(asked.dataset), asked.image)
    _tell(asked, found.as_json(), text.describe_image(found))
    return OK


def trace_model(asked: argparse.Namespace) -> int:
    """What a model was made of."""
    from sightline.tracing import model, text

    check_known(asked.dataset)
    catalog = open_catalog(asked.dataset)
    if asked.images == "-":
        model.write_images(catalog, asked.version, sys.stdout)
    elif asked.images:
        with storage.writing(asked.images) as stream, io.TextIOWrapper(stream, "utf-8") as lines:
            count = model.write_images(catalog, asked.version, lines)
        say(f"{asked.images}: {count:,} images")
    else:
        found = model.trace_model(catalog, asked.version)
        _tell(asked, found.as_json(), text.describe_model(found))
    return OK


def remake(asked: argparse.Namespace) -> int:
    """Train a model again of what it was made of, and compare the two."""
    check_known(asked.dataset)
    from sightline import remaking
    from sightline.tracing import text

    say(f"Training {asked.version} again; Spark takes a while ...", err)
    made = remaking.remake(
        open_catalog(asked.dataset), asked.version, tolerance=asked.tolerance, keep=asked.keep
    )
    _tell(asked, {**asdict(made), "is_same": made.is_same}, text.describe_remade(made))
    return OK if made.is_same else FAILED


def _tell(asked: argparse.Namespace, value: Any, lines: list[str]) -> None:
    """Print what was found, for programs or for people."""
    if asked.json:
        out.print_json(json.dumps(value, default=str))
    else:
        say("\n".join(lines))
