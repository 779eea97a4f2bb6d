"""Which web addresses a worker may ask: public ones, and those that the dataset file allows.

Every host name is resolved here and only checked addresses are connected to, so that a name that
resolves to something else a moment later (DNS rebinding) gains nothing.
"""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class ForbiddenAddress(OSError):
    """An address that must not be asked; an OSError, so that the HTTP client carries it through."""


def check_url(url: URL, allowed: Sequence[Any]) -> None:
    """Refuse what is no web URL and what names a forbidden address by number."""
    if url.scheme not in ("http", "https") or not url.host:
        raise ForbiddenAddress(f"{url.scheme or 'no scheme'}: is not http or https")
    try:
        address = ipaddress.ip_address(url.host)
    except ValueError:
        return  # a name: PublicResolver sees what it stands for
    if not is_allowed(address, allowed):
        raise ForbiddenAddress(_refusal(url.host, [url.host]))


def is_allowed(address: Address, allowed: Sequence[Any]) -> bool:
    """Whether an address is public, or in one of the networks that the dataset file allows."""
    if any(address.version == network.version and address in network for network in allowed):
        return True
    inner = _inner(address)
    return address.is_global and not address.is_multicast and (inner is None or inner.is_global)


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address carries along, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


class PublicResolver(AbstractResolver):
    """Resolves names and leaves out the addresses that must not be asked."""

    def __init__(self, allowed: Sequence[Any]) -> None:
        self._allowed = allowed
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host; ForbiddenAddress when there are none but forbidden ones."""
        found = await self._resolver.resolve(host, port, family)
        fit = [one for one in found if is_allowed(ipaddress.ip_address(one["host"]), self._allowed)]
        if not fit:
            raise ForbiddenAddress(_refusal(host, [one["host"] for one in found]))
        return fit

    async def close(self) -> None:
        """Nothing is held."""
        await self._resolver.close()


def _refusal(host: str, addresses: list[str]) -> str:
    shown = host if addresses == [host] else f"{host} ({', '.join(addresses[:3])})"
    return f"{shown} is no public address; fetch.allow_addresses may allow it"
