"""What every part of the `sightline` command prints with, its exit codes, and what a part is added by."""

import argparse
from collections.abc import Callable

from rich.console import Console

Command = Callable[[argparse.Namespace], int]  # does its work, prints, and returns its exit code
Add = Callable[[str, Command, str], argparse.ArgumentParser]  # by name, with the text of its help

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130  # exit codes
out = Console(highlight=False)
err = Console(highlight=False, stderr=True)


def say(text: str, console: Console = out) -> None:
    """Print a line as it is, unbroken."""
    console.print(text, markup=False, soft_wrap=True)
