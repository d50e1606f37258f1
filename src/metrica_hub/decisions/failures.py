"""How many wrong tokens an address may try: a few at once, then one now and then.

An address is forgotten when its failures are forgiven, or when there are too many addresses: whoever has that many may
as well try with each.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

AT_ONCE: Final = 10
FORGIVEN_S: Final = 6.0
"""After which one of them counts no more."""
MOST: Final = 4096
"""Addresses that are remembered."""
_V6_PREFIX: Final = 64
"""What one household is given; to have many addresses costs nothing there."""


class Failures:
    """Failures by address, each bucket leaking."""

    def __init__(self) -> None:
        self._full_until: OrderedDict[str, float] = OrderedDict()
        """When all that an address did is forgiven."""

    def __len__(self) -> int:
        return len(self._full_until)

    def wait_s(self, address: str, now_s: float) -> float:
        """Return for how long ``address`` has to wait; 0: it may try."""
        until_s = self._full_until.get(household(address), now_s)
        return max(0.0, until_s - now_s - (AT_ONCE - 1) * FORGIVEN_S)

    def note(self, address: str, now_s: float) -> None:
        """Count a failure."""
        key = household(address)
        self._full_until[key] = max(now_s, self._full_until.pop(key, now_s)) + FORGIVEN_S
        while len(self._full_until) > MOST or next(iter(self._full_until.values())) <= now_s:
            self._full_until.popitem(last=False)


def household(address: str) -> str:
    """Return what is counted as one: an IPv4 address, or the network that an IPv6 address is of."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _V6_PREFIX), strict=False))


def remote_of(peer: str, forwarded: str, proxies: tuple[str, ...]) -> str:
    """Return who asks: the peer, or, where that is one of our ``proxies``, the last address that it did not make up.

    Args:
        peer: who holds the connection.
        forwarded: the ``X-Forwarded-For`` headers, in their order.
        proxies: addresses whose word is taken.
    """
    if peer not in proxies:
        return peer
    for one in reversed([part.strip() for part in forwarded.split(",")]):
        if one and one not in proxies:
            return one if _is_address(one) else peer
    return peer


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
