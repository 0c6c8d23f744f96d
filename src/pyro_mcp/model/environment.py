"""Environments: what the catalogue offers and what is installed of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyro_mcp.model.result import Result


@dataclass(frozen=True, kw_only=True)
class Environment(Result):
    """A named Linux userland that guests start from.

    `install_dir`, `digest` (SHA-256 of the image), `size_bytes`, `installed_at` (RFC 3339, UTC), `source` (where its
    packages came from) and `packages` (versions by name) are None or empty while it is not installed.
    """

    name: str
    version: str
    description: str
    default_packages: list[str]
    distribution: str
    distribution_version: str
    platform: str
    installed: bool
    cache_dir: str
    install_dir: str | None
    catalog_version: str
    digest: str | None
    size_bytes: int | None
    installed_at: str | None
    source: list[str]
    packages: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class PruneResult(Result):
    """What a prune removed; of a dry run, what it would have.

    `removed`, `kept` (a machine uses it) and `unused` (none does, and it is current) hold the names of environments, or
    a digest where no name is left; `deleted` the paths of everything that went, images and leftovers alike.
    """

    removed: list[str]
    kept: list[str]
    deleted: list[str]
    freed_bytes: int
    unused: list[str] = field(default_factory=list)
    dry_run: bool = False
