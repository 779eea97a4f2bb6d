"""The `source:` and `fetch:` blocks of a dataset file: one model a source type."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, model_validator

Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Section(BaseModel):
    """A block of a dataset file: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Section):
    """The block of a source. Where `is_daily`, a partition is a day of it; else a partition takes what no
    other partition has listed: the nightly run what is new, and a rerun of a night that night's again.
    """

    is_daily: ClassVar[bool] = False


class FolderSource(Source):
    """Images as <path>/<class>/<file>; the path is local or any URL that fsspec reads."""

    type: Literal["folder"]
    path: str
    options: dict[str, Any] = {}  # for fsspec, such as {anon: true}; never secrets


class DigitsSource(Source):
    """scikit-learn's 1,797 scanned handwritten digits, written out as PNG files."""

    type: Literal["digits"]


class UrlListSource(Source):
    """A CSV or Parquet file with one image a row; the file is local or any URL that fsspec reads."""

    type: Literal["url_list"]
    path: str
    options: dict[str, Any] = {}
    url: str = "url"  # names of its columns
    label: str = "label"
    # manifest column -> the file's column, such as {licence: rights, author: by}
    columns: dict[
        Literal["split_hint", "rotation", "licence", "author", "landing_url", "title"], str
    ] = {}


class FlickrSource(Source):
    """A search a class; a partition is a day of uploads."""

    is_daily: ClassVar[bool] = True

    type: Literal["flickr"]
    searches: Annotated[dict[str, str], Field(min_length=1)]  # class -> text to search for
    # Flickr's numbers; the default are those that allow reuse, share-alike and non-commercial included.
    licenses: Annotated[tuple[int, ...], Field(min_length=1)] = (
        1, 2, 4, 5, 7, 8, 9, 10,
    )  # fmt: skip
    largest_pixels: int = Field(1024, ge=75)  # of the longer side
    connection: str = "flickr_default"
    queries_per_hour: int = Field(3600, ge=1)  # what Flickr grants one key
    api: str = Field("https://api.flickr.com/services/rest/", pattern="^https?://")
    timeout_seconds: float = Field(30, gt=0)  # of silence


class KaggleSource(Source):
    """A dataset or a competition of Kaggle, read inside its archives."""

    type: Literal["kaggle"]
    dataset: str | None = None  # owner/name
    version: int | None = Field(None, ge=1)  # of the dataset; default: the newest
    competition: str | None = None
    # The folders that hold <class>/<file>, by the split that the source declares for them; found by
    # their names wherever in the archives they lie.
    folders: Annotated[dict[Literal["any", "train", "val", "test"], str], Field(min_length=1)] = {
        "any": ""
    }
    labels: str | None = None  # a CSV of Id,Category that labels the files of the folders
    unlabelled: str | None = None  # a folder of images to predict
    submission: str | None = None  # the competition's sample, such as sample-submission.csv
    connection: str = "kaggle_default"
    api: str | None = None  # another server that speaks Kaggle's protocol

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.dataset is None) == (self.competition is None):
            raise ValueError("give one of dataset and competition")
        if self.submission is not None and self.unlabelled is None:
            raise ValueError("submission needs unlabelled, the folder of the images to predict")
        return self


class SplitLists(Section):
    """Lists of files that declare an official split: text files in a zip."""

    urls: Names
    file: str | None = None  # your own copy
    train: str  # names of the lists inside
    test: str


class ArchiveSource(Source):
    """One .tar, .tar.gz or .zip of images in class folders, from the first mirror that has it."""

    type: Literal["archive"]
    name: str  # the archive's file name, which also names its images
    urls: tuple[str, ...] = ()
    file: str | None = None  # your own copy; the mirrors are then not asked
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    skip_folders: int = Field(0, ge=0)  # leading folders that are no part of the class
    split_lists: SplitLists | None = None

    @model_validator(mode="after")
    def _from_somewhere(self) -> Self:
        if not self.urls and self.file is None:
            raise ValueError("give urls or file")
        return self


class OpenImagesSource(Source):
    """Open Images: images of one subset that people have verified to show one of some classes."""

    type: Literal["open_images"]
    subset: Literal["train", "validation", "test"]
    classes: Names  # display names, as in class-descriptions-boxable.csv
    sources: tuple[str, ...] = ("verification",)  # of the labels; empty: any
    confidence: float = Field(1.0, gt=0, le=1)  # the least; 0 means verified to be absent
    # Images that carry several of the classes: left out, labelled with the first, or with this label.
    ambiguous: str = Field("drop", pattern="^(drop|first|keep_as .+)$")
    tables: str = "https://storage.googleapis.com/openimages"
    images: str = (
        "https://open-images-dataset.s3.amazonaws.com"  # or any mirror by prefix, s3:// too
    )
    options: dict[str, Any] = {}  # for fsspec, where images is no web address


SourceSpec = Annotated[
    FolderSource
    | DigitsSource
    | UrlListSource
    | FlickrSource
    | KaggleSource
    | ArchiveSource
    | OpenImagesSource,
    Field(discriminator="type"),
]
SOURCE_SPECS: Mapping[str, type[Source]] = {
    "archive": ArchiveSource,
    "digits": DigitsSource,
    "flickr": FlickrSource,
    "folder": FolderSource,
    "kaggle": KaggleSource,
    "open_images": OpenImagesSource,
    "url_list": UrlListSource,
}


def origin_of(source: SourceSpec) -> str:
    """The URL of what a source lists."""
    match source:
        case KaggleSource(dataset=None):
            return f"kaggle://competitions/{source.competition}"
        case KaggleSource():
            return f"kaggle://datasets/{source.dataset}"
        case ArchiveSource():
            return source.file or source.urls[0]
        case FlickrSource():
            return source.api
        case OpenImagesSource():
            return source.images
        case DigitsSource():
            return "scikit-learn://datasets/digits"
    return source.path


class FetchSpec(Section):
    """How images are asked for over the web."""

    connections: int = Field(32, ge=1, le=1024)  # at once, of one worker
    connections_per_host: int = Field(16, ge=1, le=1024)
    connect_seconds: float = Field(10, gt=0)
    read_seconds: float = Field(30, gt=0)  # of silence
    whole_seconds: float = Field(120, gt=0)  # for one try
    attempts: int = Field(4, ge=1, le=10)
    # Loopback, private, link-local and metadata addresses are not asked, nor is a redirect to them
    # followed, but for these networks, such as 10.0.0.0/8.
    allow_addresses: tuple[IPvAnyNetwork, ...] = ()
    honour_opt_out: bool = True  # X-Robots-Tag: noai, noimageai
    # After how many days an image rejected for that reason is asked for again; others never.
    retry_rejects: dict[str, Annotated[float, Field(ge=0)]] = {
        "unreadable": 0,
        "busy": 0,
        "gone": 30,
    }
