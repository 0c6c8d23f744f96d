"""A QEMU that its node did not mean to keep: it ends with the node, or the next one ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyro_mcp.machines.driver import GuestRuntime, Image
from pyro_mcp.machines.qemu import vmm
from pyro_mcp.machines.qemu.command import BINARY
from pyro_mcp.system.process import Identity

pytestmark = pytest.mark.guest

FREEZE = """
import sys
from pathlib import Path
from pyro_mcp.machines.driver import GuestRuntime, Image, MachineSpec
from pyro_mcp.machines.qemu.driver import QemuDriver
from pyro_mcp.model.size import MachineSize
cache, image, kernel, initramfs, runtime = map(Path, sys.argv[1:])
(cache / "machine").mkdir()
spec = MachineSpec(
    "vm-1", cache / "machine", Image("i", image), GuestRuntime("r", kernel, initramfs, runtime), MachineSize(1, 256, 64)
)
QemuDriver(cache, accelerator="tcg").launch(spec, lambda *_: None)
"""


def test_a_freezing_guest_dies_with_its_node(tmp_path: Path, runtime: GuestRuntime, environment: Image) -> None:
    words = [tmp_path, environment.path, runtime.kernel, runtime.initramfs, runtime.image]
    node = subprocess.Popen([sys.executable, "-c", FREEZE, *map(str, words)])
    deadline = time.monotonic() + 60
    identity = None
    while identity is None:
        assert node.poll() is None
        assert time.monotonic() < deadline
        identity = next((Identity.load(path) for path in tmp_path.glob("templates/*.tmp-*/vmm.json")), None)
        time.sleep(0.01)
    while b"setpriv" in Path(f"/proc/{identity.pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert identity.alive()
    node.send_signal(signal.SIGKILL)
    node.wait()
    assert identity.wait(10), "QEMU goes on without the node that was freezing it"


@pytest.mark.parametrize("named", [True, False], ids=["named", "nameless"])
def test_a_qemu_that_somebody_left_is_buried(tmp_path: Path, named: bool) -> None:
    def command(sockets: object) -> list[str]:
        fds = vars(sockets)
        monitor = f"socket,id=monitor,fd={fds['monitor']},server=on,wait=off"
        idle = ["-M", "none", "-nodefaults", "-nographic"]
        return [BINARY, *idle, "-chardev", monitor, "-mon", "chardev=monitor,mode=control"]

    left = vmm.spawn(tmp_path, command)
    if not named:
        (tmp_path / vmm.IDENTITY).unlink()
    vmm.kill_orphan(tmp_path)
    assert left.wait(10)
