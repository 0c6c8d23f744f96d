"""Where symbolic links of a tree lead, computed without following one."""

from __future__ import annotations

from collections.abc import Mapping

MAX_HOPS = 40
"""As the Linux kernel."""


def leads_out(path: str, links: Mapping[str, str]) -> bool:
    """Whether following the link at `path` could leave the tree whose links are `links` (path to target).

    What is not a link is taken for a directory, so a dangling link counts by where it would lead. Absolute targets lead
    out; a loop leads nowhere.
    """
    here = path.split("/")[:-1]
    pending = links[path].split("/")[::-1]
    hops = 1
    if links[path].startswith("/"):
        return True
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not here:
                return True
            here.pop()
            continue
        target = links.get("/".join([*here, part]))
        if target is None:
            here.append(part)
            continue
        hops += 1
        if target.startswith("/"):
            return True
        if hops > MAX_HOPS:
            return False
        pending += target.split("/")[::-1]
    return False
