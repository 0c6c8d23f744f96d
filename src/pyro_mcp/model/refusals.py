"""Refusals that many verbs share, each worded once."""

from __future__ import annotations

from pyro_mcp.errors import Conflict


def not_started(thing: str, state: str, start: str, why: str | None = None, *, meanwhile: str = "") -> Conflict:
    """`thing`, a machine or a workspace, does not run: it is `state`, if need be `why`, until the verb `start`.
    `meanwhile` ends the hint by what can be done with it as it is."""
    reason = f": {why}" if why else ""
    return Conflict(f"cannot use {thing}: it is {state}{reason}", hint=f"Start it with <<{start}>> first{meanwhile}")


def changed_meanwhile(purpose: str, workspace: str = "it") -> Conflict:
    """`purpose`, which completes "cannot", was for a workspace that has another machine by now, or none."""
    return Conflict(
        f"cannot {purpose}: {workspace} was reset or deleted meanwhile",
        hint="Look at it with <<status_workspace>> and try again",
    )
