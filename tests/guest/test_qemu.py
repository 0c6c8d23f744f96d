"""The QEMU driver against real guests: birth, individuality, death, adoption, damage."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyro_mcp.environments.image import make_initramfs
from pyro_mcp.environments.packages import current_packages
from pyro_mcp.errors import MachineFailed
from pyro_mcp.machines.driver import MachineSpec, NetworkLink
from pyro_mcp.machines.preflight import kvm_verdict
from pyro_mcp.machines.qemu.driver import QemuDriver, QemuMachine
from pyro_mcp.machines.template import RAM, SCRATCH, STATE
from pyro_mcp.protocol.channel import ChannelClosed, Data, StreamResult
from pyro_mcp.settings import Settings
from pyro_mcp.system.progress import silent

pytestmark = pytest.mark.guest
Launch = Callable[..., QemuMachine]


def sh(machine: QemuMachine, line: str) -> str:
    """What the shell line printed in the guest; it must succeed."""
    stream = machine.channel.open(
        "exec", {"argv": ["sh", "-c", line], "env": {}, "timeout_seconds": 60, "stdin": False}
    )
    output = bytearray()
    for message in stream.messages():
        if isinstance(message, Data):
            output += message.data
        elif isinstance(message, StreamResult):
            assert message.value["exit_code"] == 0, output
    return output.decode().strip()


def test_a_guest_has_its_own_kernel_and_userland(launch: Launch) -> None:
    machine = launch()
    assert sh(machine, "git --version").startswith("git version 2.")
    assert "cloud-amd64" in sh(machine, "uname -r")
    assert "bookworm" in sh(machine, "cat /etc/os-release")
    assert sh(machine, "echo kept > /root/f && cat /root/f") == "kept"
    assert sh(machine, "ls /sys/class/net") == "lo"
    assert sh(machine, "id -u") == "0"


def test_clones_differ_before_their_first_command_and_know_the_time(launch: Launch) -> None:
    machines = [launch() for _ in range(3)]
    line = (
        "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 32 /dev/urandom | od -An -tx1; date +%s"
    )
    seen, asked = [], []
    for machine in machines:
        before = time.time()
        seen.append(sh(machine, line).splitlines())
        asked.append((before, time.time()))
    for index in range(len(seen[0]) - 1):
        assert len({lines[index] for lines in seen}) == 3, [lines[index] for lines in seen]
    for lines, (before, after) in zip(seen, asked, strict=True):
        assert before - 3 <= int(lines[-1]) <= after + 3
    assert [lines[0] for lines in seen] == [machine.machine_id for machine in machines]


def test_two_guests_do_not_see_each_others_writes(launch: Launch) -> None:
    one, two = launch(), launch()
    sh(one, "head -c 8M /dev/urandom > /root/blob; sync; echo one > /etc/mark")
    assert sh(two, "test ! -e /root/blob && test ! -e /etc/mark && echo clean") == "clean"


def test_a_scratch_disk_that_stands_is_kept(driver: QemuDriver, new_spec: Callable[..., MachineSpec]) -> None:
    spec = new_spec()
    machine = driver.launch(spec, silent)
    sh(machine, "echo kept > /root/f; sync")
    machine.terminate()
    machine = driver.launch(spec, silent)
    try:
        assert sh(machine, "cat /root/f; hostname").split() == ["kept", spec.machine_id]
    finally:
        machine.terminate()


SPOIL = """
cd /etc
for name in hostname hosts machine-id resolv.conf resolv.conf.pyro ssl/certs/ca-certificates.crt.pyro; do
    rm -f $name && mkfifo $name
done
rm ssl/certs/ca-certificates.crt && truncate -s 1T ssl/certs/ca-certificates.crt
sync
"""
LOCK = "cd /etc && rm hosts && mkdir hosts && chattr +i resolv.conf hostname && sync"
BREAK = """
mkdir /mnt/own && mount $(readlink -f /dev/$(basename $(dirname $(grep -lx scratch /sys/block/*/serial)))) /mnt/own
rm -r /mnt/own/workspace && touch /mnt/own/workspace && umount /mnt/own && sync
"""


def test_a_machine_starts_again_whatever_was_left_where_the_agent_writes(
    driver: QemuDriver, new_spec: Callable[..., MachineSpec]
) -> None:
    """Pipes that nobody reads, a file larger than memory: a start that waited for them would look like a broken
    template, which is everybody's."""
    link = NetworkLink(lambda stream: None, ca=b"-----BEGIN CERTIFICATE-----\nhost\n-----END CERTIFICATE-----\n")
    spec = dataclasses.replace(new_spec(), network=link)
    machine = driver.launch(spec, silent)
    sh(machine, SPOIL)
    machine.terminate()
    machine = driver.launch(spec, silent)
    try:
        assert sh(machine, "cat /etc/hostname; tail -n 2 /etc/ssl/certs/ca-certificates.crt | head -n 1").split() == [
            spec.machine_id,
            "host",
        ]
        assert sh(machine, "cat /etc/resolv.conf") == "nameserver 192.0.0.1"
        sh(machine, LOCK)
    finally:
        machine.terminate()
    machine = driver.launch(spec, silent)
    try:
        assert sh(machine, "hostname; test -d /etc/hosts && echo his own") == f"{spec.machine_id}\nhis own"
    finally:
        machine.terminate()


def test_a_disk_that_its_user_broke_does_not_condemn_the_template(
    driver: QemuDriver, new_spec: Callable[..., MachineSpec]
) -> None:
    spec = new_spec()
    machine = driver.launch(spec, silent)
    sh(machine, BREAK)
    machine.terminate()
    said: list[str] = []
    with pytest.raises(MachineFailed) as caught:
        driver.launch(spec, lambda words, _: said.append(words))
    assert "a new disk" in str(caught.value.hint)
    assert not [words for words in said if "did not restore" in words]
    assert driver._templates.get(driver._kind(spec)) is not None


@pytest.mark.slow
def test_twenty_cold_boots_under_load_all_succeed(driver: QemuDriver, new_spec: Callable[..., MachineSpec]) -> None:
    """Both cores busy: the trap is a guest that cannot calibrate its clock and hangs."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        for _ in range(20):
            machine = driver.boot(new_spec())
            try:
                assert sh(machine, "echo well") == "well"
            finally:
                machine.terminate()
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_the_clock_runs_at_the_right_rate(launch: Launch) -> None:
    machine = launch()

    def look() -> tuple[float, float, float]:
        """What the guest says, and between which two moments."""
        before, said = time.monotonic(), float(sh(machine, "date +%s.%N"))
        return before, said, time.monotonic()

    before_first, first, after_first = look()
    time.sleep(3)
    before_last, last, after_last = look()
    assert before_last - after_first - 0.1 < last - first < after_last - before_first + 0.1


def test_a_node_that_comes_later_adopts_the_live_guest(
    driver: QemuDriver, new_spec: Callable[..., MachineSpec], cache_dir: Path
) -> None:
    spec = new_spec()
    machine = driver.launch(spec, silent)
    try:
        sh(machine, "echo before > /root/f")
        machine.channel.close("the node dies")
        again = QemuDriver(cache_dir, accelerator="tcg").adopt(spec.machine_id, spec.directory)
        assert again is not None
        assert again.pid == machine.pid
        assert sh(again, "cat /root/f") == "before"
        again.terminate()
        assert driver.adopt(spec.machine_id, spec.directory) is None
    finally:
        machine.terminate()


def test_a_guest_that_was_not_given_this_token_is_not_ours(
    driver: QemuDriver, new_spec: Callable[..., MachineSpec]
) -> None:
    spec = new_spec()
    machine = driver.launch(spec, silent)
    machine.channel.close("the node dies")
    (spec.directory / "token").write_text("another")
    assert driver.adopt(spec.machine_id, spec.directory) is None
    assert not machine.alive() or wait_dead(machine)


def test_killing_the_vmm_ends_every_request_with_a_reason(launch: Launch) -> None:
    machine = launch()
    gone = threading.Event()
    machine.on_exit(gone.set)
    stream = machine.channel.open("exec", {"argv": ["sleep", "60"], "env": {}, "timeout_seconds": 60, "stdin": False})
    machine.channel.ping()
    os.kill(machine.pid, signal.SIGKILL)
    with pytest.raises(ChannelClosed):
        list(stream.messages())
    assert gone.wait(5)
    assert not machine.alive()


def test_power_off_from_inside_is_noticed(launch: Launch) -> None:
    machine = launch()
    gone = threading.Event()
    machine.on_exit(gone.set)
    with pytest.raises((ChannelClosed, AssertionError)):
        sh(machine, "sync; echo o > /proc/sysrq-trigger; sleep 30")
    assert gone.wait(20)


@pytest.mark.parametrize("name", [RAM, STATE, SCRATCH])
def test_a_damaged_template_is_rebuilt(
    name: str, driver: QemuDriver, new_spec: Callable[..., MachineSpec], cache_dir: Path
) -> None:
    driver.launch(new_spec(mem_mib=384), silent).terminate()
    template = driver._templates.get(driver._kind(new_spec(mem_mib=384)))
    assert template is not None
    path = template.directory / name
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"\xde\xad" * 64, path.stat().st_size // 2)
    spec = new_spec(mem_mib=384)
    machine = QemuDriver(cache_dir, accelerator="tcg").launch(spec, silent)
    try:
        assert sh(machine, "echo well") == "well"
    finally:
        machine.terminate()


def test_a_kernel_that_does_not_boot_is_one_clear_error_and_leaves_nothing(
    new_spec: Callable[..., MachineSpec], cache_dir: Path, tmp_path: Path
) -> None:
    spec = new_spec()
    assert spec.runtime is not None
    broken = tmp_path / "initramfs"
    broken.write_bytes(b"not an archive")
    spec = dataclasses.replace(spec, runtime=dataclasses.replace(spec.runtime, initramfs=broken))
    with pytest.raises(MachineFailed, match="cannot start the guest") as caught:
        QemuDriver(cache_dir, accelerator="tcg", boot_seconds=20).boot(spec)
    assert caught.value.hint
    assert "panic" in caught.value.hint
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and spec.machine_id in cmdline(pid)]


def test_an_agent_that_never_answers_is_given_up_in_time(
    new_spec: Callable[..., MachineSpec], cache_dir: Path, tmp_path: Path
) -> None:
    packages = current_packages(dataclasses.replace(Settings.load(), cache_dir=cache_dir))
    assert packages is not None
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "init").write_text("#!/busybox sh\necho alive but mute\nexec /busybox sleep 1000\n")
    shutil.copy(packages.busybox, tree / "busybox")
    for program in tree.iterdir():
        program.chmod(0o755)
    make_initramfs(tree, tmp_path / "initramfs")
    spec = new_spec()
    assert spec.runtime is not None
    spec = dataclasses.replace(spec, runtime=dataclasses.replace(spec.runtime, initramfs=tmp_path / "initramfs"))
    with pytest.raises(MachineFailed, match="did not say hello") as caught:
        QemuDriver(cache_dir, accelerator="tcg", boot_seconds=20).boot(spec)
    assert "alive but mute" in str(caught.value.hint)
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and spec.machine_id in cmdline(pid)]


def test_the_kvm_probe_is_bounded_and_its_verdict_remembered(
    new_spec: Callable[..., MachineSpec], cache_dir: Path, tmp_path: Path
) -> None:
    calls: list[float] = []

    def boot(seconds: float) -> None:
        calls.append(seconds)
        QemuDriver(cache_dir, accelerator="kvm", boot_seconds=seconds).boot(new_spec()).terminate()

    begun = time.monotonic()
    first = kvm_verdict(tmp_path / "cache", boot)
    assert time.monotonic() - begun < 30
    assert kvm_verdict(tmp_path / "cache", boot) == first
    assert len(calls) <= 1
    assert first.usable or first.reason


def test_six_guests_at_once_have_their_own_contents(launch: Launch) -> None:
    def use(number: int) -> str:
        machine = launch()
        return sh(machine, f"echo {number} > /root/n; sync; cat /root/n")

    launch()  # the template
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(use, range(6))) == [str(number) for number in range(6)]


def cmdline(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def wait_dead(machine: QemuMachine) -> bool:
    gone = threading.Event()
    machine.on_exit(gone.set)
    return gone.wait(5)


def test_nothing_writes_to_a_fresh_disk_by_itself(launch: Launch) -> None:
    """A kernel's thread that zeroes inode tables took time and flushed the disk just when the first command came."""
    machine = launch()
    assert sh(machine, "cat /proc/[0-9]*/comm | grep -c ext4lazyinit || true") == "0"
    assert "noinit_itable" in sh(machine, "cat /proc/fs/ext4/vd*/options")
