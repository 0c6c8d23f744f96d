"""Session: a workspace in its running machine, from its id or name.

A machine that has died by itself is started again on the way; one that was stopped is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyro_mcp.engine.agent import AgentClient
from pyro_mcp.engine.faults import Faults
from pyro_mcp.engine.fleet.fleet import BootSpec, Fleet
from pyro_mcp.engine.fleet.provision import Provisioner
from pyro_mcp.engine.registry import Registry
from pyro_mcp.engine.secrets.redact import Masks
from pyro_mcp.engine.secrets.store import SecretManager
from pyro_mcp.engine.seed import IMAGE, seed_of
from pyro_mcp.engine.staging import ExportStaging
from pyro_mcp.errors import NotFound
from pyro_mcp.machines.driver import Machine, WorkspaceMount
from pyro_mcp.model.refusals import changed_meanwhile, not_started
from pyro_mcp.model.workspace import shown_state
from pyro_mcp.operations.call import Call
from pyro_mcp.store.machines import MachineRow
from pyro_mcp.store.workspaces import WorkspaceRow
from pyro_mcp.trees.work import Track


@dataclass(frozen=True)
class Session:
    """A workspace that can be worked in now. `note(kind, detail)` records what was done, for the summary; `track` is
    called with a directory of this host before anything is built in it; `masks` are those of its secrets; `seed` is the
    image of which the machine's overlay shows what was not changed, if there is one."""

    workspace_id: str
    machine: Machine
    note: Callable[[str, dict[str, Any]], None]
    track: Track = contextlib.nullcontext
    masks: Masks = field(default_factory=Masks)
    seed: Path | None = None

    @property
    def agent(self) -> AgentClient:
        """The way to ask the machine's agent."""
        return AgentClient(self.machine)

    @property
    def stamp(self) -> dict[str, Any]:
        """The fields that every result carries."""
        promised = self.machine.capabilities
        return {
            "workspace_id": self.workspace_id,
            "execution_mode": promised.execution_mode,
            "isolation": promised.isolation,
        }


class Sessions:
    """Opens sessions, and starts the machines behind them."""

    def __init__(
        self,
        registry: Registry,
        fleet: Fleet,
        provisioner: Provisioner,
        secrets: SecretManager,
        staging: ExportStaging,
        faults: Faults,
    ) -> None:
        self._registry = registry
        self._fleet = fleet
        self._provisioner = provisioner
        self._secrets = secrets
        self._staging = staging
        self._faults = faults

    def open(self, call: Call[Any], ref: str) -> Session:
        """The workspace `ref` in its machine. Raises `NotFound`, or `Conflict` when it does not run."""
        row = self._registry.find(ref)

        def note(kind: str, detail: dict[str, Any]) -> None:
            self._faults(f"{kind} done")
            self._registry.note(row.workspace_id, kind, detail, call.notice)
            self._faults(f"{kind} noted")

        machine, masks = self.machine(call, row), self._secrets.masks(row.workspace_id)
        image = self._registry.directory(row.workspace_id) / IMAGE
        seed = image if machine.capabilities.overlay and image.exists() else None
        return Session(row.workspace_id, machine, note, self._staging.tracked, masks, seed)

    def machine_row(self, row: WorkspaceRow) -> MachineRow:
        """The machine the workspace lives in. Raises `NotFound` when there is none any more."""
        return self._fleet.get(row.machine_id)

    def machine(self, call: Call[Any], row: WorkspaceRow) -> Machine:
        """The running machine of the workspace. One that has died by itself is started again, with a notice; one that
        was stopped is not: raises `Conflict`, as for one that was reset or deleted since `row` was read."""
        try:
            return self._running(call, row)
        except NotFound:
            now = self._registry.table.get(row.workspace_id)
            if now is not None and (now.state, now.machine_id) == ("ready", row.machine_id):
                # It is something else that is missing, such as the image it was made on.
                raise
            raise changed_meanwhile(f"use {row.workspace_id}") from None

    def start(self, call: Call[Any], ref: str) -> WorkspaceRow:
        """Start a stopped workspace on the disk it had; its row. One that runs is left as it is."""
        with self._registry.locked(ref) as row:
            machine = self.machine_row(row)
            if machine.state != "running":
                boot = self._provisioner.again(call, machine)
                call.progress("starting the machine", None)
                self._fleet.start(row.machine_id, self.with_mounts(row, boot), call.progress)
                self._faults("workspace started")
                self._registry.note(row.workspace_id, "started", {}, call.notice)
            return row

    def with_mounts(self, row: WorkspaceRow, boot: BootSpec, *, load: bool = False) -> BootSpec:
        """`boot` with this workspace's seed and its place in the guest."""
        return replace(boot, seed=seed_of(self._registry.directory(row.workspace_id)), workspace=WorkspaceMount(load))

    def _running(self, call: Call[Any], row: WorkspaceRow) -> Machine:
        machine = self.machine_row(row)
        if machine.state == "failed":
            call.notice(f"{row.workspace_id} had stopped ({machine.reason}); starting it again")
            self.start(call, row.workspace_id)
        elif machine.state != "running":
            handle = self._registry.handle(row)
            # Its disk can be looked into as it is, but for one that lives on this host, which has none.
            look = f"; until then <<list_workspace_disk({handle})>> (or read, or export) shows what is in it"
            raise not_started(
                row.workspace_id,
                shown_state(row.state, machine.state),
                f"start_workspace({handle})",
                meanwhile=look if machine.execution_mode == "guest" else "",
            )
        return self._fleet.live(row.machine_id)
