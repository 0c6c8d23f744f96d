"""Egress: the host's side of a guest's outgoing connections. The guest has no network card; it opens streams here.

    net_resolve {name, family: 4|6} -> {addresses, ttl}
    net_connect {address, port}     -> EVENT {connected: true}, then DATA 0 both ways, END for each direction; {}

A refusal answers `permission`; other codes are `not_found`, `refused`, `timeout`, `unreachable`, `reset`, `capacity`,
and `unavailable` for a look-up that nobody could answer. What arrives here is hostile. A connection goes to exactly the
address that was asked for and judged, so nothing can change between the look and the step; a name is looked up once,
by the host, and its answer holds only addresses that may be dialled.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pyro_mcp.errors import Cancelled, Capacity, InvalidArgument, NotFound, PermissionDenied, Unsupported
from pyro_mcp.network.addresses import Address, parse
from pyro_mcp.network.answers import Answers
from pyro_mcp.network.dial import dial
from pyro_mcp.network.names import GIVEN_MAX, NAME_MAX, host_name
from pyro_mcp.network.policy import Policy, Refusal, forms
from pyro_mcp.network.record import Ledger
from pyro_mcp.network.resolve import LookupFailed, NameUnknown, Resolver
from pyro_mcp.protocol.relay import Ending, Relay
from pyro_mcp.protocol.stream import Stream
from pyro_mcp.system.routes import Route, route_to

CONNECTIONS_MAX, LOOKUPS_MAX = 120, 64
"""The agent asks for somewhat more connections and for as many look-ups: one too many is refused here, and recorded."""
TTL_SECONDS = 60
HALF_OPEN_SECONDS = 300.0
ANSWERS_MAX = 32
_CODES = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "refused",
    errno.ETIMEDOUT: "timeout",
}


class Failed(Exception):
    """An answer that is no refusal: what was allowed did not work."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self._code = code

    def to_wire(self) -> dict[str, Any]:
        return {"code": self._code, "message": str(self), "hint": None}


class Egress:
    """Answers one machine's streams, any number of times connected anew. `handle` may run on many threads at once."""

    def __init__(
        self,
        policy: Policy,
        ledger: Ledger,
        resolver: Resolver,
        *,
        route: Callable[[Address], Route] = route_to,
        mask: Callable[[str], str] = str,
    ) -> None:
        """`mask` takes out of a name what must not be written down."""
        self.policy = policy
        self.ledger = ledger
        self._resolver = resolver
        self._route = route
        self._mask = mask
        self._answers = Answers()
        self._connections = _Places("connections", CONNECTIONS_MAX)
        self._lookups = _Places("look-ups", LOOKUPS_MAX)

    @property
    def open_count(self) -> int:
        """How many connections are open or being opened."""
        return self._connections.taken

    def handle(self, stream: Stream) -> None:
        """Answer one stream. What it raises is the answer."""
        if stream.verb == "net_resolve":
            stream.result(self._resolve(stream))
        elif stream.verb == "net_connect":
            self._connect(stream)
        else:
            raise Unsupported(f"cannot {stream.verb[:64]!r}: there is no such verb")

    # -- names

    def _resolve(self, stream: Stream) -> dict[str, Any]:
        given, family = stream.params.get("name"), stream.params.get("family")
        if not isinstance(given, str) or family not in (4, 6) or isinstance(family, bool):
            raise InvalidArgument("cannot look up: name and family (4 or 6) are needed")
        shown_name = self._record_name(given)
        try:
            name = host_name(given)
        except ValueError:
            refusal: Refusal | None = Refusal("it is no host name, or has more than one reading", None)
        else:
            refusal = self.policy.refuse_name(name)
            if self._mask(given) == given:
                shown_name = name
            elif refusal is not None:
                refusal = Refusal(refusal.reason, "<<create_workspace.allow_hosts=NAME>>")
        if refusal is not None:
            raise self._refused(shown_name, None, 0, refusal)
        with self._lookups.one():
            return {"addresses": self._addresses(name, shown_name, family, stream), "ttl": TTL_SECONDS}

    def _record_name(self, name: str) -> str:
        """A name as it may be written down: short, printable, without what is secret."""
        return repr(self._mask(name[:GIVEN_MAX]))[1:-1][:NAME_MAX]

    def _addresses(self, name: str, shown_name: str, family: int, stream: Stream) -> list[str]:
        try:
            found = self._resolver.lookup(name, family, stream.on_cancel)
        except NameUnknown:
            raise NotFound(f"cannot look up {name}: there is no such name") from None
        except LookupFailed as error:
            raise Failed("unavailable", f"cannot look up {name}: {error}") from None
        judged = [(address, self._refuse_address(address)) for address in found]
        good = [address for address, refusal in judged if refusal is None][:ANSWERS_MAX]
        self._answers.learn(shown_name, good, time.monotonic())
        if judged and not good:
            address, refusal = judged[0]
            assert refusal is not None
            refused = self._refused(shown_name, str(address), 0, refusal)
            # A name often has an address of the other family that may be dialled; an error would hide it.
            if family == 4:
                raise refused
        return [str(address) for address in good if family == 4 or self._has_way(address)]

    # -- connections

    def _connect(self, stream: Stream) -> None:
        address, port = _target(stream.params)
        name = self._answers.name_of(address, time.monotonic())
        refusal = self._refuse_address(address)
        if refusal is None and name is None:
            refusal = self.policy.refuse_unnamed()
        if refusal is not None:
            raise self._refused(name, str(address), port, refusal)
        try:
            with self._connections.one():
                self._carry(stream, name, address, port)
        except Capacity as error:
            self.ledger.refused(name, str(address), port, Refusal(error.message, None))
            raise

    def _carry(self, stream: Stream, name: str | None, address: Address, port: int) -> None:
        """Connect and move data until it is over."""
        try:
            sock = dial(address, port, stream.on_cancel)
        except Cancelled:
            self.ledger.failed(name, str(address), port, "it was given up while connecting")
            raise
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            self.ledger.failed(name, str(address), port, why)
            raise Failed(_CODES.get(error.errno or 0, "unreachable"), f"cannot connect to {address}: {why}") from None
        entry, begun = self.ledger.begun(name, str(address), port), time.monotonic()
        relay: Relay | None = None
        try:
            stream.event({"connected": True})
            # Not before: one that never runs would keep its descriptor.
            relay = Relay(stream, sock, half_open_seconds=HALF_OPEN_SECONDS)
            ending = relay.run()
        finally:
            sock.close()
            if relay is not None:
                entry.bytes_in, entry.bytes_out, entry.reason = relay.read, relay.written, relay.cause[:200]
            entry.duration_ms = int((time.monotonic() - begun) * 1000)
            self.ledger.ended(entry)
        if ending is Ending.DONE:
            stream.result({})
        else:
            raise Failed("reset", f"the connection to {address} is over: {relay.cause or ending.value}")

    # -- judging

    def _refuse_address(self, address: Address) -> Refusal | None:
        try:
            here = any(self._route(form) == "here" for form in forms(address))
        except OSError as error:
            return Refusal(f"this host cannot tell where it leads: {error}", None)
        return self.policy.refuse_address(address, "here" if here else "away")

    def _has_way(self, address: Address) -> bool:
        """An answer that this host has no way to only makes programs wait for the other family."""
        return self._route(address) != "nowhere"

    def _refused(self, name: str | None, address: str | None, port: int, refusal: Refusal) -> PermissionDenied:
        self.ledger.refused(name, address, port, refusal)
        what = name or address
        return PermissionDenied(f"cannot reach {what}: {refusal.reason}", hint=refusal.hint)


class _Places:
    """So many at once and no more."""

    def __init__(self, what: str, max_: int) -> None:
        self.taken = 0
        self._what = what
        self._max = max_
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place. Raises `Capacity` when all are taken."""
        with self._lock:
            if self.taken >= self._max:
                raise Capacity(f"{self._max} {self._what} are under way, as many as one machine may have")
            self.taken += 1
        try:
            yield
        finally:
            with self._lock:
                self.taken -= 1


def _target(params: dict[str, Any]) -> tuple[Address, int]:
    address, port = params.get("address"), params.get("port")
    if type(port) is not int or not 1 <= port <= 65535 or not isinstance(address, str):
        raise InvalidArgument("cannot connect: an address and a port from 1 to 65535 are needed")
    try:
        return parse(address), port
    except ValueError:
        raise InvalidArgument("cannot connect: the address is none") from None
