"""Children: starting processes, and reaping all of them exactly once.

`spawn` goes to the interpreter's own fork-and-exec primitive, the one below `subprocess`. That module would cost a
guest under emulation 0.2 s of import at boot and a millisecond per command; the primitive uses vfork, so the
agent's memory is never copied.

As PID 1, or as a subreaper on the host, the agent inherits orphans. A child started here is reaped by whoever
started it; `reap_orphans` takes the others. One lock makes the two sides disjoint: a process is either registered
in `_owned` before any sweep can see it, or it is nobody's.
"""

from __future__ import annotations

import os
import signal
import threading
from _posixsubprocess import fork_exec
from collections.abc import Callable
from typing import NoReturn

_owned: set[int] = set()
_lock = threading.Lock()


class SpawnError(Exception):
    """The program did not start. `before` says that the cause lies before the exec: the working directory."""

    def __init__(self, number: int, *, before: bool) -> None:
        super().__init__(os.strerror(number))
        self.errno = number
        self.before = before


class Child:
    """A started process, leader of its own session and group. `pidfd` becomes readable when it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._lock = threading.Lock()
        self._status: int | None = None
        self.pidfd = os.pidfd_open(pid)

    def kill_group(self, number: int) -> None:
        """Signal the whole group; safe from any thread. Does nothing once the leader is reaped, because its
        number may then belong to a stranger."""
        with self._lock:
            if self._status is None:
                try:
                    os.killpg(self.pid, number)
                except (ProcessLookupError, PermissionError):
                    pass

    def kill(self) -> None:
        """Kill the process itself; safe from any thread, and after its end."""
        with self._lock:
            if self._status is None:
                os.kill(self.pid, signal.SIGKILL)

    def reap(self, *, kill_group: bool = False) -> int:
        """Wait for the end and return the wait status. `kill_group` sweeps what is left of the group first."""
        with self._lock:
            if self._status is None:
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT)
                if kill_group:
                    try:
                        os.killpg(self.pid, signal.SIGKILL)
                    except (ProcessLookupError, PermissionError):
                        pass
                with _lock:
                    _owned.discard(self.pid)
                    self._status = os.waitpid(self.pid, 0)[1]
                os.close(self.pidfd)
            return self._status


def spawn(
    argv: list[bytes],
    programs: list[bytes],
    directory: bytes,
    environment: list[bytes],
    fds: tuple[int, int, int],
    prepare: Callable[[], None] | None = None,
) -> Child:
    """Start the first of `programs` that can be executed, in a new session, with `fds` as 0, 1 and 2.

    `prepare` runs in the child before the exec, which then costs a real fork; it may make system calls, no more. Every
    other descriptor of the agent is close-on-exec. Raises `SpawnError`, or `OSError` when not even a process could be
    made.
    """
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    try:
        with _lock:
            pid = _fork_exec(argv, programs, directory, environment, fds, (error_read, error_write), prepare)
            _owned.add(pid)
        os.close(error_write)
        error_write = -1
        report = b""
        # In pieces: a child that was forked, and not vforked, writes them while this reads.
        while piece := os.read(error_read, 4096):
            report += piece
        if report:
            _discard(pid)
            _kind, number, stage = report.split(b":", 2)
            raise SpawnError(int(number, 16), before=stage.startswith(b"noexec"))
        try:
            return Child(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            _discard(pid)
            raise
    finally:
        os.close(error_read)
        if error_write >= 0:
            os.close(error_write)


def _fork_exec(
    argv: list[bytes],
    programs: list[bytes],
    directory: bytes,
    environment: list[bytes],
    fds: tuple[int, int, int],
    report: tuple[int, int],
    prepare: Callable[[], None] | None,
) -> int:
    stdin, stdout, stderr = fds
    # fmt: off
    arguments = [
        argv, programs, False, (), directory, environment,
        stdin, -1, -1, stdout, -1, stderr, *report,
        True, True, -1, None, None, None, -1, prepare, True,
    ]
    # fmt: on
    return fork_exec(*arguments)  # type: ignore[arg-type]


def fork(work: Callable[[], NoReturn]) -> Child:
    """A copy of this process that does `work` and nothing else, in a session of its own.

    `work` must end in `os._exit`, and touch no lock and no thread of the agent: only the calling thread is copied.
    """
    with _lock:
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                os.setsid()
                work()
            finally:
                os._exit(1)
        _owned.add(pid)
    return Child(pid)


def _discard(pid: int) -> None:
    with _lock:
        _owned.discard(pid)
        os.waitpid(pid, 0)


def reap_orphans() -> bool:
    """Reap ended processes that nobody here started. False: one of ours stands in front, so sweep again soon."""
    while True:
        with _lock:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return True
            if found is None:
                return True
            if found.si_pid in _owned:
                return False
            os.waitpid(found.si_pid, os.WNOHANG)


def descendants(root: int) -> list[int]:
    """The processes below `root` that still run, from one look at /proc."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            parent = _living_parent(name)
            if parent is not None:
                parents[int(name)] = parent
    found = {root}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found - {root})


def _living_parent(name: str) -> int | None:
    """The parent's number, or None for a process that has ended."""
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            state, parent = file.read().rpartition(b") ")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state in (b"Z", b"X") else int(parent)
