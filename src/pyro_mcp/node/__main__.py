"""`python -m pyro_mcp.node READY_FD SETTINGS_JSON`: the node's process, as `spawn` starts it.

It forks once, so that it is never its starter's zombie, takes the lock for life, takes over what the last node has
left, and writes one JSON object to the ready descriptor: `{"ready": true}` or `{"error": ...}`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import resource
import signal
import sys
import threading
from types import FrameType
from typing import Any

LOCK_SECONDS = 20
DESCRIPTORS = 65536
"""As many as the host grants and at most so many: a busy guest alone takes hundreds, and the default is 1,024."""


def main(argv: list[str]) -> int:
    """Be the node until nothing needs it. Returns the exit status."""
    from pyro_mcp.system.signals import reset_signals

    reset_signals()
    ready = int(argv[0])
    os.set_inheritable(ready, False)
    if os.fork():
        os._exit(0)
    os.umask(0o077)
    import logging

    from pyro_mcp.errors import PyroError
    from pyro_mcp.node.log import log_to

    log_to(logging.StreamHandler())
    try:
        node = _open(json.loads(argv[1]))
    except PyroError as error:
        logging.getLogger("pyro_mcp.node").error(f"cannot start: {error}")
        _emit(ready, {"error": error.to_wire()})
        return error.exit_code
    # Machines may take a while to answer, on a busy host above all; meanwhile this node can already say how it is.
    threading.Thread(target=_take_over, args=(node, ready), name="take-over", daemon=True).start()
    node.run()
    return 0


def _take_over(node: Any, ready: int) -> None:
    """Bring in what the last node has left, then serve."""
    from pyro_mcp.errors import PyroError
    from pyro_mcp.node.adopt import reconcile

    message = f"cannot start the node: see {node.paths.log}"
    answer: dict[str, Any] = {"error": {"code": "internal", "message": message}}
    try:
        reconcile(node.engine)
        answer = {"ready": True}
    except PyroError as error:
        logging.getLogger("pyro_mcp.node").error(f"cannot start: {error}")
        answer = {"error": error.to_wire()}
    finally:
        node.serve() if "ready" in answer else node.leave("it could not start")
        _emit(ready, answer)


def _open(values: dict[str, Any]) -> Any:
    from pyro_mcp.node.log import BoundedLog
    from pyro_mcp.node.paths import NodePaths
    from pyro_mcp.settings import Settings

    settings = Settings.load(**values)
    paths = NodePaths.of(settings)
    paths.prepare()
    _take_for_life(paths)
    _raise_limit()
    BoundedLog(paths.log).install()

    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.node.lifecycle import VERBS
    from pyro_mcp.node.server import Node

    node = Node(settings, paths, Engine.open(settings), VERBS)
    node.listen()
    # Only a blocked signal names its sender, and that mask would reach every program started here.
    signal.signal(signal.SIGTERM, lambda number, frame: node.leave(f"it got signal {number} (SIGTERM)"))
    return node


def _take_for_life(paths: Any) -> None:
    """Hold `node.lock` until this process ends. A predecessor on its way out is waited for."""
    from pyro_mcp.errors import NodeUnavailable

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    # Deliberately never closed: the kernel lets go of the lock when the process ends, however it ends.
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LOCK_SECONDS)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except TimeoutError:
        raise NodeUnavailable(
            f"cannot start the node: another one holds {paths.lock} and does not answer",
            hint=f"Find it with `fuser {paths.lock}` and end it",
        ) from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _raise_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _emit(ready: int, answer: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(ready, json.dumps(answer).encode())
    os.close(ready)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
