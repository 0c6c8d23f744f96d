"""A host without room for what a guest writes: the guest is stopped and not harmed, and goes on when there is room."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp import DiskFull, MachineFailed, Pyro, PyroError
from pyro_mcp.engine.commands.limit import GRACE_SECONDS, guest_limit
from pyro_mcp.settings import Settings
from pyro_mcp.surfaces.cli.render.workspace_exec import outcome
from pyro_mcp.surfaces.client import call_running_node

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes mounts")

FLOOD = "dd if=/dev/urandom of=/workspace/big bs=1M count=24 conv=fsync"


class Host:
    """A state directory on a small file system of its own."""

    def __init__(self, mount: Path, cache_dir: Path) -> None:
        self.settings = Settings.load(state_dir=mount / "state", cache_dir=cache_dir)
        self._filler = mount / "filler"

    def open(self) -> Pyro:
        return Pyro(state_dir=self.settings.state_dir, cache_dir=self.settings.cache_dir)

    def fill(self, left: int = 4 * 1024**2) -> None:
        free = shutil.disk_usage(self._filler.parent).free - left
        self._filler.write_bytes(bytes(free))

    def clear(self) -> None:
        self._filler.unlink()

    def node(self) -> int:
        status = call_running_node(self.settings, "node_status")
        assert status is not None
        return int(status["pid"])


@pytest.fixture
def host(cache_dir: Path) -> Iterator[Host]:
    mount = Path(tempfile.mkdtemp(prefix="pyro-full-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(mount)], check=True)
    host = Host(mount, cache_dir)
    yield host
    call_running_node(host.settings, "node_stop", {"force": True})
    subprocess.run(["umount", "--lazy", str(mount)], check=True)
    mount.rmdir()


def settled(pyro: Pyro, workspace_id: str, refusal: type[PyroError] = DiskFull) -> None:
    """Wait until the guest has been stopped: a small write is refused."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            pyro.exec_workspace(workspace_id, command=["sync"])
        except refusal:
            return
    raise AssertionError("it is not stopped")


def test_a_write_is_refused_as_disk_full_and_works_once_there_is_room(host: Host) -> None:
    with host.open() as pyro:
        made = pyro.create_workspace(environment="debian:12").workspace_id
        pyro.write_workspace_file(made, path="kept", text="kept\n")
        host.fill()
        with pytest.raises(DiskFull) as caught:
            pyro.exec_workspace(made, command=FLOOD, timeout_seconds=60)
        assert caught.value.exit_code == 74
        assert caught.value.hint is not None
        assert str(host.settings.state_dir) in caught.value.hint
        with pytest.raises(DiskFull):
            pyro.write_workspace_file(made, path="late", text="late\n")
        with pytest.raises(DiskFull):
            pyro.read_workspace_file(made, path="kept")
        with pytest.raises(DiskFull):
            pyro.stop_workspace(made)
        assert pyro.status_workspace(made).state == "started"
        host.clear()
        pyro.write_workspace_file(made, path="late", text="late\n")
        assert pyro.read_workspace_file(made, path="kept").content == "kept\n"
        assert pyro.read_workspace_file(made, path="late").content == "late\n"
        # Nothing in the guest has been told of a broken disk.
        mounts = pyro.exec_workspace(made, command=["grep", " ext4 ", "/proc/self/mounts"]).stdout
        assert " ro," not in mounts
        assert "error" not in pyro.exec_workspace(made, command="dmesg | grep -i 'ext4\\|i/o' || :").stdout.lower()
        assert "dd" not in pyro.exec_workspace(made, command="cat /proc/[0-9]*/comm").stdout.split()
        clock = int(pyro.exec_workspace(made, command=["date", "+%s"]).stdout)
        assert abs(clock - time.time()) < 3
        assert pyro.exec_workspace(made, command=FLOOD, timeout_seconds=60).exit_code == 0


def test_what_a_guest_has_cached_is_not_lost_by_a_stop_for_which_there_is_no_room(host: Host) -> None:
    with host.open() as pyro:
        made = pyro.create_workspace(environment="debian:12").workspace_id
        pyro.exec_workspace(made, command=["sync"])
        host.fill()
        digest = "head -c 24000000 /dev/urandom > big && sha256sum big"
        said = pyro.exec_workspace(made, command=digest, timeout_seconds=60).stdout
        with pytest.raises(DiskFull):
            pyro.stop_workspace(made)
        assert pyro.status_workspace(made).state == "started"
        host.clear()
        # It wrote all out and ended as it was told, and is started again by whoever needs it.
        deadline = time.monotonic() + 60
        while pyro.status_workspace(made).state != "stopped":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert pyro.exec_workspace(made, command=["sha256sum", "big"]).stdout == said
        pyro.stop_workspace(made)
        assert pyro.status_workspace(made).state == "stopped"


def test_the_end_of_a_command_that_was_refused_is_recorded(host: Host) -> None:
    with host.open() as pyro:
        made = pyro.create_workspace(environment="debian:12").workspace_id
        host.fill()
        with pytest.raises(DiskFull):
            pyro.exec_workspace(made, command=FLOOD, timeout_seconds=60)
        # The store has no room either by now.
        host.fill(0)
        meanwhile = pyro.logs_workspace(made, sequence=1).entries[0]
        assert (meanwhile.state, meanwhile.exit_code) == ("ended", 137)
        host.clear()
        entry = pyro.logs_workspace(made).entries[0]
        assert (entry.state, entry.exit_code, entry.signal) == ("ended", 137, "SIGKILL")
        assert entry.reason is not None
        assert entry.reason.startswith("disk_full: ")
        assert entry.reason.endswith("it was ended")
        pyro.write_workspace_file(made, path="late", text="late\n")
        assert "dd" not in pyro.exec_workspace(made, command="cat /proc/[0-9]*/comm").stdout.split()
        call_running_node(host.settings, "node_stop", {"force": True})
    with host.open() as pyro:
        assert pyro.logs_workspace(made).entries[0] == entry
        assert f"{entry.reason} after" in outcome(entry)
        summary = pyro.summarize_workspace(made)
        assert (summary.commands.ended, summary.commands.running) == (1, 0)


@pytest.mark.parametrize("wait_seconds", [None, 0])
def test_a_write_that_is_refused_for_another_reason_harms_no_guest_either(host: Host, wait_seconds: int | None) -> None:
    """QEMU tells "no space" from all else: a quota, a limit, a disk that fails for a while."""
    with host.open() as pyro:
        made = pyro.create_workspace(environment="debian:12").workspace_id
        status = call_running_node(host.settings, "node_status")
        assert status is not None
        (qemu,) = [machine["pid"] for machine in status["machines"]]
        before = resource.prlimit(qemu, resource.RLIMIT_FSIZE, (1024**2, resource.RLIM_INFINITY))
        command = f"{FLOOD} && echo done"
        if wait_seconds is None:
            with pytest.raises(MachineFailed, match="refuses what it writes: File too large") as caught:
                pyro.exec_workspace(made, command=command, timeout_seconds=60)
            assert str(host.settings.state_dir) in str(caught.value.hint)
        else:
            begun = pyro.exec_workspace(made, command=command, timeout_seconds=60, wait_seconds=wait_seconds)
            settled(pyro, made, MachineFailed)
        resource.prlimit(qemu, resource.RLIMIT_FSIZE, before)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                pyro.write_workspace_file(made, path="late", text="late\n")
                break
            except MachineFailed:
                continue
        assert " ro," not in pyro.exec_workspace(made, command=["grep", " ext4 ", "/proc/self/mounts"]).stdout
        if wait_seconds is not None:
            assert wait_for_end(pyro, made, begun.sequence).exit_code == 0


def test_a_used_up_quota_is_a_full_disk(cache_dir: Path, tmp_path: Path) -> None:
    if not (mkfs := shutil.which("mkfs.btrfs")):
        pytest.skip("mkfs.btrfs is not installed: of the file systems with quotas every kernel has this one")
    (tmp_path / "image").touch()
    os.truncate(tmp_path / "image", 512 * 1024**2)
    (mount := tmp_path / "mount").mkdir()
    subprocess.run([mkfs, "--quiet", str(tmp_path / "image")], check=True)
    subprocess.run(["mount", "-o", "loop", str(tmp_path / "image"), str(mount)], check=True)
    host = Host(mount, cache_dir)
    try:
        with host.open() as pyro:
            made = pyro.create_workspace(environment="debian:12").workspace_id
            subprocess.run(["btrfs", "quota", "enable", str(mount)], check=True)
            used = shutil.disk_usage(mount).used
            subprocess.run(["btrfs", "qgroup", "limit", str(used + 8 * 1024**2), str(mount)], check=True)
            with pytest.raises(DiskFull, match="quota"):
                pyro.exec_workspace(made, command=FLOOD, timeout_seconds=60)
            subprocess.run(["btrfs", "qgroup", "limit", "none", str(mount)], check=True)
            time.sleep(2)
            pyro.write_workspace_file(made, path="late", text="late\n")
            assert " ro," not in pyro.exec_workspace(made, command=["grep", " ext4 ", "/proc/self/mounts"]).stdout
    finally:
        call_running_node(host.settings, "node_stop", {"force": True})
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


@pytest.mark.parametrize("reserve", ["kept", "gone"])
def test_a_node_starts_on_a_disk_with_no_free_block_and_deletes_there(
    cache_dir: Path, tmp_path: Path, reserve: str
) -> None:
    """On ext4, which gives a freed block back late."""
    (tmp_path / "image").touch()
    os.truncate(tmp_path / "image", 256 * 1024**2)
    (mount := tmp_path / "mount").mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(tmp_path / "image")], check=True)
    subprocess.run(["mount", "-o", "loop", str(tmp_path / "image"), str(mount)], check=True)
    host = Host(mount, cache_dir)
    try:
        with host.open() as pyro:
            made = pyro.create_workspace(environment="debian:12").workspace_id
            pyro.stop_workspace(made)
            call_running_node(host.settings, "node_stop", {"force": True})
        while not (mount / "state/pyro.reserve").exists() or (mount / "state/pyro.db-wal").exists():
            time.sleep(0.1)
        if reserve == "gone":
            (mount / "state/pyro.reserve").unlink()
        use_up(mount)
        assert os.statvfs(mount).f_bavail == 0
        with host.open() as pyro:
            assert [one.workspace_id for one in pyro.list_workspaces()] == [made]
            with pytest.raises(DiskFull):
                pyro.create_workspace(environment="debian:12")
            assert pyro.delete_workspace(made).deleted
            assert pyro.list_workspaces().count == 0
            assert [*(mount / "state/machines").iterdir(), *(mount / "state/workspaces").iterdir()] == []
    finally:
        call_running_node(host.settings, "node_stop", {"force": True})
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def use_up(mount: Path) -> None:
    """Take all blocks, those that only root may have too."""
    with (mount / "filler").open("ab", buffering=0) as file:
        for piece in (1024**2, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(piece))
                    os.fsync(file.fileno())


@pytest.mark.slow
def test_a_command_that_goes_on_by_itself_waits_and_keeps_its_time(host: Host) -> None:
    with host.open() as pyro:
        made = pyro.create_workspace(environment="debian:12").workspace_id
        host.fill()
        # Its limit and the agent's grace pass while the machine is stopped.
        begun = pyro.exec_workspace(made, command=f"{FLOOD} && echo done", timeout_seconds=10, wait_seconds=0)
        settled(pyro, made)
        time.sleep(guest_limit(10) + GRACE_SECONDS + 3)
        host.clear()
        entry = wait_for_end(pyro, made, begun.sequence)
        assert (entry.state, entry.exit_code, entry.timed_out) == ("finished", 0, False), entry
        assert "done" in entry.stdout


def test_deleting_a_stopped_machine_frees_its_room(host: Host) -> None:
    with host.open() as pyro:
        made = pyro.create_workspace(environment="debian:12").workspace_id
        host.fill()
        with pytest.raises(DiskFull):
            pyro.exec_workspace(made, command=FLOOD, timeout_seconds=60)
        assert pyro.delete_workspace(made).deleted
        assert list((host.settings.state_dir / "machines").iterdir()) == []
        host.clear()
        assert pyro.run_in_vm("debian:12", command=["true"]).exit_code == 0


@pytest.mark.parametrize("room", ["before the next node", "after the next node"])
def test_a_node_that_dies_meanwhile_leaves_it_to_the_next(host: Host, room: str) -> None:
    with host.open() as pyro:
        made = pyro.create_workspace(environment="debian:12").workspace_id
        host.fill()
        begun = pyro.exec_workspace(made, command=f"{FLOOD} && echo done", timeout_seconds=60, wait_seconds=0)
        settled(pyro, made)
        os.kill(host.node(), signal.SIGKILL)
    if room.startswith("before"):
        host.clear()
    with host.open() as pyro:
        if room.startswith("after"):
            with pytest.raises(DiskFull):
                pyro.write_workspace_file(made, path="late", text="late\n")
            host.clear()
        pyro.write_workspace_file(made, path="late", text="late\n")
        entry = wait_for_end(pyro, made, begun.sequence)
        assert (entry.state, entry.exit_code) == ("finished", 0), entry


def test_a_guest_that_cannot_be_frozen_for_want_of_room_is_refused_as_disk_full(cache_dir: Path, host: Host) -> None:
    """Its memory is a file in the cache, and a page of it that finds no room ends QEMU."""
    cache = host.settings.state_dir.parent / "cache"
    cache.mkdir()
    for made in ("environments", "runtime", "packages", "kvm.json"):
        if (cache_dir / made).exists():
            (cache / made).symlink_to(cache_dir / made)
    host.fill(left=40 * 1024**2)
    with Pyro(state_dir=host.settings.state_dir, cache_dir=cache) as pyro:
        with pytest.raises(DiskFull, match=r"no room is left in .*templates") as caught:
            pyro.run_in_vm("debian:12", command=["true"], mem_mib=384)
        assert caught.value.hint
        assert list((cache / "templates").glob("*.tmp-*")) == []
        host.clear()
        assert pyro.run_in_vm("debian:12", command=["true"], mem_mib=384).exit_code == 0


def wait_for_end(pyro: Pyro, workspace_id: str, sequence: int) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        entry = pyro.logs_workspace(workspace_id, sequence=sequence, wait_seconds=5).entries[0]
        if entry.state != "running":
            return entry
    raise AssertionError("it does not end")
