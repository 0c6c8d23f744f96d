"""Paths of a workspace as callers give them."""

from __future__ import annotations

import posixpath


def absolute(cwd: str) -> str:
    """A `Cwd` as the agent takes it."""
    return posixpath.join("/workspace", cwd)
