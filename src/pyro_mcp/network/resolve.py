"""Resolve: names to addresses, by this host's own resolver, within a deadline.

The very text that the policy has let through is looked up, as an absolute name: a search list would turn one name
into another. The C library does not find absolute names in /etc/hosts, so that file is read here, first. A look-up
cannot be interrupted, so it runs on one of a bounded number of threads and its caller may leave without it. The bound
is each machine's own: names that nobody answers, asked for by one, make no other wait.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pyro_mcp.network.addresses import Address, parse
from pyro_mcp.protocol.workers import Workers

HOSTS = Path("/etc/hosts")
HOSTS_MAX = 4 * 1024 * 1024
LOOKUP_SECONDS = 10.0
AT_ONCE = 16
_NO_DATA = frozenset({socket.EAI_NODATA, socket.EAI_ADDRFAMILY})

Lookup = Callable[[str, int], list[Address]]
"""Takes a name and 4 or 6. Raises `NameUnknown` or `LookupFailed`; an empty list means that there is nothing of that
family."""


class NameUnknown(Exception):
    """There is no such name."""


class LookupFailed(Exception):
    """No answer; `str` says why."""


class Resolver:
    """Look-ups for one machine, `AT_ONCE` under way at most, on threads that all may share."""

    def __init__(self, lookup: Lookup | None = None, workers: Workers | None = None) -> None:
        self._lookup = lookup or lookup_host
        self._workers = workers or Workers()
        self._slots = threading.BoundedSemaphore(AT_ONCE)

    def lookup(self, name: str, family: int, on_cancel: Callable[[Callable[[], None] | None], None]) -> list[Address]:
        """The addresses of `name`, of family 4 or 6. `on_cancel` takes what ends the waiting.

        Raises `NameUnknown`, or `LookupFailed` also when it takes too long or is cancelled.
        """
        deadline = time.monotonic() + LOOKUP_SECONDS
        done = threading.Event()
        outcome: list[list[Address] | Exception] = []

        def run() -> None:
            try:
                outcome.append(self._lookup(name, family))
            except (NameUnknown, LookupFailed) as error:
                outcome.append(error)
            finally:
                self._slots.release()
                done.set()

        if not self._slots.acquire(timeout=LOOKUP_SECONDS):
            raise LookupFailed("too many look-ups are under way")
        on_cancel(done.set)
        try:
            self._workers.submit(run)
        except RuntimeError as error:
            self._slots.release()
            raise LookupFailed(str(error)) from None
        done.wait(max(0.0, deadline - time.monotonic()))
        on_cancel(None)
        if not outcome:
            raise LookupFailed("the resolver of this host gave no answer in time")
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]


def lookup_host(name: str, family: int) -> list[Address]:
    """What this host's hosts file says of `name`, else what its resolver does."""
    listed = hosts.get(name)
    if listed:
        return [address for address in listed if address.version == family]
    requested = socket.AF_INET if family == 4 else socket.AF_INET6
    try:
        found = socket.getaddrinfo(f"{name}.".encode("ascii"), None, requested, socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NO_DATA:
            return []
        if error.errno == socket.EAI_NONAME:
            raise NameUnknown(name) from None
        raise LookupFailed(str(error.strerror)) from None
    except OSError as error:
        raise LookupFailed(os.strerror(error.errno) if error.errno else str(error)) from None
    return list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


class HostsFile:
    """The names in `path`, read again when it has changed."""

    def __init__(self, path: Path = HOSTS) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._names: dict[str, list[Address]] = {}

    def get(self, name: str) -> list[Address]:
        """The addresses of `name`; none when it is not there."""
        with self._lock:
            try:
                state = self._path.stat()
                stamp = (state.st_ino, state.st_mtime_ns, state.st_size)
                if stamp != self._stamp:
                    with self._path.open("rb") as file:
                        self._names = read_hosts(file.read(HOSTS_MAX).decode("utf-8", "replace"))
                    self._stamp = stamp
            except OSError:
                # Many hosts have none, and then the resolver has the word.
                self._stamp, self._names = None, {}
            return self._names.get(name, [])


def read_hosts(text: str) -> dict[str, list[Address]]:
    """The lines `address name name...` of a hosts file; what is no such line is left out, as the C library does."""
    names: dict[str, list[Address]] = {}
    for line in text.splitlines():
        address, *found = line.partition("#")[0].split() or [""]
        try:
            parsed = parse(address)
        except ValueError:
            continue
        for name in found:
            names.setdefault(name.lower(), []).append(parsed)
    return names


hosts = HostsFile()
