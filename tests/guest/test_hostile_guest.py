"""A guest that takes all it can get, or disguises its disk: it harms itself, and the host and its neighbour go on."""

from __future__ import annotations

import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.api import disk, workspace
from pyro_mcp.api import exec as workspace_exec
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import MachineFailed
from pyro_mcp.machines.driver import Image
from pyro_mcp.operations.call import Call

pytestmark = pytest.mark.guest

TAKING_ALL = {
    "forks": "bomb() { bomb | bomb & }; bomb; sleep 300",
    "memory": "tail /dev/zero; sleep 300",
    "output": "yes",
    "tiny commands": "while :; do /bin/true; done",
}
TIMEOUT_SECONDS, LATE_SECONDS = 6, 30
NODE_BYTES = 64 << 20
NEIGHBOURS_SECONDS = 5.0


class Lab:
    def __init__(self, engine: Engine, call: Any) -> None:
        self.engine, self.call = engine, call

    def do(self, operation: Any, name: str, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = operation.answer(self.call(), {"workspace_id": name, **params})
        return answer

    def sh(self, name: str, command: str, seconds: int = 60) -> dict[str, Any]:
        return self.do(workspace_exec.exec_workspace, name, command=command, timeout_seconds=seconds)


@pytest.fixture
def lab(tmp_path: Path, environment: Image) -> Iterator[Lab]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "support"))
    import fleetlab

    engine = fleetlab.guest_engine_at(tmp_path / "state")
    # One that keeps nothing of what a command says: it is the node's memory that is looked at.
    call: Callable[[], Any] = lambda: Call(engine, engine.settings)  # noqa: E731
    for name in ("bad", "good"):
        given = {"environment": "debian:12", "name": name, "mem_mib": 256, "scratch_mib": 64}
        workspace.create_workspace.answer(call(), given)
    yield Lab(engine, call)
    for name in ("bad", "good"):
        workspace.delete_workspace.answer(call(), {"workspace_id": name})
    assert list(fleetlab.processes_of(tmp_path / "state")) == []
    engine.close()


def resident() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("what", TAKING_ALL)
def test_one_that_takes_all_is_ended_in_time_and_its_neighbour_goes_on(lab: Lab, what: str) -> None:
    lab.sh("bad", "echo mine > mine; sync")
    lab.sh("good", "true")
    before = resident()
    told: list[Any] = []

    def take() -> None:
        try:
            told.append(lab.sh("bad", TAKING_ALL[what], TIMEOUT_SECONDS))
        except MachineFailed as error:
            told.append(error)

    begun = time.monotonic()
    taking = threading.Thread(target=take)
    taking.start()
    spans = []
    while taking.is_alive():
        asked = time.monotonic()
        assert lab.sh("good", "echo here")["stdout"] == "here\n"
        spans.append(time.monotonic() - asked)
    assert time.monotonic() - begun < TIMEOUT_SECONDS + LATE_SECONDS
    if isinstance(told[0], MachineFailed):
        # On a busy host it has left its agent no time to end it.
        assert "stopped answering" in told[0].message
        lab.do(workspace.stop_workspace, "bad")
        lab.do(workspace.start_workspace, "bad")
    else:
        assert (told[0]["exit_code"], told[0]["timed_out"]) == (124, True)
    assert statistics.median(spans) < NEIGHBOURS_SECONDS
    assert resident() - before < NODE_BYTES
    assert lab.sh("bad", "cat mine; ps ax 2>/dev/null | grep -c bomb")["stdout"].startswith("mine\n")
    kept = sum(path.stat().st_size for path in lab.engine.settings.state_dir.glob("workspaces/*/journal/*/*"))
    assert kept < NODE_BYTES


def test_a_disk_in_the_disguise_of_another_format_is_read_as_it_is(lab: Lab, tmp_path: Path) -> None:
    """The first kilobyte of ext4 is free. Read as QCOW2, the disk would show a file of this host."""
    secret = tmp_path / "secret"
    secret.write_text("of the host alone\n" * 100)
    backing = str(secret).encode()
    header = struct.pack(">4sIQIIQ", b"QFI\xfb", 2, 72, len(backing), 16, 64 << 20).ljust(72, b"\0") + backing
    octal = "".join(f"\\{byte:03o}" for byte in header)
    lab.sh("bad", "echo mine > mine; sync")
    disguised = lab.sh(
        "bad",
        "for d in /sys/block/vd*; do n=/dev/${d##*/}; [ -e $n ] || mknod $n b $(tr : ' ' < $d/dev);"
        f" [ $(cat $d/ro) = 0 ] && printf '{octal}' | dd of=$n conv=notrunc,fsync 2>/dev/null && echo $n; done; true",
    )
    assert disguised["stdout"].strip()
    lab.do(workspace.stop_workspace, "bad")
    (scratch,) = lab.engine.fleet.directory(lab.engine.registry.find("bad").machine_id).glob("scratch*")
    with scratch.open("rb") as file:
        assert file.read(len(header)) == header
    assert lab.do(disk.read_workspace_disk, "bad", path="mine")["content"] == "mine\n"
    lab.do(workspace.start_workspace, "bad")
    assert lab.sh("bad", "cat mine")["stdout"] == "mine\n"
