"""service_run: one run of a service, from its first process to the end of its last.

Everything here happens on the poller's thread. Other threads see `record`, which is replaced as a whole, `log`, and the
two events. A run is over only when nothing it has started is alive any more, so what it held (a port, a file lock) is
free when its end is reported.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pyro_mcp.guest.errors import cause
from pyro_mcp.guest.exec.children import Child, SpawnError, spawn
from pyro_mcp.guest.exec.command import for_bash, programs
from pyro_mcp.guest.services.poller import Poller
from pyro_mcp.guest.services.readiness import PROBE_SECONDS, READY, Outcome, Probe, probe_of
from pyro_mcp.guest.services.service_group import RUN_TAG, Group, Groups
from pyro_mcp.guest.services.service_log import Log
from pyro_mcp.protocol.readiness import Readiness

SETTLE_SECONDS = 0.25
"""A service without a readiness condition counts as running when it has run on for so long."""
FIRST_PROBE_SECONDS = 0.05
GONE_SECONDS = 10.0
READ_PIECE = 64 * 1024
FINAL_READS = 16
"""The largest pipe is read up in so many; whoever writes on (`host_compat`) has shed the service's run tag."""
FLOOD_SECONDS, FLOOD_BYTES = 0.05, 512 * 1024
"""Of one service no more output than that is read in that time; then it waits in its pipe, and the service with it."""
NEWS_SECONDS = 1.0
RESTARTS_MAX, BACKOFF_SECONDS, BACKOFF_MAX = 5, 1.0, 16.0
ALIVE = frozenset({"starting", "ready", "running"})


class ServicePlan(NamedTuple):
    """What to run and how. `real_path` is where this agent finds a path of the workspace's user."""

    name: str
    run: str
    argv: list[bytes]
    directory: bytes
    environment: dict[bytes, bytes]
    readiness: Readiness | None
    ready_seconds: float
    interval_seconds: float
    restart: bool
    real_path: Callable[[str], bytes]


class ServiceRun:
    """A run of `plan`. `changed` is called after each change of `record`, and now and then when the logs have grown;
    `version` counts both, the record's own `version` only the former."""

    def __init__(
        self, plan: ServicePlan, poller: Poller, groups: Groups, segment: int, changed: Callable[[], None]
    ) -> None:
        self.plan = plan
        self.log = {1: Log(segment), 2: Log(segment)}
        self.settled = threading.Event()
        self.done = threading.Event()
        self.version = 0
        self.record: dict[str, Any] = {}
        self._poller = poller
        self._groups = groups
        self._changed = changed
        self._child: Child | None = None
        self._group: Group | None = None
        self._probe: Probe | None = None
        self._outputs: dict[int, int] = {}
        self._allowance = FLOOD_BYTES
        self._pause = 0.0
        self._why_not = "not tried yet"
        self._requested: tuple[str, str] | None = None
        self._begun = time.monotonic()
        self._ready_at: float | None = None
        self._was_up = False
        self._restarts = 0
        self._ending = False
        self._grace = 0.0
        self._status = 0
        self._emit("starting")

    # -- commands of the verbs, posted to the poller

    def begin(self) -> None:
        """Start the first process, unless a stop has come first."""
        if not self.done.is_set():
            self._spawn()

    def stop(self, state: str, reason: str, grace: float) -> None:
        """End it: TERM to its processes, after `grace` KILL to all. The first reason to end stays."""
        if self.done.is_set() or self._requested is not None:
            return
        self._requested, self._grace = (state, reason), grace
        self._drop_probe()
        for timer in ("late", "settle"):
            self._poller.drop(self, timer)
        if self._child is None:
            if not self._ending:
                self._poller.drop(self, "restart")
                self._finish(state, reason, None)
            return
        self._child.kill_group(signal.SIGTERM)
        # A stopped process takes the TERM only when continued.
        self._child.kill_group(signal.SIGCONT)
        self._poller.after(self, "kill", grace, self._kill)

    # -- start

    def _spawn(self) -> None:
        self._requested, self._ready_at, self._ending = None, None, False
        self._begun = time.monotonic()
        try:
            self._group = self._groups(f"{self.plan.run}.{self._restarts}")
            self._child = self._process()
        except SpawnError as error:
            self._not_started(error)
        except OSError as error:
            self._close()
            self._finish("failed", f"it could not be started: {cause(error)}", None)
        else:
            self._poller.watch(self._child.pidfd, select.POLLIN, self._ended)
            self._listen()
            self._emit("starting")
            self._await_readiness()

    def _process(self) -> Child:
        assert self._group is not None
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        theirs = []
        try:
            for tag in (1, 2):
                ours, end = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(ours, False)
                self._outputs[ours] = tag
                theirs.append(end)
            return self._start(self.plan.argv, (null, theirs[0], theirs[1]), self._group.enter)
        finally:
            for fd in (null, *theirs):
                os.close(fd)

    def _start(self, argv: list[bytes], fds: tuple[int, int, int], enter: Callable[[], None] | None) -> Child:
        environment = {**self.plan.environment, RUN_TAG: f"{self.plan.run}.{self._restarts}".encode()}
        found = programs(argv[0], environment.get(b"PATH", b"/usr/bin:/bin"))
        flat = [name + b"=" + value for name, value in environment.items()]
        return spawn(argv, found, self.plan.directory, flat, fds, enter)

    def _not_started(self, error: SpawnError) -> None:
        shown = self.plan.argv[0][:256].decode("utf-8", "replace")
        code, text = None, f"it could not be started: {error}"
        if error.before:
            text = f"working directory {self.plan.directory[:256].decode('utf-8', 'replace')}: {error}"
        elif error.errno in (errno.ENOENT, errno.ENOTDIR):
            code, text = 127, f"{shown}: command not found"
            if any(space in self.plan.argv[0] for space in b" \t\n"):
                text += " (to run a shell line, use: sh -c '...')"
        elif error.errno in (errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.EPERM):
            code, text = 126, f"{shown}: cannot execute: {error}"
        self.log[2].add(f"pyro: {text}\n".encode())
        self._close()
        self._finish("failed", text, code)

    # -- becoming ready

    def _await_readiness(self) -> None:
        if self.plan.readiness is None:
            self._poller.after(self, "settle", SETTLE_SECONDS, lambda: self._up("running"))
            return
        self._pause = min(FIRST_PROBE_SECONDS, self.plan.interval_seconds)
        self._poller.after(self, "late", self.plan.ready_seconds, self._late)
        self._poller.after(self, "probe", self._pause, self._look)

    def _look(self) -> None:
        assert self.plan.readiness is not None
        self._probe = probe_of(self.plan.readiness, self.plan.real_path, self._spawn_probe)
        self._poller.after(self, "hang", PROBE_SECONDS, self._hung)
        self._judge(self._probe.begin())

    def _spawn_probe(self) -> Child:
        assert self.plan.readiness is not None
        assert self._group is not None
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            argv = [os.fsencode(word) for word in self.plan.readiness.command]
            argv = for_bash(argv) if self.plan.readiness.shell else argv
            return self._start(argv, (null, null, null), self._group.enter)
        finally:
            os.close(null)

    def _step(self) -> None:
        if self._probe is not None:
            self._poller.forget(self._probe.fd)
            self._judge(self._probe.advance())

    def _judge(self, outcome: Outcome) -> None:
        assert self._probe is not None
        if outcome is None:
            self._poller.watch(self._probe.fd, self._probe.events, self._step)
        elif outcome == READY:
            self._drop_probe()
            self._up("ready")
        else:
            self._again(outcome)

    def _hung(self) -> None:
        self._again(f"no answer within {PROBE_SECONDS:g} s")

    def _again(self, why: str) -> None:
        """Not yet. The looks come closer together at first, so that what is ready quickly is seen quickly."""
        self._drop_probe()
        self._why_not = why
        self._pause = min(self._pause * 2, self.plan.interval_seconds)
        self._poller.after(self, "probe", self._pause, self._look)

    def _drop_probe(self) -> None:
        self._poller.drop(self, "probe")
        self._poller.drop(self, "hang")
        if self._probe is not None:
            self._poller.forget(self._probe.fd)
            self._probe.close()
            self._probe = None

    def _up(self, state: str) -> None:
        self._poller.drop(self, "late")
        self._ready_at, self._was_up = time.monotonic(), True
        self._emit(state)
        self.settled.set()

    def _late(self) -> None:
        self.stop("failed", f"it was not ready after {self.plan.ready_seconds:g} s: {self._why_not}", 1.0)

    # -- saying something

    def _listen(self) -> None:
        self._allowance = FLOOD_BYTES
        for fd in self._outputs:
            self._poller.watch(fd, select.POLLIN, lambda fd=fd: self._on_event(fd))  # type: ignore[misc]

    def _on_event(self, fd: int) -> None:
        count = self._read(fd)
        if not count:
            self._poller.forget(fd)
            os.close(fd)
            del self._outputs[fd]
            return
        self._allowance -= count
        if self._allowance <= 0:
            for other in self._outputs:
                self._poller.forget(other)
            self._poller.after(self, "listen", FLOOD_SECONDS, self._listen)
        elif not self._poller.pending(self, "listen"):
            self._poller.after(self, "listen", FLOOD_SECONDS, self._renew)
        if not self._poller.pending(self, "news"):
            self._poller.after(self, "news", NEWS_SECONDS, self._grown)

    def _renew(self) -> None:
        self._allowance = FLOOD_BYTES

    def _read(self, fd: int) -> int:
        try:
            data = os.read(fd, READ_PIECE)
        except BlockingIOError:
            return -1
        self.log[self._outputs[fd]].add(data)
        return len(data)

    def _grown(self) -> None:
        self.version += 1
        self._changed()

    # -- ending

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill_group(signal.SIGKILL)
        if self._group is not None:
            self._group.kill()

    def _ended(self) -> None:
        """The first process has ended, and everything else of the run goes with it."""
        assert self._child is not None
        assert self._group is not None
        self._poller.forget(self._child.pidfd)
        self._status = self._child.reap(kill_group=True)
        self._child, self._ending = None, True
        for timer in ("late", "settle", "kill"):
            self._poller.drop(self, timer)
        self._drop_probe()
        self._group.kill()
        if self._group.empty() or self._group.events < 0:
            self._gone()
        else:
            self._poller.watch(self._group.events, select.POLLPRI, self._maybe_gone)
            self._poller.after(self, "gone", GONE_SECONDS, self._gone)

    def _maybe_gone(self) -> None:
        assert self._group is not None
        if self._group.empty():
            self._gone()

    def _gone(self) -> None:
        self._poller.drop(self, "gone")
        self._close()
        self._ending = False
        code = os.waitstatus_to_exitcode(self._status)
        state, reason = self._requested or self._verdict(code)
        if self._requested is None and state == "failed" and self._was_up and self.plan.restart:
            if self._restarts < RESTARTS_MAX:
                self._rest(reason)
                return
            reason = f"{reason}; it was restarted {RESTARTS_MAX} times"
        self._finish(state, reason, code)

    def _verdict(self, code: int) -> tuple[str, str]:
        how = f"it exited with {code}" if code >= 0 else f"{_signal_name(-code)} ended it"
        if self._ready_at is not None:
            return ("exited", how) if code == 0 else ("failed", how)
        if code == 0 and self.plan.readiness is None:
            return "exited", how
        return "failed", f"{how} before it was {'running' if self.plan.readiness is None else 'ready'}"

    def _rest(self, reason: str) -> None:
        pause = min(BACKOFF_SECONDS * 2**self._restarts, BACKOFF_MAX)
        self._restarts += 1
        self._emit("starting", f"{reason}; it starts again in {pause:g} s")
        self._poller.after(self, "restart", pause, self._spawn)

    def _close(self) -> None:
        """Take what is left in the pipes, then release everything."""
        for fd in list(self._outputs):
            self._poller.forget(fd)
            for _ in range(FINAL_READS):
                if self._read(fd) <= 0:
                    break
            os.close(fd)
        self._outputs.clear()
        self._poller.drop(self, "listen")
        if self._group is not None:
            self._poller.forget(self._group.events)
            self._group.close()
            self._group = None

    def _finish(self, state: str, reason: str, code: int | None) -> None:
        self._poller.drop(self, "news")
        self._emit(state, reason, code)
        self.settled.set()
        self.done.set()

    def _emit(self, state: str, reason: str | None = None, code: int | None = None) -> None:
        """Replace the record. Times are seconds on the agent's clock; whoever sends it turns them into ages."""
        self.record = {
            "version": self.record.get("version", 0) + 1,
            "name": self.plan.name,
            "run": self.plan.run,
            "state": state,
            "pid": self._child.pid if self._child is not None else None,
            "exit_code": 128 - code if code is not None and code < 0 else code,
            "signal": _signal_name(-code) if code is not None and code < 0 else None,
            "reason": reason,
            "restart_count": self._restarts,
            "ready_at": self._ready_at,
            "ended_at": None if state in ALIVE else time.monotonic(),
        }
        self.version += 1
        self._changed()


_SIGNALS = {int(number): number.name for number in signal.Signals}


def _signal_name(number: int) -> str:
    return _SIGNALS.get(number, f"SIG{number}")
