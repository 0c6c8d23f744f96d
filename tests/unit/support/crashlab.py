"""One operation on a workspace in a process of its own, stopped at its N-th effect, over and over in one place.

`python crashlab.py HOME OPERATION N {kill|ENOSPC|EIO} {host|guest}`: a node comes to what its predecessor left,
settles, proves that all is whole (`World.check`), and does OPERATION, which breaks at the N-th effect. It prints one
JSON line: `step` (null when there was no N-th), `outcome`, `done` or an error's code, and that error's `hint`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import effects
import fleetlab
from fleetlab import CallRecorder, processes_of

from pyro_mcp.api import disk, export, patch, snapshot, sync, workspace
from pyro_mcp.api import exec as workspace_exec
from pyro_mcp.api import file as files
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import PyroError
from pyro_mcp.node.adopt import reconcile

SETTLED_SECONDS = 10.0
KEPT = "kept by the command that was acknowledged first"
STATE_NAMES = {"pyro.db", "pyro.db-wal", "pyro.reserve", "machines", "workspaces", "outgoing", "cache"}
INSIDE = {"seed", "seed.ext4", "journal", "snapshots", "secrets"}
NAMES = ("a", "b", "deep/c")
SIZE: dict[str, Any] = {"environment": "debian:12", "mem_mib": 256, "scratch_mib": 64, "secrets": {"TOKEN": "canary"}}


class World:
    """A state directory with a workspace `w`, a place on the host, and notes of what was tried and acknowledged."""

    def __init__(self, home: Path, *, guest: bool, faults: effects.Effects) -> None:
        self.state, self.place, self._notes = home / "state", home / "place", home / "notes.json"
        self.place.mkdir(parents=True, exist_ok=True)
        make = fleetlab.guest_engine_at if guest else fleetlab.engine_at
        self.engine: Engine = make(self.state, faults=faults.faults)
        self.guest = guest
        faults.trace(self.engine.database)
        reconcile(self.engine)
        self.call = CallRecorder(self.engine).call
        self.notes: dict[str, Any] = json.loads(self._notes.read_text()) if self._notes.exists() else {}

    def write_down(self, **values: Any) -> None:
        self.notes |= values
        self._notes.write_text(json.dumps(self.notes))

    def do(self, operation: Any, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = operation.answer(self.call, params)
        return answer

    def sh(self, command: str) -> str:
        done = self.do(workspace_exec.exec_workspace, workspace_id="w", command=command)
        assert done["exit_code"] == 0, done
        return str(done["stdout"])

    @property
    def there(self) -> bool:
        return any(row.name == "w" for row in self.engine.registry.rows())

    # -- what is tried

    def seed(self, text: str) -> Path:
        """A tree on the host of which every file says `text`."""
        tree = self.place.parent / "tree"
        (tree / "deep").mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            (tree / name).write_text(f"{text}\n")
        if not (tree / "link").is_symlink():
            (tree / "link").symlink_to("a")
        return tree

    def create(self) -> None:
        options = {**SIZE, "allow_host_compat": not self.guest, "seed_path": str(self.seed("seed"))}
        self.do(workspace.create_workspace, name="w", **options)

    def furnish(self) -> None:
        """The workspace, up, with what every later check expects of it."""
        if not self.notes.get("furnished"):
            if self.there:
                self.do(workspace.delete_workspace, workspace_id="w")
            self.create()
            self.sh(f"printf %s {KEPT!r} > kept; mkdir in; cp -a a b deep link in/")
            self.do(snapshot.create_snapshot, workspace_id="w", snapshot_name="first")
            self.write_down(furnished=True, acked="seed", tried="seed", resets=0)
        self.do(workspace.start_workspace, workspace_id="w")

    def push(self, text: str) -> None:
        self.do(sync.push_workspace_sync, workspace_id="w", source_path=str(self.seed(text)), dest="in")

    def patch(self, text: str) -> None:
        old = self.sh("cat in/a").strip()
        hunks = [f"--- a/in/{name}\n+++ b/in/{name}\n@@ -1 +1 @@\n-{old}\n+{text}\n" for name in NAMES]
        self.do(patch.apply_workspace_patch, workspace_id="w", patch="".join(hunks))

    def write(self, text: str) -> None:
        self.do(files.write_workspace_file, workspace_id="w", path="written", text=text)

    # -- what must hold

    def check(self) -> None:
        """Whole or absent, everything acknowledged there, nothing left over."""
        assert self.engine.database.check() == "ok"
        self._check_places()
        if self.notes.get("furnished"):
            assert self.there, "an acknowledged workspace is gone"
        if self.there and self.notes.get("furnished"):
            self._check_content()
        for name in ("out", "file", "disk"):
            self._check_output(self.place / name)

    def _check_places(self) -> None:
        rows = {row.workspace_id for row in self.engine.registry.rows()}
        machines = {row.machine_id for row in self.engine.fleet.rows()}
        assert {path.name for path in self.state.iterdir()} <= STATE_NAMES, list(self.state.iterdir())
        assert {path.name for path in self.state.glob("workspaces/*")} == rows
        assert {path.name for path in self.state.glob("machines/*")} == machines
        assert len(machines) == len(rows)
        assert list(self.state.glob("outgoing/*")) == []
        for home in self.state.glob("workspaces/*"):
            assert {path.name for path in home.iterdir()} <= INSIDE, list(home.iterdir())
        assert [path for path in self.place.iterdir() if path.name.startswith(".")] == []
        assert str(self.state) not in Path("/proc/mounts").read_text()
        alive = {seen.pid for seen in self.engine.fleet.list_processes() if seen.pid}
        assert set(processes_of(self.state)) - {os.getpid()} == alive, [
            Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(self.state)
        ]

    def _check_content(self) -> None:
        status = self.do(workspace.status_workspace, workspace_id="w")
        assert status["state"] in ("started", "stopped")
        assert status["reset_count"] in (self.notes["resets"], self.notes["resets"] + 1)
        self.write_down(resets=status["reset_count"])
        listed = {row["snapshot_name"] for row in self.do(snapshot.list_snapshots, workspace_id="w")["snapshots"]}
        assert {"baseline", "first", *self.notes.get("snapshots", [])} <= listed, listed
        row = self.engine.registry.find("w")
        for kept in self.engine.snapshots._table.list(row.workspace_id):
            self.engine.snapshots._verify(kept)
        found = {path.name for path in (self.engine.registry.directory(row.workspace_id) / "snapshots").iterdir()}
        assert found == {kept.file for kept in self.engine.snapshots._table.list(row.workspace_id)}
        self.do(workspace.start_workspace, workspace_id="w")
        assert self.sh("cat kept") == KEPT
        self._check_together({self.notes["acked"], self.notes["tried"]})

    def _check_together(self, allowed: set[str]) -> None:
        """The files that change together say the same. The agent may still be at what its lost client had begun."""
        deadline = time.monotonic() + SETTLED_SECONDS
        while True:
            said = set(self.sh("cd in && cat a b deep/c").split())
            left = [name for name in self.sh("ls -a . in").split() if name.startswith(".pyro")]
            if (len(said) == 1 and said <= allowed and not left) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        assert len(said) == 1, said
        assert said <= allowed, (said, allowed)
        assert left == []
        self.write_down(acked=said.pop())

    def _check_output(self, output: Path) -> None:
        if output.is_dir():
            said = {(output / name).read_text().strip() for name in NAMES}
            assert len(said) == 1, said
            assert os.readlink(output / "link") == "a"
        elif output.exists() and output.name == "file":
            assert output.read_text() == KEPT
        elif output.exists():
            assert output.stat().st_size == SIZE["scratch_mib"] << 20


def _with(verb: Callable[[World, str], None]) -> Callable[[World], Callable[[], None]]:
    """A change of the files in `in`, to a text that was never there before."""

    def prepare(world: World) -> Callable[[], None]:
        world.furnish()
        text = f"text-{time.time_ns()}"
        world.write_down(tried=text)

        def change() -> None:
            verb(world, text)
            world.write_down(acked=text)

        return change

    return prepare


def _create(world: World) -> Callable[[], None]:
    if world.there:
        world.do(workspace.delete_workspace, workspace_id="w")
    world.seed("seed")
    return world.create


def _delete(world: World) -> Callable[[], None]:
    world.furnish()
    world.write_down(furnished=False)
    return lambda: (world.do(workspace.delete_workspace, workspace_id="w"), None)[1]


def _snapshot(world: World) -> Callable[[], None]:
    world.furnish()
    for old in world.do(snapshot.list_snapshots, workspace_id="w")["snapshots"]:
        if old["snapshot_name"].startswith("s-"):
            world.write_down(snapshots=[])
            world.do(snapshot.delete_snapshot, workspace_id="w", snapshot_name=old["snapshot_name"])
    name = f"s-{time.time_ns()}"

    def create() -> None:
        world.do(snapshot.create_snapshot, workspace_id="w", snapshot_name=name)
        world.write_down(snapshots=[name])

    return create


def _reset(world: World) -> Callable[[], None]:
    world.furnish()
    world.write_down(tried="seed")
    return lambda: (world.do(snapshot.reset_workspace, workspace_id="w", snapshot="first"), None)[1]


def _export(name: str, path: str) -> Callable[[World], Callable[[], None]]:
    def prepare(world: World) -> Callable[[], None]:
        world.furnish()
        _remove(world.place / name)
        target = str(world.place / name)
        return lambda: (world.do(export.export_workspace, workspace_id="w", path=path, output=target), None)[1]

    return prepare


def _export_disk(world: World) -> Callable[[], None]:
    world.furnish()
    world.do(workspace.stop_workspace, workspace_id="w")
    _remove(world.place / "disk")
    target = str(world.place / "disk")
    return lambda: (world.do(disk.export_workspace_disk, workspace_id="w", output=target), None)[1]


def _remove(output: Path) -> None:
    from pyro_mcp.trees.writer import remove_tree

    remove_tree(output) if output.is_dir() else output.unlink(missing_ok=True)


def _stop(world: World) -> Callable[[], None]:
    world.furnish()
    return lambda: (world.do(workspace.stop_workspace, workspace_id="w"), None)[1]


def _start(world: World) -> Callable[[], None]:
    world.furnish()
    world.do(workspace.stop_workspace, workspace_id="w")
    return lambda: (world.do(workspace.start_workspace, workspace_id="w"), None)[1]


OPERATIONS: dict[str, Callable[[World], Callable[[], None]]] = {
    "create": _create,
    "push": _with(World.push),
    "patch": _with(World.patch),
    "snapshot": _snapshot,
    "reset": _reset,
    "export": _export("out", "in"),
    "export-file": _export("file", "kept"),
    "export-disk": _export_disk,
    "stop": _stop,
    "start": _start,
    "delete": _delete,
}
"""Each makes the world ready and returns what is to be stopped on its way."""
OUTPUTS = {"export": "out", "export-file": "file", "export-disk": "disk"}


def main(argv: list[str]) -> int:
    home, name, number, mode, where = argv
    counted = effects.Effects(cast(effects.Mode, mode), ignore=(Path(home, "tree"), Path(home, "notes.json")))
    world = World(Path(home), guest=where == "guest", faults=counted)
    world.check()
    if name == "end":
        if world.there:
            world.do(workspace.delete_workspace, workspace_id="w")
        world.write_down(furnished=False)
        world.check()
        world.engine.close()
        return 0
    act = OPERATIONS[name](world)
    counted.arm(int(number))
    outcome, hint = "done", None
    try:
        act()
    except PyroError as error:
        outcome, hint = error.code, error.hint
    counted.disarm()
    assert outcome == "done" or not (world.place / OUTPUTS.get(name, "none")).exists(), "refused, and yet it is there"
    if mode != "EIO":
        # What could not be removed is the next node's.
        world.check()
    world.engine.close()
    print(json.dumps({"step": counted.step, "outcome": outcome, "hint": hint}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
