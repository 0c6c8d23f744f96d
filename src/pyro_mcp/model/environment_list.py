"""The answer to "which environments are there"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyro_mcp.model.environment import Environment
from pyro_mcp.model.page import ListPage


@dataclass(frozen=True, kw_only=True)
class EnvironmentList(ListPage):
    """The catalogue's environments, installed or not. Iterating goes over the environments."""

    catalog_version: str
    environments: list[Environment]

    def __iter__(self) -> Iterator[Environment]:
        return iter(self.environments)

    def __len__(self) -> int:
        return len(self.environments)
