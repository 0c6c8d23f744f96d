"""exec: one command, its streams and its end.

A single poll loop on the request's own thread watches the process, its two pipes and a wake descriptor, through
which the channel's reader reports input, credit and cancellation. There are no pump threads: under emulation a
thread hand-over costs more than the fork. Output is read only when the peer has granted credit, so a stalled consumer
stalls the command and never the agent; a timeout or a cancel still reaches the group meanwhile.

A command ends with its channel, unless it is a job (`jobs`). When it is ended, by that, by who asks or by its timeout,
everything it has started ends, also what has left its group; when it ends by itself, what it has left behind runs on.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import time
from threading import get_native_id
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import AgentError, cause, invalid
from pyro_mcp.guest.exec.children import Child, SpawnError, spawn
from pyro_mcp.guest.exec.command import command, programs
from pyro_mcp.guest.exec.end import TimeoutKiller, not_started, result_of
from pyro_mcp.guest.exec.jobs import AgentJob, Jobs, job_name
from pyro_mcp.guest.exec.secrets import AgentSecrets
from pyro_mcp.guest.exec.tagged import Tagged
from pyro_mcp.protocol.channel import Data, End, Message, Stream
from pyro_mcp.protocol.exchange import buffer
from pyro_mcp.protocol.wake import Wake

RUN_TAG = b"PYRO_COMMAND"
QUIET_SECONDS = 0.1
LINGER_SECONDS = 1.0
SMALL_READ = 4096
LARGE_READ = PIPE_BYTES = 1024 * 1024
TRANSFER_NICE = 5
"""What a thread that moves much data adds to its niceness: a command that comes meanwhile, and shares the one processor
with it, took 3.4 times as long as alone, and so it takes 2 times."""
_FIONREAD = 0x541B
_READY = select.POLLIN | select.POLLHUP | select.POLLERR


def run(stream: Stream, defaults: dict[bytes, bytes], home: bytes, secrets: AgentSecrets, jobs: Jobs) -> dict[str, Any]:
    """Serve `exec`: argv, shell, cwd, env, secret_env, timeout_seconds, stdin, job → exit_code, signal, timed_out,
    duration_ms, cwd. A relative `cwd` is seen from `home`, where commands start without one.

    Standard output and error travel as DATA 1 and 2 while they come. A command that cannot be started ends with
    127 or 126 and a line on standard error, as a shell would have it.
    """
    argv = command(stream.params)
    directory = read.directory(stream.params, "cwd", home)
    environment = {**defaults, **read.variables(stream.params, "env"), **secrets.environment(stream.params)}
    timeout = read.seconds(stream.params, "timeout_seconds")
    with_input = read.flag(stream.params, "stdin")
    name = job_name(stream.params)
    where = {"cwd": directory.decode("utf-8", "replace")}
    if name is None:
        return _command(stream, argv, directory, environment, timeout, with_input) | where
    if with_input:
        raise invalid("cannot exec: a job has no input")
    job = jobs.begin(name, stream)
    result: dict[str, Any] | None = None
    try:
        result = _command(job, argv, directory, environment, timeout, False) | where
    finally:
        jobs.finish(name, result)
    return result


def _command(
    peer: Stream | AgentJob,
    argv: list[bytes],
    directory: bytes,
    environment: dict[bytes, bytes],
    timeout: float | None,
    with_input: bool,
) -> dict[str, Any]:
    begun = time.monotonic()
    wake = Wake()
    try:
        run = _Run(peer, wake, with_input)
        try:
            run.start(argv, directory, environment)
            return run.loop(begun, timeout)
        except SpawnError as error:
            return not_started(peer, argv[0], directory, error)
        finally:
            run.close()
    finally:
        peer.on_cancel(None)
        peer.on_expire(None)
        peer.watch(None)
        wake.close()


class _Run:
    """One command under way. Everything but `Child.kill_group` happens on the request's thread."""

    def __init__(self, stream: Stream | AgentJob, wake: Wake, with_input: bool) -> None:
        self._stream = stream
        self._wake = wake
        self._with_input = with_input
        self._poll = select.poll()
        self._child: Child | None = None
        self._run = os.urandom(12).hex().encode()
        self._over = False
        self._outputs: dict[int, int] = {}
        self._backlog: dict[int, int] = {}
        self._armed = False
        self._moved = 0
        self._stdin = -1
        self._stdin_watched = False
        self._input = memoryview(b"")
        self._input_open = with_input
        self._buffer = memoryview(bytearray(SMALL_READ))
        self._nice: int | None = None

    # -- begin and end

    def start(self, argv: list[bytes], directory: bytes, environment: dict[bytes, bytes]) -> None:
        """Make the pipes and the process. Raises `SpawnError`, or `AgentError` when the machine is out of means."""
        mine: list[int] = []
        try:
            if self._with_input:
                stdin, self._stdin = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(self._stdin, False)
            else:
                stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            mine.append(stdin)
            for tag in (1, 2):
                ours, theirs = os.pipe2(os.O_CLOEXEC)
                self._outputs[ours] = tag
                mine.append(theirs)
            found = programs(argv[0], environment.get(b"PATH", b"/usr/bin:/bin"))
            flat = [name + b"=" + value for name, value in {**environment, RUN_TAG: self._run}.items()]
            self._child = spawn(argv, found, directory, flat, (mine[0], mine[1], mine[2]))
        except OSError as error:
            raise AgentError("capacity", f"cannot exec: {cause(error)}") from None
        finally:
            for fd in mine:
                os.close(fd)

    def close(self) -> None:
        """Leave nothing: descriptors closed, the process dead and reaped."""
        self._come_back()
        for fd in self._outputs:
            os.close(fd)
        self._outputs.clear()
        self._close_input()
        if self._child:
            self._child.kill_group(signal.SIGKILL)
            self._child.reap()
            if not self._over:
                self._end_the_rest()

    def loop(self, begun: float, timeout: float | None) -> dict[str, Any]:
        """Move data until the command has ended and its pipes are drained; then the result."""
        child = self._child
        assert child is not None
        self._stream.on_cancel(lambda: child.kill_group(signal.SIGKILL))
        self._stream.watch(self._wake.set)
        self._poll.register(child.pidfd, select.POLLIN)
        self._poll.register(self._wake.fd, select.POLLIN)
        self._on_wake()
        killer = TimeoutKiller(child, begun, timeout)

        def expire() -> None:
            killer.expire()
            self._wake.set()

        self._stream.on_expire(expire)
        while not self._turn(child.pidfd, killer.act()):
            pass
        self._poll.unregister(child.pidfd)
        ended = killer.timed_out or self._stream.cancelled
        status = child.reap(kill_group=ended)
        if ended:
            self._end_the_rest()
        self._over = True
        duration = time.monotonic() - begun
        if not self._stream.cancelled:
            self._drain()
        return result_of(status, killer.timed_out, duration)

    def _end_the_rest(self) -> None:
        """What has left the group."""
        Tagged(RUN_TAG, self._run).kill()

    # -- the loop

    def _turn(self, pidfd: int, wait_ms: float | None) -> bool:
        """Wait once and serve what is ready. True when `pidfd` is."""
        ended = False
        for fd, events in self._poll.poll(wait_ms):
            if fd == pidfd:
                ended = True
            elif fd == self._wake.fd:
                self._on_wake()
            elif fd == self._stdin:
                self._push_input()
            elif events & _READY:
                self._pull_output(fd)
        return ended

    def _on_wake(self) -> None:
        self._wake.clear()
        if not self._armed and self._stream.room:
            self._arm(True)
        if self._input_open and not self._stdin_watched:
            self._push_input()

    def _arm(self, armed: bool) -> None:
        if armed != self._armed:
            self._armed = armed
            for fd in self._outputs:
                if armed:
                    self._poll.register(fd, select.POLLIN)
                else:
                    self._poll.unregister(fd)

    def _pull_output(self, fd: int) -> None:
        # Once disarmed, what else was ready in this turn waits too, although room may have come meanwhile.
        room = self._stream.room if self._armed else 0
        if not room:
            self._arm(False)
            return
        count = os.readv(fd, [self._buffer[:room]])
        if not count:
            self._poll.unregister(fd)
            del self._outputs[fd]
            os.close(fd)
            return
        self._moved += count
        self._stream.send(self._buffer[:count], self._outputs[fd])
        if fd in self._backlog:
            self._backlog[fd] -= count
        if count == SMALL_READ == len(self._buffer):
            self._widen()

    def _widen(self) -> None:
        """A command with much to say gets a large buffer and large pipes; `true` never pays for them."""
        self._give_way()
        self._buffer = memoryview(buffer(LARGE_READ))
        for fd in self._outputs:
            _widen_pipe(fd)

    def _give_way(self) -> None:
        """Let everything shorter go first. Only root may take that back, and the thread serves others afterwards."""
        if self._nice is None and os.geteuid() == 0:
            thread = get_native_id()
            self._nice = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, self._nice + TRANSFER_NICE)

    def _come_back(self) -> None:
        if self._nice is not None:
            os.setpriority(os.PRIO_PROCESS, get_native_id(), self._nice)
            self._nice = None

    # -- input

    def _push_input(self) -> None:
        """Write what the peer sent, until the pipe is full or nothing more has come."""
        while self._input_open:
            if not self._input:
                message = self._stream.try_receive()
                if message is None:
                    break
                self._accept(message)
            elif not self._write_input():
                self._watch_input(True)
                return
        self._watch_input(False)

    def _accept(self, message: Message) -> None:
        if isinstance(message, End):
            self._input_open = False
            self._close_input()
        elif isinstance(message, Data) and message.tag == 0:
            # A command that closed its input early swallows the rest, like `head` in a pipeline.
            if self._stdin >= 0:
                self._input = memoryview(message.data)
        else:
            raise invalid("cannot exec: input is data with tag 0")

    def _write_input(self) -> bool:
        """Write once from the pending input. False when the pipe is full."""
        try:
            count = os.write(self._stdin, self._input)
        except BlockingIOError:
            return False
        except OSError:
            self._close_input()
            self._input = memoryview(b"")
            return True
        self._input = self._input[count:]
        return True

    def _watch_input(self, watch: bool) -> None:
        if watch and not self._stdin_watched:
            self._give_way()
            _widen_pipe(self._stdin)
            self._poll.register(self._stdin, select.POLLOUT)
        elif self._stdin_watched and not watch:
            self._poll.unregister(self._stdin)
        self._stdin_watched = watch

    def _close_input(self) -> None:
        if self._stdin >= 0:
            self._watch_input(False)
            os.close(self._stdin)
            self._stdin = -1

    # -- the rest of the output, once the command has ended

    def _drain(self) -> None:
        """Read what was written before the end, then what background children still write while they keep at it.

        They may hold the pipes for ever: after the backlog, 100 ms of silence or a second in all ends it.
        """
        self._input_open = False
        self._close_input()
        self._backlog = {fd: _waiting_bytes(fd) for fd in self._outputs}
        deadline = time.monotonic() + LINGER_SECONDS
        while self._outputs and not self._stream.cancelled:
            owed = not self._armed or any(self._backlog.get(fd, 0) > 0 for fd in self._outputs)
            if not owed and time.monotonic() >= deadline:
                return
            before = self._moved
            self._turn(-1, None if owed else QUIET_SECONDS * 1000)
            if not owed and self._moved == before and self._armed:
                return


def _waiting_bytes(fd: int) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(fd, _FIONREAD, b"\0\0\0\0"))[0]
    return count


def _widen_pipe(fd: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass  # Over the user's pipe quota on a host: the default size serves too.
