"""Images inside .zip, .tar and .tar.gz files: read in one pass, never extracted, nothing trusted.

A tar is read as one stream, so memory holds its names and one member, whatever its size.
"""

import gzip
import logging
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from sightline import storage
from sightline.errors import SourceError
from sightline.images import Rejected

log = logging.getLogger(__name__)

# Tiffs and the like are listed, so that they are rejected by name and not dropped.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".avif",
)  # fmt: skip
MOST_RATIO = 1000  # of bytes to compressed bytes: photos do not compress
RATIO_FREE_BYTES = 2**20  # below which no ratio hurts
HEADER_BYTES = 2**20  # the longest of EXTENSIONS, which hold names and not pictures
EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
LEFT_BEHIND = ("__macosx", "thumbs.db", "desktop.ini")  # by file managers; dot files too
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Member:
    """A file in an archive; `fault` says why it must not be read."""

    name: str
    size_bytes: int
    etag: str
    fault: str | None = None


# Hands out a member's bytes, at most one more than the limit; good until the next member is asked for.
Read = Callable[[int], bytes | Rejected]


def walk(url: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Iterator[tuple[Member, Read]]:
    """Each file of an archive whose name has one of the suffixes, in the archive's order.

    Unsafe and encrypted members are told and read as Rejected. SourceError where the file is missing, is
    no archive or is damaged as a whole; it may come after members were told, so commit at the end only.
    """
    left_out = Counter[str]()
    seen = set[str]()
    with _opened(url) as (stream, is_zip):
        for member, read in (_zip_members if is_zip else _tar_members)(stream, url):
            if is_left_behind(member.name):
                left_out["hidden files"] += 1
            elif not member.name.lower().endswith(suffixes):
                left_out["files of other kinds"] += 1
            elif member.name in seen:
                left_out["members whose name came before"] += 1
            else:
                seen.add(member.name)
                yield member, _guarded(member, read)
    for what, count in left_out.items():
        log.info("%s: left out %d %s", url, count, what)


def is_left_behind(name: str) -> bool:
    """Whether a file manager left this file, or its owner hides it."""
    parts = [part.lower() for part in name.split("/")]
    return any(part in LEFT_BEHIND or (part[:1] == "." and part != "..") for part in parts)


def kind_of(start: bytes) -> str:
    """What a file's first 512 bytes say that it is: zip, gzip, tar, page or other."""
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if start[:2] == b"\x1f\x8b":
        return "gzip"
    if start[257:262] == b"ustar":
        return "tar"
    return "page" if start.lstrip()[:1] == b"<" else "other"


@contextmanager
def _opened(url: str) -> Iterator[tuple[IO[bytes], bool]]:
    """The archive's stream, and whether it is a zip."""
    fs, path = storage.filesystem(url)
    try:
        stream = fs.open(path, "rb")
    except FileNotFoundError:
        raise SourceError(f"{url} does not exist; check source.file.") from None
    with stream:
        kind = kind_of(stream.read(512))
        if kind in ("page", "other"):
            what = "a web page" if kind == "page" else "no .zip, .tar or .tar.gz"
            raise SourceError(f"{url} is {what}; remove it and get the archive anew.")
        stream.seek(0)
        if kind != "gzip":
            yield stream, kind == "zip"
            return
        with gzip.GzipFile(fileobj=stream, mode="rb") as unpacked:
            yield unpacked, False  # type: ignore[misc]  # a reader in all that is used of it


def _guarded(member: Member, read: Read) -> Read:
    if member.fault is None:
        return read
    rejected = Rejected("bad_member", member.fault)
    return lambda most_bytes: rejected


def _unsafe(name: str) -> str | None:
    if name.startswith("/") or name[1:2] == ":":
        return "its path is absolute"
    return "its path holds '..'" if ".." in name.split("/") else None


def _clean(name: str) -> str:
    """A name with forward slashes and without './'."""
    return str(PurePosixPath(name.replace("\\", "/")))


def _damaged(url: str, error: Exception | str) -> SourceError:
    detail = " ".join(str(error).split())[:200].rstrip(".")
    return SourceError(f"{url} is damaged or cut short ({detail}); remove it and get it anew.")


# --- zip ---------------------------------------------------------------------------------------------


def _zip_members(stream: IO[bytes], url: str) -> Iterator[tuple[Member, Read]]:
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError) as error:
        raise _damaged(url, error) from error
    with archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield _zip_member(info), _zip_reader(archive, info)


def _zip_member(info: zipfile.ZipInfo) -> Member:
    name, is_text = _zip_name(info)
    fault = _unsafe(name) or _zip_fault(info) or (None if is_text else "its name is not UTF-8")
    return Member(name, info.file_size, f"{info.CRC:08x}-{info.file_size}", fault)


def _zip_name(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """The name; many tools write UTF-8 and do not say so."""
    if info.flag_bits & 0x800:
        return _clean(info.filename), True
    try:
        return _clean(info.filename.encode("cp437").decode()), True
    except UnicodeDecodeError:
        return _clean(info.filename), False


def _zip_fault(info: zipfile.ZipInfo) -> str | None:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "it is a link" if stat.S_ISLNK(mode) else "it is a device"
    if info.flag_bits & 1:
        return "it is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"it is compressed by method {info.compress_type}"
    is_large = info.file_size > RATIO_FREE_BYTES
    if is_large and info.file_size > MOST_RATIO * max(info.compress_size, 1):
        return f"{info.file_size} bytes are packed into {info.compress_size}"
    return None


def _zip_reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Read:
    def read(most_bytes: int) -> bytes | Rejected:
        try:
            with archive.open(info) as member:
                return member.read(most_bytes + 1)
        except BROKEN as error:
            return Rejected("bad_member", f"{type(error).__name__}: {error}"[:200])

    return read


# --- tar ---------------------------------------------------------------------------------------------


class _ShortHeaders(tarfile.TarInfo):
    """A tar's header that may not ask for more memory than names need."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        is_extension = self.type in EXTENSIONS
        if is_extension and self.size > HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


class _Watched:
    """A stream that remembers how long it is and where its last byte other than zero stands."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.size_bytes = 0
        self.end_of_content = 0

    def read(self, size: int) -> bytes:
        piece = self._stream.read(size)
        if content := len(piece.rstrip(b"\0")):
            self.end_of_content = self.size_bytes + content
        self.size_bytes += len(piece)
        return piece


def _tar_members(stream: IO[bytes], url: str) -> Iterator[tuple[Member, Read]]:
    watched = _Watched(stream)
    with (
        _damage_told(url),
        tarfile.open(fileobj=watched, mode="r|", tarinfo=_ShortHeaders) as tar,  # type: ignore[call-overload]
    ):
        while (info := tar.next()) is not None:
            tar.members = []  # it would remember them all
            if not info.isdir():
                yield _tar_member(info), _tar_reader(tar, info, url)
        while watched.read(2**20):
            pass  # gzip's checksum stands at the end
        _check_end(watched, tar.offset)


@contextmanager
def _damage_told(url: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, _CutShort) as error:
        raise _damaged(url, error) from error


class _CutShort(Exception):
    """The end of a tar is missing; tarfile itself takes any end, and any garbage, for one."""


def _check_end(watched: _Watched, offset: int) -> None:
    """A whole tar ends in zeros, two blocks at least, right after its last member."""
    if watched.end_of_content > offset:
        raise _CutShort(f"garbage after byte {offset}")
    if watched.size_bytes % 512 or watched.size_bytes - offset < 1024:
        raise _CutShort(f"it ends at byte {watched.size_bytes} without an end mark")


def _tar_member(info: tarfile.TarInfo) -> Member:
    raw = _clean(info.name).encode("utf-8", "surrogateescape")
    name = raw.decode("utf-8", "backslashreplace")
    is_text = name.encode() == raw
    fault = _unsafe(name) or _tar_fault(info) or (None if is_text else "its name is not UTF-8")
    return Member(name, info.size, f"{int(info.mtime)}-{info.size}", fault)


def _tar_fault(info: tarfile.TarInfo) -> str | None:
    if info.issym() or info.islnk():
        return "it is a link"
    return None if info.isfile() else "it is a device"


def _tar_reader(tar: tarfile.TarFile, info: tarfile.TarInfo, url: str) -> Read:
    def read(most_bytes: int) -> bytes | Rejected:
        member = tar.extractfile(info)
        assert member is not None, info.name
        with member, _damage_told(url):
            return member.read(most_bytes + 1)

    return read
