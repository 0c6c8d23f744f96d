"""Paths of a workspace as callers give them."""

from __future__ import annotations

import posixpath


def absolute(cwd: str | None) -> str:
    """The working directory of a command in a workspace, without the steps in its name that lead nowhere."""
    return posixpath.normpath(posixpath.join("/workspace", cwd or ""))
