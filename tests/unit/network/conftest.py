"""A host's egress on one end of a real channel, and on the other a guest that asks for whatever it likes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pyro_mcp.model.network import Connection
from pyro_mcp.network.addresses import Address, parse
from pyro_mcp.network.egress import Egress
from pyro_mcp.network.policy import Policy
from pyro_mcp.network.record import Batch, Ledger, Recorder
from pyro_mcp.network.resolve import NameUnknown, Resolver
from pyro_mcp.protocol.channel import Channel, RemoteError
from pyro_mcp.protocol.pipe import Pipe


class Book:
    """Everything that was recorded, as it was written."""

    def __init__(self) -> None:
        self.entries: list[Connection] = []

    def write(self, batch: Batch) -> None:
        self.entries += [*batch.begun.values(), *batch.counted.values()]


class Guest:
    """The guest's end. `names` is what the host's resolver knows; a list of lists is answered one by one."""

    def __init__(self, policy: Policy, names: dict[str, Any] | None = None, **options: Any) -> None:
        self.asked: list[tuple[str, int]] = []
        self.book = Book()
        self._names = names or {}
        self._recorder = Recorder(self.book.write)
        self.egress = Egress(policy, Ledger("vm-1", self._recorder), Resolver(self._lookup), **options)
        near, far = socket.socketpair()
        self.host = Channel(Pipe(near.detach()), initiator=True, hello={}, handler=self.egress.handle)
        self.channel = Channel(Pipe(far.detach()), initiator=False, hello={}, handler=lambda stream: None)
        answering = threading.Thread(target=self.channel.start, daemon=True)
        answering.start()
        self.host.start()
        answering.join()

    def _lookup(self, name: str, family: int) -> list[Address]:
        self.asked.append((name, family))
        if name not in self._names:
            raise NameUnknown(name)
        known = self._names[name]
        if known and isinstance(known[0], list):
            known = known.pop(0) if len(known) > 1 else known[0]
        return [parse(one) for one in known if (":" in one) == (family == 6)]

    def resolve(self, name: Any, family: Any = 4) -> list[str]:
        found: list[str] = self.channel.call("net_resolve", {"name": name, "family": family}, 20)["addresses"]
        return found

    def connect(self, address: Any, port: Any) -> Any:
        """The stream, once connected. Raises `RemoteError`."""
        stream = self.channel.open("net_connect", {"address": address, "port": port})
        message = stream.receive(20)
        assert message.value == {"connected": True}  # type: ignore[union-attr]
        return stream

    def refusal(self, verb: str, **params: Any) -> dict[str, Any]:
        """The error that a request ends with."""
        with pytest.raises(RemoteError) as caught:
            self.channel.call(verb, params, 20)
        return caught.value.payload

    def recorded(self) -> list[Connection]:
        self._recorder.flush()
        return self.book.entries

    def close(self) -> None:
        self.host.close()
        self.channel.close()


@pytest.fixture
def new_guest() -> Iterator[Any]:
    made: list[Guest] = []

    def make(policy: Policy, names: dict[str, Any] | None = None, **options: Any) -> Guest:
        made.append(Guest(policy, names, **options))
        return made[-1]

    yield make
    for guest in made:
        guest.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A listening socket of this host."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener
