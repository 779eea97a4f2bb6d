"""The pages of a dataset: what they show of the tables, what they refuse, and what vanishes at once."""

import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from sightline import label_overrides, tables, take_down
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.models import make_plan
from sightline.take_down import Asked
from sightline.web.access import Permission
from sightline.web.app import create_app
from sightline.web.recent import Recent
from sightline.web.views import embedding_map, gallery, neighbours, thumbnails
from sightline.web.views.gallery import Filters, read_page
from tests.conftest import catalog_of, made_up_image_row, store_partition, store_rows, write_dataset
from tests.web_world import DAYS, LABELS, PLAN, SCRIPT, letting, make_world

DATASET = "source: {type: folder, path: photos}\n"
HOME = "/datasets/photos"
PAGES = ("", "/gallery", "/gallery/filters", "/rejects", "/duplicates", "/duplicates?kind=exact",
         "/labels", "/map", "/quality")  # fmt: skip
Row = dict[str, Any]


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """A world that is made once; each test works on a copy."""
    places = tmp_path_factory.mktemp("world")
    (places / "datasets").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SIGHTLINE_STORAGE", str(places / "data"))
        patched.setenv("SIGHTLINE_DATASETS", str(places / "datasets"))
        spec = write_dataset(places, "photos", DATASET)
        return places, make_world(spec, catalog_of(spec))


@pytest.fixture
def rows(spec: DatasetSpec, made: tuple[Path, list[Row]], own_places: Path) -> list[Row]:
    places, rows = made
    shutil.copytree(places / "data", own_places / "data")
    return rows


@pytest.fixture
def pages(rows: list[Row]) -> TestClient:
    """As somebody who may look and change."""
    return TestClient(create_app(letting(Permission.SEE, Permission.ACT)))


def shown(pages: TestClient, path: str) -> str:
    answer = pages.get(f"{HOME}{path}", headers={"accept": "text/html"})
    assert answer.status_code == 200, answer.text
    return answer.text


def shown_ids(page: str) -> list[str]:
    return re.findall(r"/thumbnails/([0-9a-f]{64})", page)


@pytest.mark.parametrize("path", PAGES)
def test_what_strangers_have_written_is_text_and_no_secret_is_shown(
    pages: TestClient, path: str
) -> None:
    page = shown(pages, path)
    assert "<script>alert" not in page
    assert "key=secret" not in page
    assert "style=" not in page


def test_an_empty_dataset_has_every_page(spec: DatasetSpec) -> None:
    pages = TestClient(create_app(letting(Permission.SEE)))
    for path in PAGES:
        assert shown(pages, path)
    assert pages.get(f"{HOME}/map/points").status_code == 404
    assert pages.get(f"{HOME}/images/abcd").status_code == 404


def test_the_gallery_goes_through_all_images_once_newest_partition_first(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    count = 2 * gallery.PAGE_IMAGES + 7
    for number, day in enumerate(DAYS):
        images = [
            made_up_image_row(place, uri=f"mem://{place % 5}", partition=day)
            for place in range(number, count, 3)
        ]
        store_rows(catalog.images, images, day)
    seen, after = list[gallery.Tile](), None
    for _ in range(3):
        found = read_page(catalog, Filters(), after)
        assert found.matching == count
        seen += found.tiles
        after = found.after
    assert after is None
    assert len({tile.image_id for tile in seen}) == len(seen) == count
    places = [(tile.partition, tile.uri, tile.image_id) for tile in seen]
    assert places == sorted(
        sorted(places, key=lambda one: one[1:]), key=lambda one: one[0], reverse=True
    )


@pytest.mark.parametrize(
    ("filters", "is_wanted"),
    [
        (Filters(label=SCRIPT), lambda number, row: row["label"] == SCRIPT),
        (Filters(split="test"), lambda number, row: number % 5 == 4),
        (Filters(partition=DAYS[1]), lambda number, row: row["partition"] == DAYS[1]),
        (Filters(licence="CC BY 4.0"), lambda number, row: row["partition"] == DAYS[0]),
        (Filters(licence=gallery.UNKNOWN), lambda number, row: row["partition"] != DAYS[0]),
        (Filters(issue="dark"), lambda number, row: number in (3, 4, 5)),
        (Filters(wrong=True), lambda number, row: number == 4),
        (Filters(predicted=SCRIPT), lambda number, row: number in (4, 9, 29)),
        (Filters(label="bus", split="test"), lambda number, row: number % 20 == 4),
        (Filters(label="bus", split="val"), lambda number, row: False),
    ],
    ids=lambda one: str(one.chosen) if isinstance(one, Filters) else "",
)
def test_filters_choose_what_they_say(
    catalog: Catalog, rows: list[Row], filters: Filters, is_wanted: Any
) -> None:
    found = read_page(catalog, filters, None)
    wanted = {row["image_id"] for number, row in enumerate(rows) if is_wanted(number, row)}
    assert {tile.image_id for tile in found.tiles} == wanted
    assert found.matching == len(wanted)


def test_pages_follow_each_other_and_choices_are_counted(
    pages: TestClient, rows: list[Row]
) -> None:
    page = shown(pages, "/gallery?label=bus")
    assert len(shown_ids(page)) == 12
    assert "12 images as chosen" in page
    offered = shown(pages, "/gallery/filters?label=bus")
    assert '<option value="bus" selected>bus (12)</option>' in offered
    assert "&lt;script&gt;alert(1)&lt;/script&gt; (12)" in offered
    assert f"{DAYS[0]} (16)" in offered
    assert "CC BY 4.0 (16)" in offered
    assert pages.get(f"{HOME}/gallery?after=nonsense").status_code == 422


def test_a_thumbnail_is_small_and_asked_for_again_only_where_it_changed(
    pages: TestClient, rows: list[Row]
) -> None:
    address = f"{HOME}/thumbnails/{rows[7]['image_id']}"
    first = pages.get(address)
    assert first.headers["content-type"] == "image/jpeg"
    assert first.headers["cache-control"] == "private, no-cache"
    assert Image.open(io.BytesIO(first.content)).size == (80, 80)
    again = pages.get(address, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = pages.get(f"{address}?size=large", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200
    assert pages.get(f"{address}?size=enormous").status_code == 422


@pytest.mark.parametrize("image_id", ["0" * 64, "zz", "..%2f..", "A" * 64])
def test_what_is_not_held_has_no_thumbnail(pages: TestClient, image_id: str) -> None:
    assert pages.get(f"{HOME}/thumbnails/{image_id}").status_code == 404


def test_an_image_that_was_taken_down_vanishes_at_once(
    pages: TestClient, catalog: Catalog, rows: list[Row]
) -> None:
    image_id = rows[0]["image_id"]
    for size in thumbnails.SIDES:
        assert pages.get(f"{HOME}/thumbnails/{image_id}?size={size}").status_code == 200
    etag = pages.get(f"{HOME}/thumbnails/{image_id}").headers["etag"]
    seen = [path for path in (*PAGES, "/map/points") if image_id in shown(pages, path)]
    assert {"/gallery", "/labels", "/duplicates", "/map/points"} <= set(seen)
    assert image_id in shown(pages, f"/images/{rows[4]['image_id']}/neighbours")
    take_down.take_down(catalog, Asked("image_id", (image_id,)), "asked to", "ann")
    for headers in ({}, {"if-none-match": etag}):
        assert pages.get(f"{HOME}/thumbnails/{image_id}", headers=headers).status_code == 404
    for path in (*PAGES, "/map/points", f"/images/{rows[4]['image_id']}/neighbours"):
        assert image_id not in shown(pages, path), path
    assert pages.get(f"{HOME}/images/{image_id}").status_code == 404


def test_broken_bytes_of_a_held_image_are_no_picture_and_no_crash(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    store_rows(catalog.images, [made_up_image_row(1, content=b"\xff\xd8\xff broken")])
    pages = TestClient(create_app(letting(Permission.SEE)))
    assert pages.get(f"{HOME}/thumbnails/{1:064x}").status_code == 404


def test_tiny_pictures_keep_their_pixels(spec: DatasetSpec, catalog: Catalog) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(buffer, "PNG")
    store_rows(catalog.images, [made_up_image_row(1, content=buffer.getvalue())])
    drawn = thumbnails.draw(catalog, f"{1:064x}", "small")
    assert drawn is not None
    assert drawn.media_type == "image/png"
    held = np.asarray(Image.open(io.BytesIO(drawn.content)).convert("L"))
    np.testing.assert_array_equal(held, np.eye(8) * 255)


def test_an_image_shows_every_fact_and_its_way(pages: TestClient, rows: list[Row]) -> None:
    page = shown(pages, f"/images/{rows[4]['image_id']}")
    facts = ["https://photos.example/0/0004.jpg", "Ada &lt;b&gt;L&lt;/b&gt;", "80 × 80, RGB", PLAN]
    facts += ["was tested with it", "dark: 0.100, below 0.200", 'href="https://photos.example/p/1"']
    for fact in facts:
        assert fact in page, fact
    assert "key=secret" not in page
    hostile = shown(pages, f"/images/{rows[1]['image_id']}")
    assert "javascript:" not in hostile


def test_neighbours_are_those_of_the_same_kind(catalog: Catalog, rows: list[Row]) -> None:
    found = neighbours.find_neighbours(catalog, rows[5]["image_id"])
    assert found is not None
    assert len(found) == neighbours.SHOWN
    assert rows[5]["image_id"] not in [one.image_id for one in found]
    assert {one.label for one in found[:8]} == {SCRIPT}
    assert [one.similarity for one in found] == sorted(
        (one.similarity for one in found), reverse=True
    )
    assert neighbours.find_neighbours(catalog, "0" * 64) is None


def test_the_map_puts_alike_images_together_and_is_the_same_each_time(
    catalog: Catalog, rows: list[Row]
) -> None:
    points = embedding_map.read_points(catalog)
    assert points is not None
    assert (len(points.image_ids), points.images) == (48, 48)
    assert points.classes == sorted(LABELS)
    assert 0 <= min(points.x + points.y) <= max(points.x + points.y) <= 1
    places = np.array([points.x, points.y]).T
    labels = np.array(points.labels)
    centres = np.array([places[labels == one].mean(axis=0) for one in range(4)])
    spread = np.mean([places[labels == one].std() for one in range(4)])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)[~np.eye(4, dtype=bool)]
    assert apart.max() > 3 * spread


def test_a_large_map_is_a_draw_by_lot_of_bounded_size(
    catalog: Catalog, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_map, "MOST_POINTS", 20)
    monkeypatch.setattr(embedding_map, "FITTED_ON", 10)
    points = embedding_map.read_points(catalog_of_copy(catalog))
    assert points is not None
    assert points.images == 48
    assert sorted(points.image_ids) == sorted(row["image_id"] for row in rows)[:20]
    assert points.components == "10 of the images"


def catalog_of_copy(catalog: Catalog) -> Catalog:
    """The same tables at another address, so that nothing remembered is of them."""
    return Catalog(catalog.dataset, catalog.root + "/")


def test_a_label_is_corrected_accepted_and_taken_back_by_a_click(
    pages: TestClient, spec: DatasetSpec, catalog: Catalog, rows: list[Row]
) -> None:
    plan = make_plan(spec, catalog, "made-up")
    first, second = rows[0]["image_id"], rows[1]["image_id"]
    before = shown_ids(shown(pages, "/labels"))
    assert before[:2] == [first, second]
    assert pages.post(f"{HOME}/labels/{first}", json={"label": SCRIPT}).status_code == 200
    assert pages.post(f"{HOME}/labels/{second}", json={"label": SCRIPT}).status_code == 200
    page = shown(pages, "/labels")
    assert "28 labels on which nobody has decided" in page
    assert first not in page[: page.index("Decided")]
    assert "corrected, was <bdi>bus</bdi>" in page
    assert "ann, 20" in page
    assert make_plan(spec, catalog, "made-up").version != plan.version
    assert len(shown_ids(shown(pages, "/gallery?label=bus"))) == 11
    assert "corrected by ann" in shown(pages, f"/images/{first}")
    for one in (first, second):
        assert pages.post(f"{HOME}/labels/{one}", json={"label": None}).status_code == 200
    assert make_plan(spec, catalog, "made-up").version == plan.version


@pytest.mark.parametrize("said", [{}, {"label": ""}, {"label": "x" * 300}, {"label": 3}, "bus"])
def test_what_is_no_label_is_refused_in_a_sentence(
    pages: TestClient, catalog: Catalog, rows: list[Row], said: Any
) -> None:
    answer = pages.post(f"{HOME}/labels/{rows[0]['image_id']}", json=said)
    assert answer.status_code in (409, 422)
    assert answer.json()["detail"].endswith(".")
    assert tables.current_version(catalog.label_overrides) is None


def test_who_may_only_look_decides_nothing_and_neither_does_another_site(
    catalog: Catalog, rows: list[Row]
) -> None:
    address, said = f"{HOME}/labels/{rows[0]['image_id']}", {"label": "bus"}
    viewer = TestClient(create_app(letting(Permission.SEE)))
    assert viewer.post(address, json=said).status_code == 403
    assert "data-decide" not in shown(viewer, "/labels")
    assert "data-decide" not in shown(viewer, f"/images/{rows[0]['image_id']}")
    editor = TestClient(create_app(letting(Permission.SEE, Permission.ACT)))
    other = {"sec-fetch-site": "cross-site"}
    assert editor.post(address, json=said, headers=other).status_code == 403
    assert label_overrides.read(catalog, tables.current_version(catalog.label_overrides)) == {}


def test_labels_have_pages_behind_a_rank(pages: TestClient) -> None:
    page = shown(pages, "/labels")
    assert 'href="?after=24"' in page
    rest = shown(pages, "/labels?after=24")
    assert len(shown_ids(rest)) == 6
    assert "after=" not in rest


def test_rejects_are_counted_by_reason_and_shown(pages: TestClient) -> None:
    page = shown(pages, "/rejects")
    assert page.count("data:image/jpeg") == 2
    assert "The image breaks off." in page
    assert "same bytes as https://photos.example/0/0000.jpg" in page
    one = shown(pages, "/rejects?reason=gone")
    assert ("Nothing can be seen" in one, "broken.jpg" in one) == (True, False)


def test_duplicates_stand_beside_what_they_are_copies_of(
    pages: TestClient, rows: list[Row]
) -> None:
    near = shown_ids(shown(pages, "/duplicates"))
    assert near[0::2] == sorted(row["image_id"] for row in rows[:3])
    assert set(near[1::2]) == {rows[-1]["image_id"]}
    exact = shown(pages, "/duplicates?kind=exact")
    assert shown_ids(exact) == [rows[0]["image_id"]]
    assert "other label" in exact


def test_the_overview_counts_classes_and_the_harvest(pages: TestClient) -> None:
    page = shown(pages, "")
    assert 'aria-label="9 train, 3 test"' in page
    cells = re.findall(r'number">(\d+)</td>', page)
    assert cells == ["16", "16", "0", "0"] * 2 + ["20", "16", "3", "1"]
    assert "98.1%" in page


def test_checks_are_told_with_what_they_missed(pages: TestClient) -> None:
    page = shown(pages, "/quality")
    assert page.count("all 2 met") == 2
    assert "1 of 2 missed" in page
    assert "3 of 16 unexpected; 81.2% as expected, 95.0% asked" in page
    assert f'href="{HOME}/checks/index.html"' in page


def test_a_new_night_is_seen_at_once(pages: TestClient, catalog: Catalog) -> None:
    assert "48 images" in shown(pages, "/gallery")
    store_rows(catalog.images, [made_up_image_row(9, partition="2026-11-09")], "2026-11-09")
    page = shown(pages, "/gallery")
    assert "49 images" in page
    assert shown_ids(page)[0] == f"{9:064x}"
    store_partition(catalog.images, [], "2026-11-09")
    assert "48 images" in shown(pages, "/gallery")


def test_what_is_remembered_is_bounded() -> None:
    held: Recent[bytes] = Recent(100, len)
    made = []
    for size in (60, 30, 60, 200, 10):
        held.get(size, lambda size=size: made.append(size) or bytes(size))  # type: ignore[misc]
    assert made == [60, 30, 200, 10]
    assert held._weight <= 100
    held.get(10, lambda: pytest.fail("it is held"))
    held.get(200, lambda: made.append(200) or bytes(200))  # type: ignore[func-returns-value]
    assert made[-1] == 200
