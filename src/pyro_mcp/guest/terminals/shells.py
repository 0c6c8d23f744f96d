"""shells: terminals with a shell in them, known by the ids that the host gave them.

They belong to the agent and to no channel: a host that comes later finds them with what they have said. They end with
`shell_close`, by themselves, or with the machine.
"""

from __future__ import annotations

import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.dispatch import Verb
from pyro_mcp.guest.errors import AgentError, invalid
from pyro_mcp.guest.exec.children import SpawnError
from pyro_mcp.guest.exec.command import no_directory, programs
from pyro_mcp.guest.exec.secrets import AgentSecrets
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.terminals.attach import Attachment
from pyro_mcp.guest.terminals.pty import Pty, Pump, open_pty
from pyro_mcp.guest.terminals.ring import RING_BYTES
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.wake import Wake

SHELLS_MAX = 32
CLOSED_MAX, CLOSED_BYTES = 32, 64 * 1024
"""So many closed shells are remembered, with so much of what each said last."""
SIDE_MAX = 1000
WAIT_MS_MAX, READ_MAX = 60_000, 4 * RING_BYTES
WRITE_SECONDS = 5.0
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SIGNALS = {number.name.removeprefix("SIG"): int(number) for number in signal.Signals}


class AgentShell:
    """One shell and the facts about it."""

    def __init__(self, shell_id: str, pty: Pty, cwd: str, cols: int, rows: int) -> None:
        self.shell_id = shell_id
        self.pty = pty
        self.cwd, self.cols, self.rows = cwd, cols, rows
        self.closed = False
        self._typing = False
        self._started_at = time.time()

    def begin_typing(self, given_up: Callable[[], bool]) -> bool:
        """Wait until nobody else types; False when `given_up` was true first."""
        with self.pty.condition:
            self.pty.condition.wait_for(lambda: given_up() or not self._typing)
            if given_up():
                return False
            self._typing = True
            return True

    def end_typing(self) -> None:
        with self.pty.condition:
            self._typing = False
            self.pty.condition.notify_all()

    def fields(self) -> dict[str, Any]:
        pty = self.pty
        ended = pty.ended_at
        return {
            "shell_id": self.shell_id,
            "cwd": self.cwd,
            "cols": self.cols,
            "rows": self.rows,
            "state": "closed" if self.closed else "running" if ended is None else "exited",
            "started_ms": int(self._started_at * 1000),
            "ended_ms": None if ended is None else int(ended * 1000),
            "exit_code": pty.exit_code,
            "oldest": pty.ring.start,
            "end": pty.ring.end,
        }


class AgentShells:
    """The shells of one workspace. `defaults` is the environment that commands get, too."""

    def __init__(self, defaults: dict[bytes, bytes], secrets: AgentSecrets) -> None:
        self._defaults = defaults
        self._secrets = secrets
        self._pump = Pump()
        self._shells: dict[str, AgentShell] = {}
        self._lock = threading.Lock()

    def verbs(self, home: bytes, ready: Callable[[Stream], None]) -> dict[str, Verb]:
        """The table; `ready` raises while there is no workspace, and may amend the parameters."""

        def open_one(stream: Stream) -> dict[str, Any]:
            ready(stream)
            return self.open(stream, home)

        return {
            "shell_attach": self.attach,
            "shell_close": self.close,
            "shell_list": self.listing,
            "shell_open": open_one,
            "shell_read": self.read,
            "shell_resize": self.resize,
            "shell_signal": self.signal,
            "shell_write": self.write,
        }

    # -- verbs

    def open(self, stream: Stream, home: bytes) -> dict[str, Any]:
        """shell_id, cols, rows, cwd?, env?, secret_env?, argv? → facts. Without argv bash, or what there is of
        sh, and its prompt is waited for."""
        p = stream.params
        shell_id = _shell_id(p)
        cols, rows = _side(p, "cols"), _side(p, "rows")
        cwd = read.directory(p, "cwd", home)
        given = {**read.variables(p, "env"), **self._secrets.environment(p)}
        argv = read.words(p, "argv") if p.get("argv") is not None else None
        with self._lock:
            if shell_id in self._shells:
                raise AgentError("conflict", f"cannot open the shell {shell_id}: there is one of that id")
            if sum(not one.closed for one in self._shells.values()) >= SHELLS_MAX:
                raise AgentError(
                    "capacity", f"cannot open a shell: {SHELLS_MAX} are open", "Close some; exited ones count, too."
                )
            bash = self._bash(given) if argv is None else None
            pty = self._spawn(argv, bash, cwd, given, cols, rows)
            shell = self._shells[shell_id] = AgentShell(shell_id, pty, os.fsdecode(cwd), cols, rows)
        self._pump.add(pty)
        if argv is None:
            self._wait_ready(shell, stream, edits=bool(bash))
        return shell.fields()

    def read(self, stream: Stream) -> dict[str, Any]:
        """shell_id, cursor, max_bytes, back, wait_ms?, idle_ms? → DATA 1: the bytes from `start`; facts and `start`.

        The cursor counts from the first byte the shell said, a negative one from the end. From there up to `max_bytes`
        are sent, and before it up to `back`, as far as they are still kept. It waits as `Pty.wait` does.
        """
        p = stream.params
        shell = self._find(p, "read")
        pty = shell.pty
        cursor = read.integer(p, "cursor", min_=-READ_MAX, max_=1 << 62)
        max_ = read.integer(p, "max_bytes", min_=0, max_=READ_MAX)
        back = read.integer(p, "back", min_=0, max_=READ_MAX)
        wait = _milliseconds(p, "wait_ms") or 0
        idle = _milliseconds(p, "idle_ms")
        if cursor < 0:
            cursor = max(pty.ring.start, pty.ring.end + cursor)
        if cursor > pty.ring.end:
            raise invalid(
                f"cannot read the shell {shell.shell_id} from {cursor}: what it has said so far ends at {pty.ring.end}",
                "Use the next_cursor of an earlier answer; 0 is the beginning.",
            )
        flow = Flow(stream)
        try:
            if wait:
                stream.on_cancel(lambda: _rouse(pty))
                pty.wait(cursor, max_, wait / 1000, None if idle is None else idle / 1000, lambda: stream.cancelled)
                stream.on_cancel(None)
            flow.check()
            with pty.condition:
                start = max(pty.ring.start, cursor - back)
                data = pty.ring.read(start, max(cursor, pty.ring.start) + max_ - start)
                fields = shell.fields()
            flow.send(data)
        finally:
            flow.close()
        return {**fields, "cursor": cursor, "start": start}

    def write(self, stream: Stream) -> dict[str, Any]:
        """shell_id ← DATA 0: what to type, to its END → written, facts."""
        shell = self._find(stream.params, "write to")
        flow, wake = Flow(stream), Wake()

        def cancelled() -> None:
            wake.set()
            _rouse(shell.pty)

        stream.on_cancel(cancelled)
        written = 0
        try:
            if not shell.begin_typing(lambda: stream.cancelled):
                flow.check()
            try:
                for piece in flow.pieces():
                    self._type(shell, bytes(piece), flow, wake, written)
                    written += len(piece)
            finally:
                shell.end_typing()
        finally:
            stream.on_cancel(None)
            flow.close()
            wake.close()
        if not written:
            self._require_alive(shell, "write to")
        return {**shell.fields(), "written": written}

    def attach(self, stream: Stream) -> dict[str, Any]:
        """shell_id, cursor ← DATA 0: keys, to END → DATA 1: output from the cursor on; facts, `missed`, `detached`.

        Until the peer ends its input or the shell ends. The shell waits for a peer that is slow.
        """
        shell = self._find(stream.params, "attach to")
        cursor = read.integer(stream.params, "cursor", min_=0, max_=1 << 62)
        attachment = Attachment(self._pump, shell.pty, stream, min(cursor, shell.pty.ring.end))
        try:
            detached = attachment.run()
        finally:
            attachment.close()
        return {**shell.fields(), "missed": attachment.missed, "cursor": attachment.cursor, "detached": detached}

    def signal(self, stream: Stream) -> dict[str, Any]:
        """shell_id, signal: a name, to the processes in the foreground → facts."""
        shell = self._find(stream.params, "signal")
        name = stream.params.get("signal")
        number = _SIGNALS.get(name.upper().removeprefix("SIG")) if isinstance(name, str) else None
        if number is None:
            raise invalid(f"cannot signal the shell {shell.shell_id}: {str(name)[:32]!r} is not a signal")
        if not shell.pty.signal(number):
            self._require_alive(shell, "signal")
        return shell.fields()

    def resize(self, stream: Stream) -> dict[str, Any]:
        """shell_id, cols, rows → facts."""
        shell = self._find(stream.params, "resize")
        cols, rows = _side(stream.params, "cols"), _side(stream.params, "rows")
        self._require_alive(shell, "resize")
        shell.pty.resize(cols, rows)
        shell.cols, shell.rows = cols, rows
        return shell.fields()

    def close(self, stream: Stream) -> dict[str, Any]:
        """shell_id → facts, already. All of its session ends with it."""
        shell = self._find(stream.params, "close")
        self._end(shell.pty)
        with self._lock:
            already, shell.closed = shell.closed, True
            with shell.pty.condition:
                shell.pty.ring.shrink(CLOSED_BYTES)
            closed = [one.shell_id for one in self._shells.values() if one.closed]
            for shell_id in closed[: max(0, len(closed) - CLOSED_MAX)]:
                del self._shells[shell_id]
        return {**shell.fields(), "already": already}

    def listing(self, stream: Stream) -> dict[str, Any]:
        """→ shells: the facts of each, the oldest first."""
        with self._lock:
            return {"shells": [shell.fields() for shell in self._shells.values()]}

    # -- parts

    def _wait_ready(self, shell: AgentShell, stream: Stream, *, edits: bool) -> None:
        """Wait for the prompt. A shell that nobody waits for any more ends: nobody knows its id."""
        pty = shell.pty
        stream.on_cancel(lambda: _rouse(pty))
        pty.wait_ready(edits, lambda: stream.cancelled)
        stream.on_cancel(None)
        if stream.cancelled:
            with self._lock:
                self._shells.pop(shell.shell_id, None)
            self._end(pty)
            raise AgentError("cancelled", "cannot open a shell: it was cancelled")

    def _end(self, pty: Pty) -> None:
        self._pump.forget(pty)
        pty.hang_up()

    def _find(self, params: dict[str, Any], verb: str) -> AgentShell:
        shell_id = _shell_id(params)
        with self._lock:
            shell = self._shells.get(shell_id)
            known = [one.shell_id for one in self._shells.values() if not one.closed]
        if shell is None:
            hint = f"There are: {', '.join(known)}" if known else "There are none; they end with the machine."
            raise AgentError("not_found", f"cannot {verb} the shell {shell_id}: there is none of that id", hint)
        return shell

    def _require_alive(self, shell: AgentShell, verb: str) -> None:
        if shell.pty.ended:
            how = "was closed" if shell.closed else f"has exited with code {shell.pty.exit_code}"
            raise AgentError("conflict", f"cannot {verb} the shell {shell.shell_id}: it {how}", "Open another one.")

    def _type(self, shell: AgentShell, data: bytes, flow: Flow, wake: Wake, before: int) -> None:
        deadline = time.monotonic() + WRITE_SECONDS
        view = memoryview(data)
        while view:
            flow.check()
            try:
                count = shell.pty.write(view)
            except OSError:
                self._require_alive(shell, "write to")
                raise
            view = view[count:]
            if not count and not _room_by(shell.pty.master, wake.fd, deadline):
                taken = before + len(data) - len(view)
                raise AgentError(
                    "conflict",
                    f"cannot write to the shell {shell.shell_id}: its program reads no input; bytes taken: {taken}",
                    "Interrupt it with a signal, or wait until it reads.",
                )

    def _path(self, given: dict[bytes, bytes]) -> bytes:
        return given.get(b"PATH", self._defaults.get(b"PATH", b""))

    def _bash(self, given: dict[bytes, bytes]) -> bytes | None:
        return next((one for one in programs(b"bash", self._path(given)) if os.access(one, os.X_OK)), None)

    def _spawn(
        self,
        argv: list[bytes] | None,
        bash: bytes | None,
        cwd: bytes,
        given: dict[bytes, bytes],
        cols: int,
        rows: int,
    ) -> Pty:
        environment = {**self._defaults, b"TERM": b"xterm-256color", b"LANG": b"C.UTF-8"}
        if argv is None:
            argv = [b"bash" if bash else b"sh", b"-i"]
            environment[b"SHELL"] = bash or b"/bin/sh"
            environment |= _prompt(bool(bash))
        environment |= given
        listed = [name + b"=" + value for name, value in environment.items()]
        try:
            return open_pty(argv, programs(argv[0], self._path(given)), cwd, listed, cols, rows)
        except SpawnError as error:
            if error.before:
                raise no_directory("open a shell", cwd, error) from None
            what = argv[0].decode("utf-8", "replace")
            raise AgentError("internal", f"cannot open a shell: {what}: {error}") from None


def _prompt(bash: bool) -> dict[bytes, bytes]:
    """A prompt that says who and where, unless the image's own start-up files say it otherwise."""
    if bash:
        # Not for the shells that are started in it, which may not know what it means.
        return {b"PS1": rb"\u@\h:\w\$ ", b"PROMPT_COMMAND": b"export -n PS1; unset PROMPT_COMMAND"}
    root = os.getuid() == 0
    return {b"PS1": f"{'root' if root else os.getuid()}@{os.uname().nodename}:${{PWD}}{'#' if root else '$'} ".encode()}


def _room_by(fd: int, wake_fd: int, deadline: float) -> bool:
    """Wait until the terminal takes input or the request to type is cancelled, at most until `deadline`."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.register(wake_fd, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _rouse(pty: Pty) -> None:
    with pty.condition:
        pty.condition.notify_all()


def _shell_id(params: dict[str, Any]) -> str:
    shell_id = params.get("shell_id")
    if not isinstance(shell_id, str) or not _ID.fullmatch(shell_id):
        raise invalid(f"shell_id must match {_ID.pattern}")
    return shell_id


def _side(params: dict[str, Any], name: str) -> int:
    return read.integer(params, name, min_=1, max_=SIDE_MAX)


def _milliseconds(params: dict[str, Any], name: str) -> int | None:
    return None if params.get(name) is None else read.integer(params, name, min_=0, max_=WAIT_MS_MAX)
