"""What every part of the `sightline` command prints with, and its exit codes."""

from rich.console import Console

from sightline.config import dataset_files, load_dataset

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130  # exit codes
out = Console(highlight=False)
err = Console(highlight=False, stderr=True)


def say(text: str, console: Console = out) -> None:
    """Print a line as it is, unbroken."""
    console.print(text, markup=False, soft_wrap=True)


def known_dataset(name: str) -> None:
    """ConfigError where there is no such dataset; a broken file's tables can be looked at, too."""
    if name not in [path.stem for path in dataset_files()]:
        load_dataset(name)  # says which there are
