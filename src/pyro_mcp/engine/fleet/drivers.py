"""Where machines come from, as the engine uses it; `machines.catalog.DriverCatalog` outside of tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pyro_mcp.machines.driver import Driver, GuestRuntime, Image


class Drivers(Protocol):
    """The drivers of this host."""

    def require_guest(self) -> None: ...

    def guest(self, environment: Image, runtime: GuestRuntime, notice: Callable[[str], None]) -> Driver: ...

    def likely(self) -> Driver: ...

    def host(self) -> Driver: ...

    def by_isolation(self, isolation: str) -> Driver: ...
