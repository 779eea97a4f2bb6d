"""Benchmarks as `make bench` runs them, at a tiny size, if that takes seconds: they still work with our code.

test_benchmarks runs gpu. The others need the environments of peers, a cluster, or minutes of Spark and of
pages whatever their size; `make check` has mypy check what all of them call.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measuring import HOME

pytestmark = pytest.mark.nightly
SECONDS = 600
SIZES = {"near_duplicates": ["--images=2000"], "scale": ["--images=10000"]}


@pytest.mark.parametrize("name", SIZES)
def test_a_tiny_benchmark_writes_its_results(name: str, tmp_path: Path) -> None:
    places = [f"--results={tmp_path}", f"--workplace={tmp_path / 'work'}"]
    command = [sys.executable, "-m", f"benchmarks.{name}", *SIZES[name], *places]
    done = subprocess.run(
        command, cwd=HOME, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    assert rows
    assert not any("not_measured" in row for row in rows)
