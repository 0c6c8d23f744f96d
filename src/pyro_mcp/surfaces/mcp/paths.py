"""Paths: which paths of this host the server's tools may use.

A model's argument must not reach further than the person who started the server meant: seeds, imports, secrets' files
and exports stay below the directory the server was started in, and below those named with `--host-path`. There, too,
nothing is written where a program of the host would run it by itself: that is the person's to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyro_mcp.errors import PermissionDenied
from pyro_mcp.operations.fields import Field
from pyro_mcp.trees.runnable import runs_there


def host_roots(named: Iterable[Path | str] = ()) -> tuple[Path, ...]:
    """The working directory and the `named` ones, links resolved. A server started in `/` or in the home directory, as
    some hosts do, was not pointed at a project: that directory does not count."""
    here = Path.cwd().resolve()
    started_in = () if here in (Path("/"), Path.home().resolve()) else (here,)
    return tuple(dict.fromkeys((*started_in, *(Path(one).expanduser().resolve() for one in named))))


def require_inside(tool: str, fields: Iterable[Field], params: Mapping[str, Any], roots: tuple[Path, ...]) -> None:
    """Refuse a host path, absolute in `params`, that leads out of all `roots`, or is written where it would be run.
    Raises `PermissionDenied`."""
    for field in fields:
        value = params.get(field.name)
        if not field.param.host_path or value is None:
            continue
        for path in value.values() if isinstance(value, dict) else [value]:
            real = Path(str(path)).resolve()
            holding = [root for root in roots if real.is_relative_to(root)]
            if not holding:
                allowed = ", ".join(map(str, roots)) or "none"
                raise PermissionDenied(
                    f"cannot call {tool}: {field.name} {path} lies outside of what this server may touch",
                    hint=f"Allowed: {allowed}. To allow more, start the server with --host-path DIR.",
                )
            if field.param.host_output and all(_runs_at(Path(os.path.normpath(path)), real, root) for root in holding):
                raise PermissionDenied(
                    f"cannot call {tool}: a program of the host may run by itself what is put at {field.name} {path}",
                    hint="Choose a path outside of .git and of the settings of editors, shells and agents; your user"
                    " can look at it there and move it.",
                )


def _runs_at(named: Path, real: Path, root: Path) -> bool:
    """By the name that was given, and by where its links lead."""
    return any(runs_there(place, root) for place in {named, real} if place.is_relative_to(root))
