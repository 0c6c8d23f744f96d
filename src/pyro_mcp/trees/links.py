"""Where symbolic links of a tree lead, computed without following one."""

from __future__ import annotations

from collections.abc import Mapping

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.protocol.entries import MAX_DEPTH

MAX_HOPS = 40
"""As the Linux kernel."""
MAX_STEPS = 3_000_000
"""Name parts looked at for all links of one tree: some seconds. An honest tree needs a few for each link."""


def leading_out(links: Mapping[str, str]) -> list[str]:
    """Those of `links` (path to target) that could leave their tree when followed, sorted.

    What is not a link is taken for a directory, so a dangling link counts by where it would lead. Absolute targets lead
    out; a loop leads nowhere. Raises `InvalidArgument` when the links are too many and too tangled to tell.
    """
    steps = 0
    found = []
    for path in sorted(links):
        out, taken = _follow(path, links)
        steps += taken
        if steps > MAX_STEPS:
            raise InvalidArgument(f"cannot tell where the links lead: {len(links):,} of them are too tangled")
        if out:
            found.append(path)
    return found


def _follow(path: str, links: Mapping[str, str]) -> tuple[bool, int]:
    """Whether the link leads out, and how many parts were looked at."""
    parts = path.split("/")[:-1]
    above = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    if links[path].startswith("/"):
        return True, 1
    pending = links[path].split("/")[::-1]
    hops, steps = 1, 0
    while pending:
        part = pending.pop()
        steps += 1
        if part in ("", "."):
            continue
        if part == "..":
            if not above:
                return True, steps
            above.pop()
            continue
        here = f"{above[-1]}/{part}" if above else part
        target = links.get(here)
        if target is None:
            above.append(here)
            if len(above) > MAX_DEPTH:  # deeper than any tree: nothing is there
                return True, steps
            continue
        hops += 1
        if target.startswith("/"):
            return True, steps
        if hops > MAX_HOPS:
            return False, steps
        pending += target.split("/")[::-1]
        steps += len(pending)
    return False, steps
