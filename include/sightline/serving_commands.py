"""`sightline predict` and `serve`: the champion asked about a photo, here or on a page of its own."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from sightline import models
from sightline.catalog import open_catalog
from sightline.command_output import OK, Add, out, say
from sightline.config import check_known, dataset_files
from sightline.errors import ConfigError
from sightline.reporting.formats import percent, plural
from sightline.serving.questions import Answer, Question

BAR = 24  # letters


def add_commands(add: Add) -> None:
    """Add them to the parser of the command."""
    asked = add("predict", predict, "what a dataset's champion says of a photo")
    asked.add_argument("photo", metavar="PHOTO", type=Path, help="a file")
    asked.add_argument("--dataset", required=True, help="whose champion is asked")
    asked.add_argument("--top", metavar="N", type=_classes, default=5, help="classes to name")
    asked.add_argument(
        "--plain",
        action="store_true",
        help="without test-time augmentation, where the model has it",
    )
    asked.add_argument("--json", action="store_true", help="for programs")
    page = add(
        "serve", serve, "the page to try champions on, alone and without Airflow, until Ctrl-C"
    )
    page.add_argument(
        "--dataset",
        action="append",
        default=[],
        help="may be given again; default: all with a champion",
    )
    page.add_argument("--host", default="127.0.0.1", help="default: this machine alone, 127.0.0.1")
    page.add_argument("--port", type=int, default=0, help="default: a free one")
    page.add_argument(
        "--show-photos", action="store_true", help="also the training photos that are most alike"
    )


def predict(asked: argparse.Namespace) -> int:
    """Ask a champion about one photo, in this process."""
    from sightline.serving.champions import Champions

    try:
        content = asked.photo.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read {asked.photo}: {error.strerror or error}.") from error
    question = Question(asked.dataset, asked.top, False if asked.plain else None)
    answer = Champions().answer(question, content)
    if asked.json:
        out.print_json(json.dumps(asdict(answer)))
    else:
        say("\n".join(_describe(answer)))
    return OK


def serve(asked: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    from sightline.web.alone import serve_alone

    datasets = _datasets(asked.dataset)
    serve_alone(
        datasets,
        asked.host,
        asked.port,
        shows_photos=asked.show_photos,
        tell=lambda address: say(f"Try {', '.join(datasets)}: {address} (Ctrl-C stops it)"),
    )
    return OK


def _datasets(names: list[str]) -> tuple[str, ...]:
    """Those that were named, or all that have a champion; ConfigError where there is none."""
    for name in names:
        check_known(name)
        models.require_champion(open_catalog(name))
    if names:
        return tuple(dict.fromkeys(names))
    known = [path.stem for path in dataset_files()]
    found = tuple(name for name in known if models.read_champion(open_catalog(name)))
    if not found:
        raise ConfigError("No dataset has a champion to try yet; 'sightline demo' makes one.")
    return found


def _describe(answer: Answer) -> list[str]:
    widest = max(len(one.label) for one in answer.top)
    lines = [
        f"  {_shown(one.label):<{widest}}  {'█' * round(BAR * one.probability):<{BAR}}  "
        f"{percent(one.probability)}"
        for one in answer.top
    ]
    views = f", the mean of {plural(answer.views, 'view')}" if answer.views > 1 else ""
    return [
        *lines,
        f"Model {answer.version} of {answer.dataset}{views}, {1000 * answer.seconds:.0f} ms.",
    ]


def _shown(label: str) -> str:
    """Text of strangers, safe for a terminal."""
    return label if label.isprintable() else repr(label)


def _classes(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of classes from 1 to 1000")
    return int(text)
