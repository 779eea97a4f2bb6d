"""Cells from strangers: no spreadsheet reckons with them, and what was written is read back."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.spreadsheets import bare, defuse, line_writer


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_a_cell_that_a_spreadsheet_would_reckon_with_is_defused(start: str) -> None:
    assert defuse(f"{start}1+1") == f"'{start}1+1"
    assert defuse("plain") == "plain"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1))
def test_every_text_comes_back_and_no_cell_begins_a_formula(texts: list[str]) -> None:
    file = io.StringIO(newline="")
    line_writer(file).writerow([defuse(text) for text in texts])
    file.seek(0)
    [line] = csv.reader(file)
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in line)
    assert [bare(cell) for cell in line] == texts


def test_quotes_commas_and_line_ends_stay_inside_their_cell() -> None:
    file = io.StringIO(newline="")
    texts = ['=HYPERLINK("http://evil")', "a,b", "two\r\nlines"]
    line_writer(file).writerow([defuse(text) for text in texts])
    assert file.getvalue() == '"\'=HYPERLINK(""http://evil"")","a,b","two\r\nlines"\n'
