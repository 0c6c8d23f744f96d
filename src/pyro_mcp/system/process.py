"""The one door to other programs: run one to its end, name a process for good, wait for one that is not ours.

Never a shell: every command is an argument vector. A program that is missing becomes `MissingDependency` whose hint
names the Debian package; a full disk becomes `DiskFull`; anything else that ends badly is `CommandFailed` with its last
words.
"""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, cast

from pyro_mcp.errors import Cancelled, DiskFull, MissingDependency, PermissionDenied, PyroError, TimedOut
from pyro_mcp.system.atomic import FREE_SPACE

PACKAGES: Mapping[str, str] = {
    "cpio": "cpio",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "fsck.erofs": "erofs-utils",
    "git": "git",
    "lz4": "lz4",
    "mkfs.erofs": "erofs-utils",
    "mkfs.ext4": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "newuidmap": "uidmap",
    "prlimit": "util-linux",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
"""Debian package of each program that pyro starts; the remedy in errors and in `doctor`."""

_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_TAIL_BYTES = 1 << 16


class CommandFailed(PyroError):
    """A program ran and ended with a status other than 0. `output` is the end of what it said."""

    def __init__(self, message: str, *, status: int, output: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.output = output


@dataclass(frozen=True)
class Finished:
    """A program that ended well: its standard output and error, decoded, at most the last 64 KiB of each."""

    stdout: str
    stderr: str


def find_program(name: str) -> Path | None:
    """Where program `name` is; None when absent. System directories count even if PATH lacks them."""
    found = shutil.which(name) or shutil.which(name, path=":".join(_DIRECTORIES))
    return Path(found) if found else None


def require_program(name: str) -> str:
    """The path of program `name`. Raises `MissingDependency` with the package as remedy."""
    found = find_program(name)
    if found is None:
        remedy = f"Install it: apt-get install {PACKAGES[name]}" if name in PACKAGES else "Install it"
        raise MissingDependency(f"cannot run {name}: it is not installed", hint=remedy)
    return str(found)


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: bytes | None = None,
    timeout: float | None = None,
    on_line: Callable[[str], None] | None = None,
    cancelled: threading.Event | None = None,
) -> Finished:
    """Run `argv` in its own process group to its end; on timeout, cancel or any error the group is killed.

    It dies with this process, too. `on_line` gets each line of standard error as it comes. Setting `cancelled`
    ends the command within 0.2 s.
    Raises `MissingDependency`, `PermissionDenied`, `DiskFull`, `TimedOut`, `Cancelled` or `CommandFailed`.
    """
    # The death signal hangs on the thread that starts the child: this one, which waits below.
    command = [require_program("setpriv"), "--pdeathsig", "KILL", require_program(argv[0]), *argv[1:]]
    with _in_memory() as stdin, _in_memory() as stdout:
        try:
            stdin.write(input or b"")
            stdin.seek(0)
            child = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            raise _cannot_start(argv[0], error) from error
        try:
            stderr = _listen(child, argv[0], timeout, on_line, cancelled)
        finally:
            _end_group(child)
        if child.returncode:
            raise _failure(argv, child.returncode, stderr)
        stdout.seek(max(0, stdout.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return Finished(stdout.read().decode("utf-8", "replace"), stderr)


def _in_memory() -> BinaryIO:
    """A file that a full disk cannot refuse."""
    return cast(BinaryIO, os.fdopen(os.memfd_create("pyro", os.MFD_CLOEXEC), "w+b"))


def run_into(
    argv: Sequence[str], *, limit: int, timeout: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> bytes:
    """Run `argv` like `run` and give the first `limit` bytes of what it said on standard output.

    What says more is ended there. Raises what `run` raises.
    """
    command = [require_program("setpriv"), "--pdeathsig", "KILL", require_program(argv[0]), *argv[1:]]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=env,
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        said, errors, whole = _bounded(child, argv[0], limit, time.monotonic() + timeout)
    finally:
        _end_group(child)
        child.stdout.close()
    if whole and child.returncode:
        raise _failure(argv, child.returncode, errors.decode("utf-8", "replace"))
    return said


def _bounded(child: subprocess.Popen[bytes], name: str, limit: int, deadline: float) -> tuple[bytes, bytes, bool]:
    """Standard output up to `limit`, the end of standard error, and whether the child has ended by itself."""
    assert child.stdout is not None
    assert child.stderr is not None
    pieces: list[bytes] = []
    size, tail, error_output = 0, b"", child.stderr.fileno()
    alive = {child.stdout.fileno(), error_output}
    poller = select.poll()
    for descriptor in alive:
        poller.register(descriptor, select.POLLIN)
    while alive and size <= limit:
        ready = poller.poll(max(0, int((deadline - time.monotonic()) * 1000)))
        for descriptor, _ in ready:
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                poller.unregister(descriptor)
                alive.discard(descriptor)
            elif descriptor == error_output:
                tail = (tail + chunk)[-_TAIL_BYTES:]
            else:
                pieces.append(chunk)
                size += len(chunk)
        if not ready:
            raise TimedOut(f"cannot finish {name}: it took too long")
    if not alive:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TimedOut(f"cannot finish {name}: it took too long") from None
    return b"".join(pieces)[:limit], tail, not alive


def _listen(
    child: subprocess.Popen[bytes],
    name: str,
    timeout: float | None,
    on_line: Callable[[str], None] | None,
    cancelled: threading.Event | None,
) -> str:
    """Standard error until its end, bounded to its tail; lines are handed on as they come."""
    assert child.stderr is not None
    deadline = None if timeout is None else time.monotonic() + timeout
    tail, pending = b"", b""
    poller = select.poll()
    poller.register(child.stderr, select.POLLIN)
    while True:
        ready = poller.poll(_patience_ms(deadline, cancelled))
        _check(name, timeout, deadline, cancelled)
        if not ready:
            continue
        chunk = os.read(child.stderr.fileno(), 1 << 16)
        if not chunk:
            break
        tail = (tail + chunk)[-_TAIL_BYTES:]
        *lines, pending = (pending + chunk)[-_TAIL_BYTES:].split(b"\n")
        for line in lines if on_line else ():
            on_line(line.decode("utf-8", "replace").rstrip("\r"))  # type: ignore[misc]
    _await_end(child, name, timeout, deadline, cancelled)
    return tail.decode("utf-8", "replace")


def _await_end(
    child: subprocess.Popen[bytes],
    name: str,
    timeout: float | None,
    deadline: float | None,
    cancelled: threading.Event | None,
) -> None:
    """One that has closed its standard error may go on without a word."""
    while True:
        patience = _patience_ms(deadline, cancelled)
        try:
            child.wait(None if patience is None else patience / 1000)
        except subprocess.TimeoutExpired:
            _check(name, timeout, deadline, cancelled)
        else:
            return


def _check(name: str, timeout: float | None, deadline: float | None, cancelled: threading.Event | None) -> None:
    if cancelled is not None and cancelled.is_set():
        raise Cancelled(f"cannot finish {name}: cancelled")
    if deadline is not None and time.monotonic() >= deadline:
        raise TimedOut(f"cannot finish {name}: no end after {timeout:g} s")


def _patience_ms(deadline: float | None, cancelled: threading.Event | None) -> int | None:
    # An Event has no file descriptor: look at it five times a second, only where a caller may cancel.
    waits = [] if deadline is None else [max(0.0, deadline - time.monotonic())]
    if cancelled is not None:
        waits.append(0.2)
    return int(min(waits) * 1000) + 1 if waits else None


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Nothing of the command stays: kill its group, reap it, close our end."""
    if child.poll() is None:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()
    if child.stderr is not None:
        child.stderr.close()


def _cannot_start(name: str, error: OSError) -> PyroError:
    if error.errno == errno.ENOSPC:
        return DiskFull(f"cannot run {name}: {error.strerror}", hint=FREE_SPACE)
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(f"cannot run {name}: {error.strerror}")
    return CommandFailed(f"cannot run {name}: {error.strerror}", status=126, output="")


def _failure(argv: Sequence[str], status: int, stderr: str) -> PyroError:
    last = [line for line in stderr.strip().splitlines() if line.strip()][-3:]
    words = " / ".join(last)[-600:] or "it said nothing"
    if "No space left on device" in stderr:
        return DiskFull(f"cannot finish {argv[0]}: no space left on device", hint=FREE_SPACE)
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
    return CommandFailed(f"cannot finish {argv[0]}: {how}: {words}", status=status, output=stderr)


@dataclass(frozen=True)
class Identity:
    """A process named for good: a pid alone comes back after a while, these three together do not.

    `start_time` is in clock ticks since boot, `boot_id` is the kernel's.
    """

    pid: int
    start_time: int
    boot_id: str

    @staticmethod
    def of(pid: int) -> Identity | None:
        """The identity of the live process `pid`; None when there is none, or only a zombie."""
        start = _start_time(pid)
        return None if start is None else Identity(pid, start, host_boot_id())

    @staticmethod
    def load(path: Path) -> Identity | None:
        """The identity kept at `path`; None when there is none or what is there is none. Raises `OSError`."""
        try:
            return Identity(**json.loads(path.read_text()))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def save(self, path: Path) -> None:
        """Keep this identity at `path`, for whoever looks after the process next."""
        path.write_text(json.dumps(asdict(self)))

    def alive(self) -> bool:
        """Whether exactly this process still runs."""
        return self.boot_id == host_boot_id() and _start_time(self.pid) == self.start_time

    def open_pidfd(self) -> int | None:
        """A pidfd of exactly this process, readable when it ends; None when it is gone. Close it.

        Raises `OSError` when the system has none to give: whoever took that for an end would start a second one.
        """
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError as error:
            # The number may be a thread's by now.
            if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
                return None
            raise
        found = False
        try:
            found = self.alive()
        finally:
            if not found:
                os.close(descriptor)
        return descriptor if found else None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until this process, anybody's child, has ended; False when `timeout` seconds pass first."""
        descriptor = self.open_pidfd()
        if descriptor is None:
            return True
        try:
            return wait_pidfd(descriptor, timeout)
        finally:
            os.close(descriptor)


def wait_pidfd(descriptor: int, timeout: float | None = None) -> bool:
    """Wait until the process of a pidfd has ended; False when `timeout` seconds pass first."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(None if timeout is None else int(timeout * 1000)))


def host_boot_id() -> str:
    """The host kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The command name may hold spaces and brackets: fields count from the last bracket.
    after = stat[stat.rindex(")") + 2 :].split()
    return None if after[0] in ("Z", "X") else int(after[19])
