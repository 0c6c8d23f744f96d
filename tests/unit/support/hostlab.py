"""Hostlab: a chat host seen from a home of its own, with stand-ins for the hosts' programs."""

from __future__ import annotations

from pathlib import Path

from pyro_mcp.hosts.connect import Wish
from pyro_mcp.hosts.contract import Where
from pyro_mcp.hosts.launcher import find_launcher
from pyro_mcp.settings import host_environ
from pyro_mcp.surfaces.cli.serve import read_words

STANDINS = Path(__file__).parents[1] / "hosts" / "standins"
USER_FILES = {
    "claude-code": ".claude.json",
    "codex": ".codex/config.toml",
    "opencode": ".config/opencode/opencode.json",
}
PROJECT_FILES = {"claude-code": ".mcp.json", "codex": ".codex/config.toml", "opencode": "opencode.json"}


def where() -> Where:
    return Where(host_environ(), Path.cwd())


def wish(*options: str, name: str = "pyro", keep: bool = False, dry_run: bool = False) -> Wish:
    return Wish(name, find_launcher(where()), None if keep else options, read_words, dry_run)
