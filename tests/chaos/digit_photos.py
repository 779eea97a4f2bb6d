"""Digits as photos that come night by night: new ones, copies, broken ones."""

import shutil
from pathlib import Path

from sightline.catalog import open_catalog
from sightline.source_config import DigitsSource
from sightline.sources import Access
from sightline.sources.digits import list_images

FIRST, EACH = 300, 45  # images of the first night, and new ones of each later
DATASET = """
source: {{type: folder, path: '{photos}'}}
backbone: {{name: resnet18, weights: random, image_size: 32}}
reduce: {{components: 16}}
train: {{penalties: [0.01], folds: 2, max_iterations: 20}}
gate: {{max_drop: 1.0}}
limits: {{images_per_commit: 40, rejected_share: 0.5}}
keep: {{days: {days}, run_days: 5, models: 5}}
"""


def write_digits() -> list[Path]:
    """The digits as files, in an order in which every class comes early."""
    catalog = open_catalog("all_digits")
    for _ in list_images(DigitsSource(type="digits"), Access(catalog, "all")):
        pass
    return sorted(Path(catalog.source).rglob("*.png"), key=lambda path: path.name)


def bring(photos: Path, digits: list[Path], night: int) -> None:
    """The new photos of a night, from 0: digits, a copy of one of them, and a broken one."""
    start = 0 if night == 0 else FIRST + (night - 1) * EACH
    for path in digits[start : FIRST + night * EACH]:
        target = photos / path.parent.name / path.name
        target.parent.mkdir(exist_ok=True, parents=True)
        shutil.copyfile(path, target)
    shutil.copyfile(digits[start], photos / "0" / f"copy-{night}.png")
    (photos / "1" / f"broken-{night}.png").write_bytes(digits[start].read_bytes()[:90])
