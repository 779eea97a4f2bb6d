"""Fetching from the web, against a server that misbehaves in every way that we know of."""

import asyncio
import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from yarl import URL

from sightline.images import Rejected
from sightline.source_config import FetchSpec
from sightline.sources.addresses import ForbiddenAddress, PublicResolver, check_url
from sightline.sources.web import Fetched, WebReader
from tests.servers.misbehaving import Misbehaving, misbehaving_server, picture

MOST_BYTES = 1_000_000
HERE = "127.0.0.1"


@pytest.fixture
def server() -> Iterator[tuple[str, type[Misbehaving]]]:
    with misbehaving_server() as found:
        yield found


@pytest.fixture
def reader() -> Iterator[Callable[..., WebReader]]:
    """Makes readers that may ask this machine, and closes them."""
    made: list[WebReader] = []

    def make(**options: Any) -> WebReader:
        spec = {"allow_addresses": [f"{HERE}/32"], "attempts": 2, **options}
        made.append(WebReader(FetchSpec.model_validate(spec), MOST_BYTES))
        return made[-1]

    yield make
    for one in made:
        one.close()


def read(reader: WebReader, *urls: str) -> list[Fetched | Rejected]:
    """What came of each URL, in their order."""
    found = dict(reader.read(urls, lambda url: url))
    return [found[url] for url in urls]


def outcome(found: Fetched | Rejected) -> str:
    """`content`, or why not."""
    if isinstance(found, Rejected):
        return found.reason
    return "content" if found.content == picture() else "other content"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("good/0.jpg", "content"),
        ("once_busy/0.jpg", "content"),
        ("once_failing/0.jpg", "content"),
        ("once_reset/0.jpg", "content"),
        ("gzip/0.jpg", "content"),
        ("redirects/0.jpg/10", "content"),
        ("busy_for_a_day/0.jpg", "busy"),
        ("failing/0.jpg", "unreadable"),
        ("reset/0.jpg/1", "unreadable"),
        ("reset/0.jpg/50", "unreadable"),
        ("reset/0.jpg/99", "unreadable"),
        ("shorter/0.jpg", "unreadable"),
        ("silent/0.jpg", "unreadable"),
        ("drip/0.jpg", "unreadable"),
        ("status/0.jpg/404", "gone"),
        ("status/0.jpg/410", "gone"),
        ("removed/0.jpg", "gone"),
        ("status/0.jpg/403", "refused"),
        ("status/0.jpg/204", "refused"),
        ("redirects/0.jpg/11", "refused"),
        ("opted_out/0.jpg/noai", "opted_out"),
        ("opted_out/0.jpg/noindex,_NoImageAI", "opted_out"),
        ("opted_out/0.jpg/noindex", "content"),
        ("to/0.jpg/http://127.0.0.2/secret", "forbidden_address"),
        ("to/0.jpg/http://2130706434/secret", "forbidden_address"),
        ("to/0.jpg/http://0x7f.2/secret", "forbidden_address"),
        ("to/0.jpg/http://169.254.169.254/latest/meta-data", "forbidden_address"),
        ("to/0.jpg/http://[::1]/", "forbidden_address"),
        ("to/0.jpg/http://[::ffff:10.0.0.1]/", "forbidden_address"),
        ("to/0.jpg/file:///etc/passwd", "forbidden_address"),
        ("to/0.jpg/ftp://example.org/x", "forbidden_address"),
    ],
)
def test_every_answer_becomes_a_picture_or_a_reason(
    server: tuple[str, type[Misbehaving]],
    reader: Callable[..., WebReader],
    path: str,
    expected: str,
) -> None:
    quick = reader(read_seconds=0.3, whole_seconds=1.0)
    assert outcome(read(quick, f"{server[0]}/{path}")[0]) == expected


@pytest.mark.parametrize(
    "url", ["http://localhost/", "http://[/", "", "/etc/passwd", "http://127.0.0.1/"]
)
def test_what_is_no_public_web_address_is_not_asked(
    reader: Callable[..., WebReader], url: str
) -> None:
    assert outcome(read(reader(allow_addresses=[]), url)[0]) == "forbidden_address"


def test_a_body_longer_than_its_length_is_cut_there_or_refused(
    server: tuple[str, type[Misbehaving]], reader: Callable[..., WebReader]
) -> None:
    # It depends on whether the rest comes with the same packet.
    assert outcome(read(reader(), f"{server[0]}/longer/0.jpg")[0]) in ("content", "unreadable")


def test_what_keeps_failing_is_asked_as_often_as_allowed_and_the_rest_once(
    server: tuple[str, type[Misbehaving]], reader: Callable[..., WebReader]
) -> None:
    address, handler = server
    paths = ["/failing/0.jpg", "/busy_for_a_day/0.jpg", "/status/0.jpg/404", "/good/0.jpg"]
    read(reader(attempts=3), *(address + path for path in paths))
    assert [handler.counts[path] for path in paths] == [3, 1, 1, 1]


def test_the_detail_says_what_happened(
    server: tuple[str, type[Misbehaving]], reader: Callable[..., WebReader]
) -> None:
    found = read(reader(), f"{server[0]}/failing/0.jpg", "http://10.1.2.3/x.jpg")
    assert [str(one) for one in found] == [
        "unreadable: HTTP 500 Internal Server Error, tries: 2",
        "forbidden_address: 10.1.2.3 is no public address; fetch.allow_addresses may allow it",
    ]


def test_a_bomb_and_an_endless_body_end_one_byte_beyond_the_limit(
    server: tuple[str, type[Misbehaving]], reader: Callable[..., WebReader]
) -> None:
    found = read(reader(), f"{server[0]}/gzip_bomb/0.jpg", f"{server[0]}/endless/0.jpg")
    assert [len(one.content) for one in found if isinstance(one, Fetched)] == [MOST_BYTES + 1] * 2


def test_the_server_s_word_on_the_version_is_kept(
    server: tuple[str, type[Misbehaving]], reader: Callable[..., WebReader]
) -> None:
    found = read(reader(), f"{server[0]}/good/7.jpg")[0]
    assert found == Fetched(picture(7), '"v1"', "Sat, 01 Nov 2026 10:00:00 GMT")


def test_connections_are_reused_and_never_more_than_the_host_s_share(
    server: tuple[str, type[Misbehaving]], reader: Callable[..., WebReader]
) -> None:
    address, handler = server
    some = reader(connections_per_host=3)
    for start in (0, 100):
        urls = [f"{address}/good/{number}.jpg" for number in range(start, start + 100)]
        assert [outcome(one) for one in read(some, *urls)].count("other content") >= 99
    assert len(handler.connections) <= 3


def test_opting_out_is_honoured_unless_the_dataset_file_says_otherwise(
    server: tuple[str, type[Misbehaving]], reader: Callable[..., WebReader]
) -> None:
    url = f"{server[0]}/opted_out/0.jpg/noai"
    assert [outcome(one) for one in read(reader(honour_opt_out=False), url)] == ["content"]


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "100.64.0.1", "192.168.1.1", "224.0.0.1", "[fd00::1]", "[fe80::1]",
     "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::ffff:127.0.0.1]", "[::]"],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(host: str) -> None:
    with pytest.raises(ForbiddenAddress, match="is no public address"):
        check_url(URL(f"http://{host}/"), [])
    check_url(URL("http://93.184.216.34/"), [])
    check_url(URL("http://[2606:2800:220:1:248:1893:25c8:1946]/"), [])


def test_a_name_is_refused_for_the_addresses_that_it_stands_for() -> None:
    async def resolve(*allowed: str) -> list[str]:
        resolver = PublicResolver([ipaddress.ip_network(one) for one in allowed])
        found = await resolver.resolve("localhost", 80)
        await resolver.close()
        return [one["host"] for one in found]

    assert asyncio.run(resolve("127.0.0.0/8")) == [HERE]
    with pytest.raises(ForbiddenAddress, match=r"localhost \(127.0.0.1\) is no public"):
        asyncio.run(resolve("10.0.0.0/8"))
