"""Archives: what is listed, what is refused, and that a damaged one is never taken for a whole."""

import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from sightline.errors import SourceError
from sightline.images import Rejected
from sightline.sources import archives

FILES = {"a/x/1.jpg": b"one", "a/x/2.PNG": b"two" * 1000, "a/y/z/3.jpg": b"", "a/ü ☂/4.gif": b"4"}
STRAY = {"a/x/.DS_Store": b"s", "__MACOSX/a/x/1.jpg": b"m", "a/Thumbs.db": b"t", "a/more.zip": b"z"}


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "") -> Path:
    with tarfile.open(path, "w:gz" if mode or path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, content in files.items():
            add(archive, name, content)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **more: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content))


def write(path: Path, files: dict[str, bytes]) -> Path:
    return write_zip(path, files) if path.suffix == ".zip" else write_tar(path, files)


def contents(path: Path, most_bytes: int = 10**6) -> dict[str, bytes | Rejected]:
    return {member.name: read(most_bytes) for member, read in archives.walk(str(path))}


def fault_of(path: Path, name: str) -> str:
    content = contents(path)[name]
    assert isinstance(content, Rejected)
    assert content.reason == "bad_member"
    return content.detail


def refusal(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        contents(path)
    return str(caught.value)


@pytest.fixture(params=["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def test_only_images_are_listed_in_order_and_nothing_is_written(path: Path) -> None:
    write(path, FILES | STRAY)
    assert contents(path) == FILES
    assert list(contents(path)) == list(FILES)
    assert set(path.parent.iterdir()) == {path, path.parent / "datasets"}


def test_a_listing_reads_no_bytes_and_tells_sizes(path: Path) -> None:
    write(path, FILES)
    members = [member for member, _ in archives.walk(str(path))]
    assert [member.size_bytes for member in members] == [len(one) for one in FILES.values()]
    assert all(member.fault is None for member in members)


def test_no_more_than_one_byte_over_the_limit_is_read(path: Path) -> None:
    write(path, {"a/big.jpg": b"x" * 5000, "a/small.jpg": b"y"})
    assert contents(path, most_bytes=100) == {"a/big.jpg": b"x" * 101, "a/small.jpg": b"y"}


def test_paths_that_lead_out_are_refused_and_dot_slash_is_not(path: Path) -> None:
    write(path, {"../a/1.jpg": b"1", "/etc/2.jpg": b"2", "a/../../3.jpg": b"3", "./a/4.jpg": b"4"})
    found = contents(path)
    assert found.pop("a/4.jpg") == b"4"
    assert len(found) == 3
    assert {one.reason for one in found.values() if isinstance(one, Rejected)} == {"bad_member"}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_of_members_of_one_name_the_first_counts(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/1.jpg", b"first")
        archive.writestr("a/1.jpg", b"second")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a/1.jpg", b"first")
        add(tar, "./a/1.jpg", b"second")
    assert contents(tmp_path / "a.zip") == contents(tmp_path / "a.tar") == {"a/1.jpg": b"first"}


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a/soft.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "a/hard.jpg", type=tarfile.LNKTYPE, linkname="a/soft.jpg")
        add(tar, "a/device.jpg", type=tarfile.CHRTYPE)
        add(tar, "a/pipe.jpg", type=tarfile.FIFOTYPE)
    details = [
        fault_of(tmp_path / "a.tar", f"a/{n}.jpg") for n in ("soft", "hard", "device", "pipe")
    ]
    assert details == ["it is a link", "it is a link", "it is a device", "it is a device"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("a/soft.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert fault_of(tmp_path / "a.zip", "a/soft.jpg") == "it is a link"


def test_a_wrong_checksum_spoils_one_member_of_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.jpg", b"good bytes")
        archive.writestr("a/2.jpg", b"other")
    path.write_bytes(path.read_bytes().replace(b"good bytes", b"evil bytes"))
    assert "Bad CRC-32" in fault_of(path, "a/1.jpg")
    assert contents(path)["a/2.jpg"] == b"other"


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    raw = bytearray(write_zip(tmp_path / "a.zip", {"a/1.jpg": b"1"}).read_bytes())
    raw[raw.index(b"PK\x03\x04") + 6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(raw)
    assert fault_of(tmp_path / "a.zip", "a/1.jpg") == "it is encrypted"


def test_a_bomb_is_refused_unread_and_a_small_plain_file_is_not(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a/1.jpg": bytes(50 * 2**20), "a/2.jpg": bytes(2**19)})
    assert fault_of(path, "a/1.jpg").startswith("52428800 bytes are packed into")
    assert contents(path)["a/2.jpg"] == bytes(2**19)


def test_names_that_are_not_utf_8_are_listed_and_refused(tmp_path: Path) -> None:
    with tarfile.open(
        tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1"
    ) as tar:
        add(tar, "a/\xe9.jpg", b"1")
    assert fault_of(tmp_path / "a.tar", "a/\\xe9.jpg") == "its name is not UTF-8"
    path = write_zip(tmp_path / "a.zip", {"a/__.jpg": b"1"})
    path.write_bytes(path.read_bytes().replace(b"a/__.jpg", b"a/\xe9_.jpg"))
    ((name, content),) = contents(path).items()
    assert isinstance(content, Rejected), name
    path.write_bytes(path.read_bytes().replace(b"a/\xe9_.jpg", "a/é.jpg".encode()))
    assert contents(path) == {"a/é.jpg": b"1"}


def test_an_archive_that_lacks_its_end_is_refused(path: Path) -> None:
    whole = write(
        path, {f"a/{n}.jpg": random.Random(n).randbytes(3000) for n in range(20)}
    ).read_bytes()
    assert len(contents(path)) == 20
    for length in (len(whole) - 1, len(whole) // 2, 600):
        path.write_bytes(whole[:length])
        assert "is damaged or cut short" in refusal(path)
        assert str(path) in refusal(path)


def test_garbage_in_the_middle_of_a_tar_is_no_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {f"a/{n}.jpg": bytes([n]) * 512 for n in range(5)})
    raw = bytearray(path.read_bytes())
    raw[2048:2560] = b"?" * 512  # the third header
    path.write_bytes(raw)
    assert "garbage after byte 2048" in refusal(path)


def test_what_is_no_archive_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"<!DOCTYPE html><html>Sign in")
    assert refusal(path) == f"{path} is a web page; remove it and get the archive anew."
    path.write_bytes(b"Rar!")
    assert "is no .zip, .tar or .tar.gz" in refusal(path)
    path.write_bytes(gzip.compress(b"not a tar" * 100))
    assert "is damaged or cut short" in refusal(path)
    path.unlink()
    assert "does not exist" in refusal(path)


def test_a_header_that_asks_for_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 2**33
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    assert "a header of 8589934592 bytes" in refusal(path)
