"""`sightline run` of digits while something of it is killed at random moments, given again until it ends
well: the documented command."""

import logging
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sightline import tables
from sightline.catalog import open_catalog
from sightline.config import load_dataset
from tests.chaos import killing, laws
from tests.conftest import SIGHTLINE

log = logging.getLogger(__name__)

RUN_SECONDS = 1_800
MOST_RUNS = 12  # of a dataset
DATASET = """
source: {{type: digits}}
backbone: {{name: resnet18, weights: random, image_size: 32}}
reduce: {{components: 16}}
train: {{penalties: [0.01], folds: 2, max_iterations: 20}}
limits: {{images_per_commit: {images}}}
"""
IMAGES = 1_797
Kill = Callable[[str, "subprocess.Popen[bytes]"], bool]  # False where none of the kind is at work


@dataclass
class Harm:
    """What is still to be done to the runs, and what was."""

    wanted: list[str]  # kinds of kills, the next one last
    kill: Kill
    chance: random.Random
    longest_seconds: float = 45  # from one kill to the next
    done: Counter[str] = field(default_factory=Counter)
    runs: int = 0  # of the command


def check_laws_until_done(
    harm: Harm, datasets: Path, text: str, environment: dict[str, str], folder: Path
) -> None:
    """Run one dataset of this text after another to its good end, until all harm is done; by the laws."""
    number = 0
    while harm.wanted:
        number += 1
        name = f"digits_{number}"
        (datasets / f"{name}.yaml").write_text(text)
        _run_until_well(name, environment, folder, harm)
        spec, catalog = load_dataset(name), open_catalog(name)
        laws.check_rows(catalog)
        laws.check_champion(catalog)
        laws.check_no_orphans(spec, catalog)
        laws.check_rows(catalog)
        assert tables.count_rows(catalog.images) + tables.count_rows(catalog.rejects) == IMAGES
    log.warning("%d runs of %d datasets, kills: %s", harm.runs, number, dict(harm.done))


def _run_until_well(dataset: str, environment: dict[str, str], folder: Path, harm: Harm) -> None:
    """Run a dataset to its good end; the command may fail only where something was killed, and then says so
    in a sentence. AssertionError else."""
    for _ in range(MOST_RUNS):
        before = harm.done.total()
        code, said = _run_once(dataset, environment, folder, harm)
        last = said.strip().splitlines()[-1:]
        log.warning("run %d of %s ended with %d: %s", harm.runs, dataset, code, last)
        if code == 0:
            return
        assert harm.done.total() > before, said[-3000:]
        assert "Unexpected" not in said, said[-3000:]
    raise AssertionError(f"{dataset} has not ended well in {MOST_RUNS} runs")


def _run_once(
    dataset: str, environment: dict[str, str], folder: Path, harm: Harm
) -> tuple[int, str]:
    harm.runs += 1
    output = folder / f"run-{harm.runs:03d}.log"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [SIGHTLINE, "run", dataset], env=environment, cwd=killing.HOME,
            stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + RUN_SECONDS
    while process.poll() is None and harm.wanted and time.monotonic() < deadline:
        killing.wait(process, harm.chance.uniform(1, harm.longest_seconds))
        if process.poll() is None and harm.kill(harm.wanted[-1], process):
            kind = harm.wanted.pop()
            harm.done[kind] += 1
            log.warning("kill %d: %s in run %d", harm.done.total(), kind, harm.runs)
    code = process.wait(max(1.0, deadline - time.monotonic()))
    return code, output.read_text(errors="replace")


def choose_kinds(kinds: tuple[str, ...], chance: random.Random) -> list[str]:
    """Each kind as often as the size asks for, in a random order."""
    wanted = list(kinds) * max(1, killing.SIZE // 5)
    chance.shuffle(wanted)
    return wanted
