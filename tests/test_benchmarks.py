"""The benchmarks' photos, results and page; nothing here measures time."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import gpu, limit, measuring, photos, plots, scale_page, svg
from benchmarks.__main__ import ORDER
from benchmarks.sections import SECTIONS
from benchmarks.sightline_jobs import rate_at_work
from sightline.progress import format_line

KEPT = sorted(measuring.RESULTS.glob("*.json"))


def test_a_photo_is_the_same_each_time_and_no_two_are_alike() -> None:
    made = [photos.photo(0, number) for number in range(6)]
    assert made == [photos.photo(0, number) for number in range(6)]
    assert len({*made, photos.photo(1, 0)}) == 7


def test_photos_are_of_about_the_stated_size() -> None:
    sizes = [len(photos.photo(0, number)) for number in range(12)]
    assert 250_000 < sum(sizes) / len(sizes) < 330_000


def test_photos_that_are_there_are_not_made_again_and_can_be_shown_in_part(tmp_path: Path) -> None:
    made, shown = tmp_path / "made", tmp_path / "shown"
    photos.path_of(made, 1).parent.mkdir(parents=True)
    photos.path_of(made, 1).write_bytes(b"as it was")
    photos.take(made, range(1, 3), shown)
    assert photos.path_of(shown, 1).read_bytes() == b"as it was"
    assert [path.name for path in sorted(shown.rglob("*.jpg"))] == ["000001.jpg", "000002.jpg"]


def test_the_limit_takes_the_fastest_way_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import throughput

    monkeypatch.setattr(measuring, "cores", lambda: 2)
    measured = {"decode": {"a": 0.03, "b": 0.01}, "forward": {"c": 0.01, "d": "not measured: why"}}
    images_per_second, rows = throughput.describe_limit([measured])
    assert images_per_second == 2 / (0.01 + 0.01)
    assert rows[-1] == {"system": "forward: d", "not_measured": "not measured: why"}


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")  # and still fast
def test_every_way_to_decode_agrees_with_pillow() -> None:
    import torch

    ways = limit.decode_ways("resnet18", [photos.photo(0, 0)])
    expected = torch.stack(ways.pop("Pillow, torchvision's preset")()())
    del ways["simplejpeg, resize in uint8"]  # not a package of ours
    for make_step in ways.values():
        found = torch.stack(make_step()())
        assert (
            torch.nn.functional.cosine_similarity(found[0].flatten(), expected[0].flatten(), 0)
            > 0.99
        )


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_results_are_well_formed(path: Path) -> None:
    result = json.loads(path.read_text())
    assert result["name"] == path.stem in SECTIONS
    assert result["command"].startswith(f".venv/bin/python -m benchmarks.{path.stem}")
    assert {"cpu", "cores", "memory_bytes", "flags"} <= set(result["machine"])
    assert {"sightline", "torch", "pyspark"} <= set(result["versions"])
    assert result["date"]
    assert result["rows"]
    assert all("system" in row for row in result["rows"])


def test_the_page_is_what_the_results_make() -> None:
    files = plots.make_page()
    stale = [path for path, text in files.items() if _text(measuring.HOME / path) != text]
    assert not stale, (
        f"run `.venv/bin/python -m benchmarks.plots`: {stale} are not of these results"
    )
    kept = (measuring.HOME / plots.IMAGES).glob(f"{plots.PREFIX}*.svg")
    assert {f"{plots.IMAGES}/{path.name}" for path in kept} == {*files} - {plots.PAGE}


def test_the_tables_of_the_page_of_scale_are_those_of_the_results() -> None:
    text = scale_page.PAGE.read_text()
    assert scale_page.make_page(text, scale_page.make_tables()) == text, (
        "run `.venv/bin/python -m benchmarks.scale_page`"
    )
    assert text.count("<!-- end of") == len(scale_page.make_tables())


def test_the_page_has_a_part_for_every_benchmark() -> None:
    assert set(ORDER) == set(SECTIONS)


def test_the_page_shows_what_was_not_measured_and_says_so(tmp_path: Path) -> None:
    facts = {
        "name": "gpu",
        "command": "x",
        "machine": measuring.machine(),
        "versions": {},
        "date": "x",
    }
    rows = [{"system": "resnet18", "not_measured": "not measured: no GPU"}]
    (tmp_path / "gpu.json").write_text(json.dumps({**facts, "rows": rows}))
    page = plots.make_page(tmp_path)[plots.PAGE]
    assert "- resnet18: not measured: no GPU" in page
    assert "Not measured yet: `make bench ARGS=night`." in page


def test_the_gpu_benchmark_measures_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {
        "device": "cpu",
        "backbones": "resnet18",
        "photos": 3,
        "batch": 2,
        "forward": 1,
        "rounds": 1,
    }
    places = {"results": tmp_path, "workplace": tmp_path / "work"}
    told = [f"--{name}={value}" for name, value in {**size, **places}.items()]
    monkeypatch.setattr("sys.argv", ["gpu.py", *told])
    gpu.main()
    [row] = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert row["system"] == "resnet18"
    assert row["images_per_second"] > 0
    assert row["forward_images_per_second"] > 0


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def test_a_long_name_has_the_room_that_it_needs_beside_its_bar() -> None:
    drawn = svg.bars("Title", {"short": 1.0, "n" * 50: 2.0}, "seconds")
    ends = [float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="end"', drawn)]
    starts = [float(x) for x in re.findall(r'<rect x="([\d.]+)" y', drawn)]
    assert min(ends) >= 50 * svg.LETTER
    assert min(starts) > max(ends)
    assert max(starts) < svg.WIDTH - svg.VALUES


def test_the_rate_at_work_is_that_after_the_first_images() -> None:
    lines = [
        format_line("featurize", *said)
        for said in ((200, 1000, 40.0), (600, 1000, 50.0), (1000, 1000, 60.0))
    ]
    assert rate_at_work("\n".join(["Spark starts", *lines])) == pytest.approx(40.0, rel=0.02)
    assert rate_at_work(lines[-1]) is None
