"""A command that goes on by itself, through nodes that are killed at every step of its output and its end."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path

import joblab
import pytest
from fleetlab import CallRecorder, engine_at, processes_of

from pyro_mcp.engine.commands import journal, ring
from pyro_mcp.engine.engine import Engine
from pyro_mcp.engine.secrets.redact import Masks
from pyro_mcp.node.adopt import reconcile
from pyro_mcp.store.commands import CommandTable

MASKS = Masks.of([joblab.SECRET.encode()])


def noise(dice: random.Random, size: int) -> bytes:
    """Bytes full of the secret, of beginnings of it and of it upon itself."""
    secret, found = joblab.SECRET.encode(), bytearray()
    while len(found) < size:
        cut = dice.randrange(1, len(secret))
        found += dice.choice([secret, secret[:cut], secret[:cut] + secret, dice.randbytes(dice.choice([0, 1, 2, 30]))])
    return bytes(found)


def workspace_of(engine: Engine) -> str:
    return engine.registry.find("w").workspace_id


def journalled(raw: bytes) -> tuple[bytes, int]:
    """What the journal is to hold of a stream, and how many bytes it drops."""
    told = MASKS.data(raw)
    dropped = max(0, len(told) - joblab.HEAD_BYTES - joblab.TAIL_BYTES)
    if not dropped:
        return told, 0
    line = f"\n[pyro: {dropped} bytes dropped here]\n".encode()
    return told[: joblab.HEAD_BYTES] + line + told[-joblab.TAIL_BYTES :], dropped


@pytest.fixture(autouse=True)
def small_journals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "HEAD_BYTES", joblab.HEAD_BYTES)
    monkeypatch.setattr(ring, "TAIL_BYTES", joblab.TAIL_BYTES)


@pytest.fixture
def next_node(tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Makes the node that comes after all that have died. At the end it leaves nothing."""
    engines: list[Engine] = []

    def make() -> Engine:
        engines.append(engine_at(tmp_path))
        reconcile(engines[-1])
        return engines[-1]

    yield make
    engine = engines[-1] if engines else make()
    for row in engine.registry.rows():
        engine.lifecycle.delete(row.workspace_id)
    engine.close()
    assert list(processes_of(tmp_path)) == []


def one_node(state_dir: Path, number: int, *steps: str) -> str:
    argv = [sys.executable, joblab.__file__, str(state_dir), str(number), *steps]
    child = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    name = child.stdout.strip().splitlines()[-1]
    assert child.returncode == (0 if name == "done" else -signal.SIGKILL), child.stderr
    return name


@pytest.mark.parametrize("seed", range(2))
def test_its_journal_is_whole_whenever_its_nodes_die(
    tmp_path: Path, seed: int, next_node: Callable[[], Engine]
) -> None:
    dice = random.Random(seed)
    raw = {"out": noise(dice, 2_000_000), "err": noise(dice, 300_000)}
    (tmp_path / "in").mkdir()
    for name, data in raw.items():
        (tmp_path / "in" / name).write_bytes(data)
    deaths = []
    numbers = chain([1, 2, 2, 1], (dice.choice([1, 3, 4, 10, 25]) for _ in count()))
    while (name := one_node(tmp_path, next(numbers))) != "done":
        deaths.append(name)
        if name == "outcome recorded":
            break
    assert {"output journalled", "output marked"} <= set(deaths)
    engine = next_node()
    assert engine.commands.running(workspace_of(engine)) == 0
    row = CommandTable(engine.database).get(workspace_of(engine), 0, 1)
    assert row is not None
    assert (row.state, row.exit_code, row.timed_out) == ("finished", 7, False)
    home = next(tmp_path.glob("workspaces/*/journal/0"))
    assert sorted(path.name for path in home.iterdir()) == ["1.err", "1.out"]
    for name, dropped in (("out", row.stdout_dropped), ("err", row.stderr_dropped)):
        assert ((home / f"1.{name}").read_bytes(), dropped) == journalled(raw[name])


@pytest.mark.parametrize("step", ["command ran", "journal finished", "outcome recorded"])
def test_its_end_is_recorded_whenever_its_node_dies(tmp_path: Path, step: str, next_node: Callable[[], Engine]) -> None:
    raw = {"out": noise(random.Random(step), 1_500_000), "err": b"err\n"}
    (tmp_path / "in").mkdir()
    for name, data in raw.items():
        (tmp_path / "in" / name).write_bytes(data)
    assert one_node(tmp_path, 5) in ("output journalled", "output marked")
    assert one_node(tmp_path, 1, step) == step
    engine = next_node()
    joblab.finish(engine)
    logs = engine.commands.logs(
        CallRecorder(engine).call, "w", sequence=1, cursor="0:0", wait_seconds=None, end=False, limit=1
    )
    assert (logs.entries[0].state, logs.entries[0].exit_code, logs.entries[0].stderr) == ("finished", 7, "err\n")
    (out,) = tmp_path.glob("workspaces/*/journal/0/1.out")
    assert out.read_bytes() == journalled(raw["out"])[0]


def kept_of_tail(state_dir: Path) -> int:
    """How many bytes of the first command's output behind its head are in its journal."""
    tails = [path.read_bytes() for path in state_dir.glob("workspaces/*/journal/0/1.out.tail")]
    return int.from_bytes(tails[0][8:16], "little") if tails else 0


def test_a_command_whose_machine_died_too_is_lost_with_what_it_had_said(
    tmp_path: Path, next_node: Callable[[], Engine]
) -> None:
    engine = next_node()
    options = {"mem_mib": 128, "allow_host_compat": True}
    joblab.create_workspace.function(CallRecorder(engine).call, environment="debian:12", name="w", **options)
    said = engine.commands.exec(
        CallRecorder(engine).call,
        "w",
        command="head -c 3000000 /dev/zero | tr '\\0' x; echo end; sleep 300",
        timeout_seconds=60,
        wait_seconds=0,
        stdin=None,
    )
    assert said.state == "running"
    deadline = time.monotonic() + 60
    while kept_of_tail(tmp_path) < 3_000_004 - joblab.HEAD_BYTES:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    machine = engine.fleet.live(engine.registry.find("w").machine_id)
    engine.close()
    machine.terminate()
    engine = next_node()
    (entry,) = engine.commands.logs(
        CallRecorder(engine).call, "w", sequence=1, cursor=None, wait_seconds=None, end=False, limit=1
    ).entries
    assert (entry.state, entry.exit_code, entry.stdout[-5:]) == ("lost", None, "xend\n")
    assert "ended while no node watched it" in (entry.reason or "")
    row = CommandTable(engine.database).get(workspace_of(engine), 0, 1)
    assert row is not None
    assert row.stdout_dropped == 3_000_004 - joblab.HEAD_BYTES - joblab.TAIL_BYTES
