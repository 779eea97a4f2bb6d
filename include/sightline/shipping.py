"""What the machines of a job need from this one, sent to the storage under the name of its content: an
unchanged file is sent once, and a changed one harms no running job.

Our code goes to machines that have no checkout, as one archive of the library and the dataset files.
Unpacked, it is a home as SIGHTLINE_HOME would name it: include/sightline, include/datasets. Networks' weights
go to the workers as a file, because a broadcast would pass through the heap of the driver's JVM.
"""

import hashlib
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sightline import storage
from sightline.config import dataset_files
from sightline.settings import load_settings
from sightline.shared_files import SharedFile
from sightline.storage import Buffer

FOLDER = "_code"  # of the storage; no dataset can have such a name
WEIGHTS = "_weights"  # likewise
USED = "used"  # a file beside: when a job was last sent with it, which maintenance asks
EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip's earliest time: when a file was written is not its content
WHOLE = 0o644 << 16  # what a process of another user may read


@dataclass(frozen=True)
class Shipped:
    """Where a cluster finds our code."""

    archive: str  # a URL
    program: str  # that of the job, a URL


def ship(stage: str) -> Shipped:
    """Send the library, the dataset files and the program of a stage to the storage, where they are not
    there already."""
    files = library_files()
    program = (load_settings().home / "spark_jobs" / f"{stage}.py").read_bytes()
    folder = storage.join(load_settings().storage, FOLDER, digest_of({**files, stage: program}))
    shipped = Shipped(
        storage.join(folder, "sightline.zip"), storage.join(folder, "spark_jobs", f"{stage}.py")
    )
    _note_use(folder)
    if not storage.exists(shipped.program):  # which comes last: whoever sees it finds the archive
        with storage.writing(shipped.archive) as stream:
            write_archive(stream, files)
        storage.write_bytes(shipped.program, program)
    return shipped


def ship_file(path: Path) -> str:
    """Send one file under the name of its content; returns its URL."""
    content = path.read_bytes()
    folder = storage.join(load_settings().storage, FOLDER, digest_of({path.name: content}))
    url = storage.join(folder, path.name)
    _note_use(folder)
    if not storage.exists(url):
        storage.write_bytes(url, content)
    return url


def ship_weights(pieces: Callable[[], Iterable[Buffer]]) -> SharedFile:
    """Send a file of weights, named by its SHA-256. `pieces` makes its bytes, one piece in memory at a time:
    once for the hash, and once more for the file unless it is there already."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces():
        digest.update(piece)
        size += memoryview(piece).nbytes
    folder = storage.join(load_settings().storage, WEIGHTS, digest.hexdigest())
    url = storage.join(folder, "weights.safetensors")
    _note_use(folder)
    if storage.size_bytes(url) != size:
        storage.write_pieces(url, pieces())
    return SharedFile(url, digest.hexdigest(), size)


def _note_use(folder: str) -> None:
    """Before anybody looks what is there: from here on it is not old."""
    storage.write_bytes(storage.join(folder, USED), b"")


def library_files() -> dict[str, bytes]:
    """The archive's files by their names in it, sorted."""
    package = Path(__file__).parent
    ours = {
        f"include/sightline/{path.relative_to(package).as_posix()}": path
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    datasets = {f"include/datasets/{path.name}": path for path in dataset_files()}
    return {name: path.read_bytes() for name, path in sorted({**ours, **datasets}.items())}


def write_archive(stream: IO[bytes], files: dict[str, bytes]) -> None:
    """The same files make the same archive."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = WHOLE
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)


def digest_of(files: dict[str, bytes]) -> str:
    """A name for what some files hold."""
    found = hashlib.sha256()
    for name, content in files.items():
        found.update(f"{name}\0{len(content)}\0".encode())
        found.update(content)
    return found.hexdigest()[:20]
