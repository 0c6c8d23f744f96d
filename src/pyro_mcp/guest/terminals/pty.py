"""pty: a process in a terminal of its own, and the one thread that reads the output of all terminals.

Output goes into a ring that belongs to the terminal and to no channel, so it is there for whoever comes later. The
pump sleeps in one epoll over all terminals; under a flood it takes short turns with a rest between them, because on one
emulated processor a thread that never sleeps keeps the others from running.

A follower (a person's terminal) holds the program back once it lags by `LAG_BYTES`, as a real terminal does: nothing
is lost, and an interrupt does not have to wait for a megabyte to scroll by. One that takes nothing for `HOLD_SECONDS`
holds nobody any more. A reader that comes and goes never holds: the ring moves on, and it is told what it missed.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import threading
import time
from collections.abc import Callable

from pyro_mcp.guest.exec.children import Child, spawn
from pyro_mcp.guest.terminals.ring import OutputRing

READ_BYTES = 4096
TURN_READS = 16
REST_SECONDS = 0.0005
FINAL_READS = 512
LAG_BYTES = 64 * 1024
HOLD_SECONDS = 30.0
GRACE_SECONDS = 1.0
KILL_ROUNDS = 10
SETTLE_SECONDS, SETTLED_SECONDS = 2.0, 0.02
"""A shell that has just begun is waited for at most so long, and is ready once it has been quiet for so long."""
_IUTF8 = 0x4000
_EDGE = select.EPOLLIN | select.EPOLLET


class Follower:
    """Somebody who takes output as it comes. `cursor` is how far it got; `wake` signals that there is more."""

    def __init__(self, cursor: int, wake: Callable[[], None]) -> None:
        self.cursor = cursor
        self.wake = wake
        self.moved_at = time.monotonic()

    def lags(self, end: int, now: float) -> bool:
        return end - self.cursor >= LAG_BYTES and now - self.moved_at < HOLD_SECONDS


class Pty:
    """A terminal and the session that runs in it. `condition` guards the ring, the followers and the outcome."""

    def __init__(self, master: int, child: Child) -> None:
        self.master = master
        self.child = child
        self.ring = OutputRing()
        self.condition = threading.Condition()
        self.exit_code: int | None = None
        self.ended_at: float | None = None
        self.last_output = time.monotonic()
        self.followers: list[Follower] = []
        self._goals: list[int] = []
        self._io = threading.Lock()
        self._closing = False

    @property
    def ended(self) -> bool:
        return self.ended_at is not None

    # -- the pump's side

    def pull(self) -> bool:
        """Move what the terminal has said into the ring, for one turn. False: it says nothing more; otherwise the turn
        is over, or a follower holds it."""
        for _ in range(TURN_READS):
            if self.held_until() is not None:
                return True
            if not self._pull_once():
                return False
        return True

    def _pull_once(self) -> bool:
        with self._io:
            if self.ended:
                return False
            try:
                data = os.read(self.master, READ_BYTES)
            except OSError:
                # Nothing there yet, or nobody has the terminal open; the end of the leader tells the rest.
                return False
            with self.condition:
                self.ring.add(data)
                self.last_output = time.monotonic()
                if self._goals and self.ring.end >= min(self._goals):
                    self.condition.notify_all()
                for follower in self.followers:
                    follower.wake()
        return True

    def held_until(self) -> float | None:
        """When a follower that lags stops holding the program back; None while nobody does."""
        if not self.followers:
            return None
        now = time.monotonic()
        with self.condition:
            lagging = [one.moved_at for one in self.followers if one.lags(self.ring.end, now)]
        return max(lagging) + HOLD_SECONDS if lagging else None

    def claim(self) -> bool:
        """Whether the leader has ended by itself, and `finish` is the caller's. False while somebody closes it."""
        with self._io:
            if self._closing:
                return False
            ended = os.waitid(os.P_PIDFD, self.child.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            self._closing = ended is not None
            return self._closing

    def finish(self) -> None:
        """The leader has ended: take what is still to be read, then its status."""
        for _ in range(FINAL_READS):
            if not self._pull_once():
                break
        code = os.waitstatus_to_exitcode(self.child.reap())
        with self._io, self.condition:
            self.exit_code = code if code >= 0 else 128 - code
            self.ended_at = time.time()
            os.close(self.master)
            self.condition.notify_all()
            for follower in self.followers:
                follower.wake()

    # -- for the verbs

    def wait(self, cursor: int, enough: int, seconds: float, idle: float | None, given_up: Callable[[], bool]) -> None:
        """Wait for output past `cursor`, or with `idle` until none has come for so long or `enough` has; or for the
        end of the session; for at most `seconds`."""
        begun = time.monotonic()
        deadline = begun + seconds
        goal = cursor + (1 if idle is None else enough)
        with self.condition:
            self._goals.append(goal)
            try:
                while not self.ended and self.ring.end < goal and not given_up():
                    until = deadline if idle is None else min(deadline, max(begun, self.last_output) + idle)
                    remaining = until - time.monotonic()
                    if remaining <= 0:
                        return
                    self.condition.wait(remaining)
            finally:
                self._goals.remove(goal)

    def wait_ready(self, edits: bool, given_up: Callable[[], bool]) -> None:
        """Wait until it has said its prompt: until it is quiet after having said something, and with `edits` after its
        line editor has taken the terminal. What is typed before that is echoed by the terminal and by the editor."""
        deadline = time.monotonic() + SETTLE_SECONDS
        with self.condition:
            self._goals.append(0)
        try:
            while not self.ended and not given_up():
                seen, edited = self.ring.end, not edits or self._edits()
                with self.condition:
                    if self.ended or given_up() or seen != self.ring.end:
                        continue
                    due = min(deadline, self.last_output + SETTLED_SECONDS) if seen and edited else deadline
                    remaining = due - time.monotonic()
                    if remaining <= 0:
                        return
                    self.condition.wait(remaining)
        finally:
            with self.condition:
                self._goals.remove(0)

    def _edits(self) -> bool:
        """Whether its program reads key by key."""
        with self._io:
            return not self.ended and not termios.tcgetattr(self.master)[3] & termios.ICANON

    def write(self, data: bytes | memoryview) -> int:
        """Type `data`; how much of it the terminal took, 0 when it is full. Raises `OSError` when it is gone."""
        with self._io:
            if self.ended:
                raise OSError(5, "the session has ended")
            try:
                return os.write(self.master, data)
            except BlockingIOError:
                return 0

    def resize(self, cols: int, rows: int) -> None:
        """Give the terminal another size; its programs get SIGWINCH. Nothing happens once the session has ended."""
        with self._io:
            if not self.ended:
                set_size(self.master, cols, rows)

    def signal(self, number: int) -> bool:
        """Signal the group in the foreground. False when the session has ended."""
        with self._io:
            if self.ended:
                return False
            group = os.tcgetpgrp(self.master)
            try:
                os.killpg(group if group > 1 else self.child.pid, number)
            except ProcessLookupError:
                # The foreground has just gone, and the shell has not yet taken its place.
                os.kill(self.child.pid, number)
            return True

    def hang_up(self) -> None:
        """End the session: HUP for all of it, KILL for what is left after a grace."""
        with self._io:
            mine = not self._closing
            self._closing = True
        if mine:
            # The leader is not reaped before the end, so the session's number stays its own all the while.
            _end_session(self.child.pid)
            self.finish()
        with self.condition:
            self.condition.wait_for(lambda: self.ended)


class Pump:
    """Reads all terminals on one thread, which is started with the first of them.

    Edges are what it waits for: a terminal that nobody has open any more, or that is held, would otherwise be reported
    for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoll: select.epoll | None = None
        self._owners: dict[int, Pty] = {}
        self._held: set[Pty] = set()

    def add(self, pty: Pty) -> None:
        with self._lock:
            if self._epoll is None:
                self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
                threading.Thread(target=self._run, args=(self._epoll,), name="terminals", daemon=True).start()
            self._owners[pty.master] = self._owners[pty.child.pidfd] = pty
            self._epoll.register(pty.master, _EDGE)
            self._epoll.register(pty.child.pidfd, select.EPOLLIN)

    def forget(self, pty: Pty) -> None:
        """Called before `pty` ends, because its descriptors may be another's then."""
        with self._lock:
            self._held.discard(pty)
            for fd in [fd for fd, owner in self._owners.items() if owner is pty]:
                del self._owners[fd]
                if self._epoll is not None:
                    self._epoll.unregister(fd)

    def moved(self, pty: Pty) -> None:
        """A follower has got further: read on if it held `pty` back."""
        if pty in self._held and pty.held_until() is None:
            self._again(pty)

    def _again(self, pty: Pty) -> None:
        with self._lock:
            self._held.discard(pty)
            if self._owners.get(pty.master) is pty and self._epoll is not None:
                self._epoll.modify(pty.master, _EDGE)

    def _run(self, epoll: select.epoll) -> None:
        while True:
            until = [pty.held_until() for pty in list(self._held)]
            due = min((one for one in until if one is not None), default=None)
            for fd, _ in epoll.poll(None if due is None else max(0.0, due - time.monotonic()) + 0.01):
                pty = self._owners.get(fd)
                if pty is not None:
                    self._turn(pty, fd)
            for pty in list(self._held):
                self.moved(pty)

    def _turn(self, pty: Pty, fd: int) -> None:
        if fd != pty.master:
            if pty.claim():
                self.forget(pty)
                pty.finish()
        elif pty.pull():
            # The edge is used up, and who held it may have moved on by now: the look at the end of this round tells.
            self._held.add(pty)
            time.sleep(REST_SECONDS)


def open_pty(
    argv: list[bytes], programs: list[bytes], directory: bytes, environment: list[bytes], cols: int, rows: int
) -> Pty:
    """Start a program in a new terminal. Raises what `spawn` raises."""
    master, slave = os.openpty()
    try:
        set_size(master, cols, rows)
        modes = termios.tcgetattr(slave)
        modes[0] |= _IUTF8
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        os.set_blocking(master, False)
        child = spawn(argv, programs, directory, environment, (slave, slave, slave), _take_terminal)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    return Pty(master, child)


def _take_terminal() -> None:
    """In the child, after setsid: its standard input becomes the terminal that job control works with."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def set_size(master: int, cols: int, rows: int) -> None:
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def _end_session(session: int) -> None:
    """HUP to every process of the session, and KILL to what is left after a grace."""
    members = _members(session)
    for pidfd in members:
        _send(pidfd, signal.SIGHUP)
        _send(pidfd, signal.SIGCONT)
    _await_ends(members, GRACE_SECONDS)
    for _ in range(KILL_ROUNDS):
        members = _members(session)
        if not members:
            return
        for pidfd in members:
            _send(pidfd, signal.SIGKILL)
        _await_ends(members, GRACE_SECONDS)


def _members(session: int) -> list[int]:
    """A pidfd for each process of the session that still runs."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and _session_of(name) == session:
            try:
                pidfd = os.pidfd_open(int(name))
            except OSError:
                continue
            # Looked at again: the number may have changed hands before it was held fast.
            if _session_of(name) == session:
                found.append(pidfd)
            else:
                os.close(pidfd)
    return found


def _session_of(name: str) -> int | None:
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[3])
    except (OSError, ValueError, IndexError):
        return None


def _send(pidfd: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        pass


def _await_ends(pidfds: list[int], seconds: float) -> None:
    """Wait until all have ended or the time is up, then close them."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    left = len(pidfds)
    while left and (remaining := deadline - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(remaining * 1000):
            poll.unregister(pidfd)
            left -= 1
    for pidfd in pidfds:
        os.close(pidfd)
