"""The one door to other programs: typed failures, nothing left behind, processes named for good."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pyro_mcp.errors import Cancelled, DiskFull, MissingDependency, PermissionDenied, TimedOut
from pyro_mcp.system import process
from pyro_mcp.system.process import CommandFailed, Identity, find_program, run, wait_pidfd


def gone(pid: int) -> bool:
    """Whether `pid` has ended; a zombie that nobody reaps counts."""
    return Identity.of(pid) is None


def test_output_input_and_lines() -> None:
    lines: list[str] = []
    finished = run(["sh", "-c", "cat; echo one >&2; echo two >&2"], input=b"in", on_line=lines.append)
    assert finished.stdout == "in"
    assert lines == ["one", "two"]


def test_words_are_never_a_shell() -> None:
    assert run(["echo", "$(id)", "; rm -rf x"]).stdout == "$(id) ; rm -rf x\n"


def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(MissingDependency, match="cannot run no-such-program"):
        run(["no-such-program"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "find_program", lambda name: None if name == "mkfs.erofs" else Path("/bin") / name)
        with pytest.raises(MissingDependency) as caught:
            run(["mkfs.erofs"])
    assert caught.value.hint == "Install it: apt-get install erofs-utils"


def test_system_directories_are_searched_even_without_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_program("sh") is not None


def test_a_failure_holds_the_status_and_the_last_words() -> None:
    with pytest.raises(CommandFailed, match=r"cannot finish sh: exit 3: .*the cause") as caught:
        run(["sh", "-c", "seq 100 >&2; echo the cause >&2; exit 3"])
    assert caught.value.status == 3
    with pytest.raises(CommandFailed, match="killed by SIGSEGV"):
        run(["sh", "-c", "kill -SEGV $$"])


def test_a_full_disk_is_told_as_such() -> None:
    with pytest.raises(DiskFull) as caught:
        run(["sh", "-c", "echo 'cp: error writing: No space left on device' >&2; exit 1"])
    assert "prune" in str(caught.value.hint)


def test_a_program_that_may_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "require_program", lambda name: str(tmp_path))
    with pytest.raises(PermissionDenied):
        run(["anything"])


def test_megabytes_of_output_stay_bounded() -> None:
    finished = run(["sh", "-c", "yes | head -c 5000000; yes no | head -c 5000000 >&2"])
    assert len(finished.stdout) <= 1 << 16
    assert len(finished.stderr) <= 1 << 16


@pytest.mark.parametrize("errors", ["", "exec 2>&-; "])
@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_the_whole_group_ends(tmp_path: Path, how: str, errors: str) -> None:
    pids = tmp_path / "pids"
    argv = ["sh", "-c", f"{errors}sleep 60 & echo $! > {pids}; echo $$ >> {pids}; wait"]
    begin = time.monotonic()
    if how == "timeout":
        with pytest.raises(TimedOut):
            run(argv, timeout=1)
    else:
        cancelled = threading.Event()

        def cancel() -> None:
            while not pids.exists() or pids.read_text().count("\n") < 2:
                time.sleep(0.01)
            cancelled.set()

        threading.Thread(target=cancel, daemon=True).start()
        with pytest.raises(Cancelled):
            run(argv, cancelled=cancelled)
    assert time.monotonic() - begin < 50
    deadline = time.monotonic() + 30
    while not all(gone(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_command_dies_with_the_process_that_runs_it(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = (
        "from pyro_mcp.system.process import run\n"
        f"run(['sh', '-c', 'echo $$ > {mark}.new; mv {mark}.new {mark}; exec sleep 60'])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not mark.exists():
        time.sleep(0.02)
    child = Identity.of(int(mark.read_text()))
    assert child is not None
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert child.wait(30)


def test_nothing_is_leaked() -> None:
    run(["true"])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run(["true"])
        with pytest.raises(CommandFailed):
            run(["false"])
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_identity_is_one_process_for_good() -> None:
    child = subprocess.Popen(["sleep", "60"])
    identity = Identity.of(child.pid)
    assert identity is not None
    assert identity.alive()
    assert not identity.wait(0.05)
    assert not Identity(child.pid, identity.start_time + 1, identity.boot_id).alive()
    assert not Identity(child.pid, identity.start_time, "another-boot").alive()
    assert Identity(child.pid, identity.start_time + 1, identity.boot_id).open_pidfd() is None
    child.kill()
    assert identity.wait(30)
    child.wait()
    assert not identity.alive()
    assert identity.open_pidfd() is None
    assert identity.open_pidfd() is None
    assert Identity.of(child.pid) is None


def test_a_lack_of_descriptors_is_no_sign_of_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever took it for one would start a second machine on the disk of the first."""
    identity = Identity.of(os.getpid())
    assert identity is not None
    identity.save(tmp_path / "identity")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", refuse)
        with pytest.raises(OSError, match="Too many"):
            identity.open_pidfd()
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        for attempt in (
            identity.open_pidfd,
            lambda: Identity.of(os.getpid()),
            lambda: Identity.load(tmp_path / "identity"),
        ):
            with pytest.raises(OSError, match="Too many"):
                attempt()
    assert len(os.listdir("/proc/self/fd")) == before
    assert Identity.load(tmp_path / "identity") == identity


def test_a_command_name_with_brackets_does_not_confuse(tmp_path: Path) -> None:
    odd = tmp_path / "a ) b) 1 2"
    odd.symlink_to("/bin/sleep")
    child = subprocess.Popen([odd, "60"])
    try:
        identity = Identity.of(child.pid)
        assert identity is not None
        assert identity.alive()
        assert identity.start_time > 0
    finally:
        child.kill()
        child.wait()


def test_waiting_for_a_pidfd() -> None:
    child = subprocess.Popen(["sleep", "60"])
    descriptor = os.pidfd_open(child.pid)
    assert not wait_pidfd(descriptor, 0.05)
    child.kill()
    assert wait_pidfd(descriptor, 2)
    os.close(descriptor)
    child.wait()
