"""The pictures of the pages and of the report in docs/, taken of a local Airflow that `make up` has started.

make demo && make up        # in another terminal
.venv/bin/python -m tests.screenshots digits
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sightline import local_airflow, models, tables
from sightline.airflow_environment import USER, read_password
from sightline.catalog import open_catalog
from sightline.settings import load_settings
from tests.airflow_browser import frame_of, logged_in
from tests.browsers import chromium

if TYPE_CHECKING:
    from playwright.sync_api import FilePayload, Page, ViewportSize

PHOTOS_MILLISECONDS = 4000  # until the photos of a page are there
IMAGES = Path(__file__).parents[1] / "docs" / "images"
INSIDE = "/plugin/sightline/sightline"  # Airflow's own address of a page of ours in its frame
REPORT_SIZE: "ViewportSize" = {"width": 1000, "height": 1180}
# name: path below the pages' root, theme, width
PICTURES = {
    "pages-datasets": ("/", "light", "desktop"),
    "pages-datasets-phone": ("/", "dark", "phone"),
    "pages-gallery": ("/datasets/{dataset}/gallery", "light", "desktop"),
    "pages-map": ("/datasets/{dataset}/map", "dark", "desktop"),
    "pages-labels": ("/datasets/{dataset}/labels", "light", "desktop"),
    "pages-model": ("/datasets/{dataset}/models/{champion}", "light", "desktop"),
    "pages-try": ("/datasets/{dataset}/try-it", "light", "desktop"),
    "pages-try-phone": ("/datasets/{dataset}/try-it", "dark", "phone"),
}


def main() -> None:
    """Take each picture."""
    parser = argparse.ArgumentParser(description="Take the pictures of the pages in docs/images.")
    parser.add_argument("dataset", help="a dataset with a champion")
    parser.add_argument("--into", type=Path, default=IMAGES, help="folder of the PNG files")
    asked = parser.parse_args()
    settings = load_settings()
    server = local_airflow.running_server(settings)
    champion = models.read_champion(open_catalog(asked.dataset))
    if server is None or champion is None:
        raise SystemExit("Start Airflow with 'make up', and train a champion with 'make demo'.")
    take_report(Path(open_catalog(asked.dataset).reports) / "latest.html", asked.into)
    photo = one_photo(asked.dataset)
    for name, (path, theme, width) in PICTURES.items():
        filled = path.format(dataset=asked.dataset, champion=champion["version"])
        with logged_in(server.address, USER, read_password(settings), theme, width) as page:
            page.goto(f"{server.address}{INSIDE}{filled}")
            take(page, asked.into / f"{name}.png", photo)


def take(page: "Page", path: Path, photo: bytes) -> None:
    """A picture of what stands there when all is loaded, and the photo was handed in where one may."""
    pages = frame_of(page)
    pages.get_by_role("heading").first.wait_for()
    chooser = pages.locator("#file")
    if chooser.count():
        file: FilePayload = {"name": "photo.png", "mimeType": "image/png", "buffer": photo}
        chooser.set_input_files(file)
        pages.locator("#verdict").wait_for()
        pages.locator("#verdict").scroll_into_view_if_needed()
    page.wait_for_timeout(PHOTOS_MILLISECONDS)
    page.screenshot(path=path)


def take_report(report: Path, into: Path) -> None:
    """A picture of how a report begins."""
    with chromium() as browser:
        page = browser.new_page(viewport=REPORT_SIZE)
        page.goto(report.absolute().as_uri())
        page.screenshot(path=into / "report.png")


def one_photo(dataset: str) -> bytes:
    """A photo of the dataset."""
    with tables.stream_query(images=open_catalog(dataset).images) as sql:
        rows = sql("SELECT content FROM images ORDER BY image_id LIMIT 1").read_all()
    return bytes(rows["content"][0].as_py())


if __name__ == "__main__":
    main()
