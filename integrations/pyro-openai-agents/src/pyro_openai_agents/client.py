"""Client: makes, resumes and deletes the sessions of the Agents SDK as workspaces."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import Any, Literal

from agents.sandbox.errors import MountConfigError
from agents.sandbox.manifest import Manifest
from agents.sandbox.session import Dependencies, Instrumentation, SandboxSession, SandboxSessionState
from agents.sandbox.session.sandbox_client import BaseSandboxClient, BaseSandboxClientOptions
from agents.sandbox.snapshot import SnapshotBase, SnapshotSpec, resolve_snapshot

from pyro_mcp import NotFound
from pyro_openai_agents.session import Places, PyroSandboxSession, PyroSandboxSessionState

ROOT = "/workspace"
NetworkPolicy = Literal["off", "egress", "egress+published-ports"]


class PyroSandboxClientOptions(BaseSandboxClientOptions):
    """What a session's machine is like. `exposed_ports` need the policy `egress+published-ports`."""

    type: Literal["pyro"] = "pyro"
    environment: str = "debian:12"
    vcpu_count: int = 1
    mem_mib: int = 1024
    ttl_seconds: int = 86_400
    network_policy: NetworkPolicy = "off"
    allow_hosts: tuple[str, ...] | None = None
    exposed_ports: tuple[int, ...] = ()


class PyroSandboxClient(BaseSandboxClient[PyroSandboxClientOptions]):
    """Sessions on this computer. `state_dir` and `cache_dir` are those of `pyro_mcp.Pyro`."""

    backend_id = "pyro"
    supports_default_options = True

    def __init__(
        self,
        *,
        state_dir: Path | None = None,
        cache_dir: Path | None = None,
        instrumentation: Instrumentation | None = None,
        dependencies: Dependencies | None = None,
    ) -> None:
        super().__init__()
        self._places = Places(state_dir, cache_dir)
        self._instrumentation = instrumentation or Instrumentation()
        self._dependencies = dependencies

    async def create(
        self,
        *,
        snapshot: SnapshotSpec | SnapshotBase | None = None,
        manifest: Manifest | None = None,
        options: PyroSandboxClientOptions | None = None,
    ) -> SandboxSession:
        options = options or PyroSandboxClientOptions()
        manifest = self._validate_manifest_for_create(manifest or Manifest())
        session_id = uuid.uuid4()
        state = PyroSandboxSessionState(
            session_id=session_id,
            manifest=manifest,
            snapshot=resolve_snapshot(snapshot, str(session_id)),
            workspace_id="",
            **options.model_dump(exclude={"type"}),
        )
        await self._create_workspace(state)
        return self._wrap_session(PyroSandboxSession(state, self._places), instrumentation=self._instrumentation)

    async def delete(self, session: SandboxSession) -> SandboxSession:
        inner = session._inner
        if not isinstance(inner, PyroSandboxSession):
            raise TypeError("PyroSandboxClient.delete takes a session that it has made")
        async with self._places.pyro() as pyro:
            with contextlib.suppress(NotFound):
                await pyro.delete_workspace(inner.state.workspace_id)
        return session

    async def resume(self, state: SandboxSessionState) -> SandboxSession:
        if not isinstance(state, PyroSandboxSessionState):
            raise TypeError("PyroSandboxClient.resume takes a PyroSandboxSessionState")
        state.assert_path_grants_rebound()
        self._validate_manifest_for_create(state.manifest)
        async with self._places.pyro() as pyro:
            try:
                # A stopped workspace has its files, but users were made in the machine, and that is another now.
                running = (await pyro.status_workspace(state.workspace_id)).state == "started"
                kept = True
            except NotFound:
                running = kept = False
        if not kept:
            state.workspace_root_ready = False
            await self._create_workspace(state)
        inner = PyroSandboxSession(state, self._places)
        inner._set_start_state_preserved(kept, system=running)
        return self._wrap_session(inner, instrumentation=self._instrumentation)

    def deserialize_session_state(self, payload: dict[str, Any]) -> SandboxSessionState:
        return self._deserialize_session_state_payload(payload, PyroSandboxSessionState)

    def _validate_manifest_for_create(self, manifest: Manifest) -> Manifest:
        """Refuse what a machine cannot have: another root, and anything of this computer."""
        super()._validate_manifest_for_create(manifest)
        if manifest.root != ROOT:
            raise ValueError(f"cannot use {manifest.root} as the root: a pyro workspace is {ROOT}")
        if any(True for _ in manifest.mount_targets()):
            raise MountConfigError(message="cannot mount into a pyro workspace: give files as entries", context={})
        if any(grant.host_path is not None for grant in manifest.extra_path_grants):
            raise MountConfigError(message="cannot grant host paths: a pyro machine sees none of them", context={})
        return manifest

    async def _create_workspace(self, state: PyroSandboxSessionState) -> None:
        async with self._places.pyro() as pyro:
            made = await pyro.create_workspace(
                environment=state.environment,
                vcpu_count=state.vcpu_count,
                mem_mib=state.mem_mib,
                ttl_seconds=state.ttl_seconds,
                network_policy=state.network_policy,
                allow_hosts=list(state.allow_hosts) if state.allow_hosts is not None else None,
                labels={"openai-agents": str(state.session_id)},
            )
        state.workspace_id = made.workspace_id
