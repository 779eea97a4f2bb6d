"""CSV files that a spreadsheet shows as they are: every text in them comes from strangers.

A cell that begins like a formula gets an apostrophe in front, as OWASP's page on CSV injection has it; a
cell that begins with an apostrophe gets one, too, so that `bare` gives back what was written.
"""

import csv
from typing import IO, Any

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
MARK = "'"


def defuse(text: str) -> str:
    """A cell that no spreadsheet reckons at."""
    return f"{MARK}{text}" if text.startswith((*FORMULA, MARK)) else text


def bare(cell: str) -> str:
    """The text that `defuse` has made a cell of."""
    return cell[1:] if cell.startswith(MARK) else cell


def line_writer(text: IO[str]) -> Any:
    """A writer of lines in which every cell is quoted."""
    return csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
