"""Answers: which name each address was last given out for, so that connections are judged by name."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from pyro_mcp.network.addresses import Address

KEPT_SECONDS = 3600.0
"""Longer than programs keep an answer, so that one which connects again is not cut off; a name may move meanwhile, and
then the address that it left stays reachable for so long."""
KEPT_MAX = 4096


class Answers:
    """The recent answers of one machine. Bounded: the address that was given out longest ago is forgotten first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: OrderedDict[Address, tuple[str, float]] = OrderedDict()

    def learn(self, name: str, addresses: Iterable[Address], now: float) -> None:
        """`name` was answered with `addresses`."""
        with self._lock:
            for address in addresses:
                self._names[address] = (name, now + KEPT_SECONDS)
                self._names.move_to_end(address)
            while len(self._names) > KEPT_MAX:
                self._names.popitem(last=False)

    def name_of(self, address: Address, now: float) -> str | None:
        """The name that `address` was last given out for, if that is recent."""
        with self._lock:
            name, until = self._names.get(address, ("", 0.0))
        return name if now < until else None
