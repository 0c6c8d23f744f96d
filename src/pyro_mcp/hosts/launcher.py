"""Launcher: the path under which a host should start this pyro, for years.

An upgrade makes virtual environments and caches anew, while the link that an installer puts on PATH stays.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyro_mcp.hosts.contract import SERVE, Server, Where

_USUAL = (".local/bin", "bin")


@dataclass(frozen=True)
class Launcher:
    """The words that start pyro, and why they may stop doing so; None when nothing speaks against them."""

    where: Where
    command: str
    args: tuple[str, ...]

    @property
    def risk(self) -> str | None:
        return risk_of(Path(self.command), self.where)

    def server(self, options: tuple[str, ...], *, instead_of: Server | None = None) -> Server:
        """The server with these options of `mcp serve`. Another path to the same program, as good as ours, stays."""
        command = self.command
        if instead_of is not None and os.path.isabs(instead_of.command):
            theirs = Path(instead_of.command)
            as_good = self.risk is not None or risk_of(theirs, self.where) is None
            if as_good and os.path.realpath(theirs) == os.path.realpath(command):
                command = instead_of.command
        return Server(command, (*self.args, *SERVE, *options))


def find_launcher(where: Where) -> Launcher:
    """The most lasting way to start the pyro that runs now."""
    own = {script.resolve() for script in _scripts() if script.exists()}
    candidates = [path for path in _candidates(where) if path.resolve() in own and os.access(path, os.X_OK)]
    candidates += sorted(own)
    lasting = (path for path in candidates if risk_of(path, where) is None)
    found = next(lasting, candidates[0] if candidates else None)
    return Launcher(where, str(found), ()) if found else Launcher(where, sys.executable, ("-m", "pyro_mcp"))


def risk_of(path: Path, where: Where) -> str | None:
    """Why `path`, as it is written, may not last; None when nothing speaks against it."""
    for name, fallback in (("XDG_CACHE_HOME", ".cache"), ("TMPDIR", "/tmp"), ("UV_CACHE_DIR", ".cache/uv")):
        directory = where.directory(name, fallback)
        if path.is_relative_to(directory):
            return f"{path} lies in {directory}, which may be emptied"
    if (path.parent.parent / "pyvenv.cfg").exists():
        return f"{path} lies in a virtual environment, which an upgrade may move"
    return None


def remedy(path: str) -> str:
    """What makes a lasting path of `path`."""
    return f"`ln -s {path} ~/.local/bin/pyro`, then `pyro host repair`."


def _scripts() -> Iterator[Path]:
    """Where the installer of this interpreter puts the program."""
    yield Path(sys.executable).parent / "pyro"
    for scheme in (None, "posix_user"):
        found = sysconfig.get_path("scripts") if scheme is None else sysconfig.get_path("scripts", scheme)
        yield Path(found) / "pyro"


def _candidates(where: Where) -> Iterator[Path]:
    directories = [Path(one) for one in where.environ.get("PATH", "").split(os.pathsep) if one.startswith("/")]
    for directory in (*directories, *(where.home / one for one in _USUAL), Path("/usr/local/bin"), Path("/usr/bin")):
        yield directory / "pyro"
