"""The client's side of the node's life: find the one that runs, or start one and wait until it is ready.

Starts are serialised by `start.lock`, so the losers of a race wait for the winner and then connect. Readiness, or the
reason why there is none, comes through an inherited pipe. A node of another pyro version, or one that was started with
other settings than somebody asks for now, is asked to leave; it does when it owns no machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time

from pyro_mcp.errors import Conflict, NodeUnavailable, PyroError
from pyro_mcp.node.paths import MAX_CONTROL, About, NodePaths, peer
from pyro_mcp.settings import Settings
from pyro_mcp.system.locks import locked
from pyro_mcp.version import VERSION

START_SECONDS = 30.0
STOP_SECONDS = 10.0
_ATTEMPTS = 3


def ensure_node(settings: Settings) -> socket.socket:
    """A connection to the node of `settings.state_dir`, which is started if none runs.

    Raises `NodeUnavailable` when it does not start, `Conflict` when a node of another version, or with other settings
    than those `given`, still owns machines, `PermissionDenied` when the state directory is not this user's, and
    whatever keeps the node from opening its store.
    """
    paths = NodePaths.of(settings)
    paths.prepare()
    for _ in range(_ATTEMPTS):
        connection = paths.connect() or _start_or_join(settings, paths)
        about = _about(paths, connection)
        why = None if about is None else _other_version(about) or _other_settings(about, settings)
        if about is None or why is None:
            return connection
        _ask_to_leave(connection, about, why)
    raise NodeUnavailable("cannot start the node: others that do not fit keep being started", hint=_log_tail(paths))


def connect_node(settings: Settings) -> socket.socket | None:
    """A connection to the node that runs, of whatever version; None when none does. Starts nothing."""
    return NodePaths.of(settings).connect()


def _start_or_join(settings: Settings, paths: NodePaths) -> socket.socket:
    with locked(paths.start_lock):
        connection = paths.connect()
        if connection is None:
            _start(settings, paths)
            connection = paths.connect()
    if connection is None:
        raise NodeUnavailable("cannot reach the node: it ended right after its start", hint=_log_tail(paths))
    return connection


def _start(settings: Settings, paths: NodePaths) -> None:
    """Start a detached node and wait for its word. Raises what it reports, or `NodeUnavailable`."""
    values = settings.values()
    ready, report = os.pipe2(os.O_CLOEXEC)
    argv = [sys.executable, "-P", "-m", "pyro_mcp.node", str(report), json.dumps(values)]
    try:
        with paths.log.open("ab") as log:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[report],
                cwd="/",
                start_new_session=True,
            )
    except OSError as error:
        os.close(ready)
        raise NodeUnavailable(f"cannot start the node: {error}") from error
    finally:
        os.close(report)
    try:
        # The child forks at once and leaves, so that the node is nobody's zombie.
        child.wait(START_SECONDS)
        answer = _read_all(ready, START_SECONDS)
    except (TimeoutError, subprocess.TimeoutExpired):
        child.kill()
        child.wait()
        raise NodeUnavailable(
            f"cannot start the node: not ready after {START_SECONDS:g} s", hint=_log_tail(paths)
        ) from None
    finally:
        os.close(ready)
    if not answer:
        raise NodeUnavailable("cannot start the node: it ended before it was ready", hint=_log_tail(paths))
    refusal = json.loads(answer).get("error")
    if refusal is not None:
        raise PyroError.from_wire(refusal)


def _read_all(fd: int, seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    answer = b""
    while poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        piece = os.read(fd, 65536)
        if not piece:
            return answer
        answer += piece
    raise TimeoutError


def _log_tail(paths: NodePaths) -> str:
    with contextlib.suppress(OSError):
        lines = paths.log.read_bytes()[-4096:].decode("utf-8", "replace").strip().splitlines()
        if lines:
            return f"Its log {paths.log} ends with: {lines[-1][:500]}"
    return f"Its log is {paths.log}"


def _about(paths: NodePaths, connection: socket.socket) -> About | None:
    """What the node on `connection` says of itself; None when that is not known."""
    about = About.load(paths)
    return about if about is not None and about.pid == peer(connection)[0] else None


def _other_version(about: About) -> str | None:
    return None if about.version == VERSION else f"is pyro {about.version}, this is {VERSION}"


def _other_settings(about: About, settings: Settings) -> str | None:
    """The settings requested here that differ in the running node. A default is no request."""
    requested = settings.values()
    for name in sorted(settings.given & about.settings.keys()):
        if not _same(name, requested[name], about.settings[name]):
            there, variable = about.settings[name], f"PYRO_{name.upper()}"
            with_it = f"without {variable}" if there is None else f"with {variable}={there}"
            return f"was started {with_it}, and {variable}={requested[name]} is asked for"
    return None


def _same(name: str, one: str | None, other: str | None) -> bool:
    if one is None or other is None or not name.endswith(("_dir", "_file")):
        return one == other
    return os.path.realpath(one) == os.path.realpath(other)


def _ask_to_leave(connection: socket.socket, stranger: About, why: str) -> None:
    """Returns once the node that does not fit has closed the connection. Raises `Conflict` when it stays."""
    from pyro_mcp.protocol.channel import Channel, ChannelClosed, RemoteError
    from pyro_mcp.protocol.pipe import Pipe

    who = f"the node (process {stranger.pid}) {why}"
    channel = Channel(
        Pipe(connection.detach()), initiator=True, hello={"pyro": VERSION, "role": "client"}, max_control=MAX_CONTROL
    )
    try:
        channel.start(STOP_SECONDS)
        channel.call("node_stop", {"if_idle": True}, STOP_SECONDS)
    except ChannelClosed as error:
        if "protocol violation" in str(error) or "speaks version" in str(error):
            raise Conflict(f"cannot use the node: {who}", hint=f"End it: kill {stranger.pid}") from None
    except RemoteError as error:
        reason = PyroError.from_wire(error.payload).message
        raise Conflict(
            f"cannot use the node: {who}, and it does not leave: {reason}",
            hint="Ask for what it was started with, or name another state directory (PYRO_STATE_DIR); or delete its"
            " machines, or end them all with `pyro node stop --force`",
        ) from None
    except TimeoutError:
        raise NodeUnavailable(f"cannot use the node: {who}, and it does not answer") from None
    finally:
        channel.close("asked it to leave")
