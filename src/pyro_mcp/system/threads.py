"""Threads: the one door through which the node starts those that may fail to start, as every error of a host may."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pyro_mcp.errors import Capacity
from pyro_mcp.system.atomic import MAKE_ROOM


def begin(work: Callable[[], object], name: str) -> threading.Thread:
    """Run `work` beside everything else, not outliving the process. Raises `Capacity` when the host has no thread."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise Capacity(f"cannot start a thread: {error}", hint=MAKE_ROOM) from None
    return thread
