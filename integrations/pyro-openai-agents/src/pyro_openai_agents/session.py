"""Session: one workspace as the Agents SDK sees it: commands, files, and its content as an archive.

Files go through commands in the guest, as users of the sandbox see them, and paths are resolved there by the SDK's own
helper before anything is read or written. Archives are made and unpacked in the guest, never on this computer.
"""

from __future__ import annotations

import io
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

from agents.sandbox.errors import (
    ExecTimeoutError,
    ExecTransportError,
    ExposedPortUnavailableError,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
)
from agents.sandbox.session import BaseSandboxSession, SandboxSessionState
from agents.sandbox.session.runtime_helpers import RESOLVE_WORKSPACE_PATH_HELPER, RuntimeHelperScript
from agents.sandbox.session.workspace_payloads import coerce_write_payload
from agents.sandbox.types import ExecResult, ExposedPortEndpoint, User

from pyro_mcp import AsyncPyro, NotFound, PyroError, WorkspaceExec

EXEC_BYTES = 16 * 1024 * 1024
ARCHIVE_BYTES = 4 * 1024**3
IN_MEMORY_BYTES = 16 * 1024 * 1024
MAX_SECONDS = 86_400
PIECE = 1024 * 1024
PORTS_SERVICE = "exposed-ports"


@dataclass(frozen=True)
class Places:
    """Where pyro keeps things; None is its default."""

    state_dir: Path | None = None
    cache_dir: Path | None = None

    def pyro(self, on_output: Callable[[int, bytes], None] | None = None) -> AsyncPyro:
        """A connection, whose commands' output goes to `on_output`."""
        return AsyncPyro(state_dir=self.state_dir, cache_dir=self.cache_dir, on_output=on_output)


class PyroSandboxSessionState(SandboxSessionState):
    """What finds the workspace again, and what another is made like."""

    type: Literal["pyro"] = "pyro"
    workspace_id: str
    environment: str
    vcpu_count: int
    mem_mib: int
    ttl_seconds: int
    network_policy: Literal["off", "egress", "egress+published-ports"]
    allow_hosts: tuple[str, ...] | None = None


class Collected:
    """A command's output as it comes. Of more than `out_max` bytes, or `EXEC_BYTES` of errors, `whole` is False."""

    def __init__(self, out: IO[bytes], out_max: int) -> None:
        self.whole = True
        self.out = out
        self.err = io.BytesIO()
        self._left = {1: out_max, 2: EXEC_BYTES}

    def __call__(self, tag: int, data: bytes) -> None:
        self._left[tag] -= len(data)
        self.whole = self.whole and self._left[tag] >= 0
        if self.whole:
            (self.out if tag == 1 else self.err).write(data)

    @property
    def complaint(self) -> str:
        """What the command said of its failure."""
        return self.err.getvalue()[:4096].decode("utf-8", "replace")


class PyroSandboxSession(BaseSandboxSession):
    """Made by `PyroSandboxClient`."""

    state: PyroSandboxSessionState

    def __init__(self, state: PyroSandboxSessionState, places: Places) -> None:
        self.state = state
        self._places = places

    def supports_pty(self) -> bool:
        return False

    async def running(self) -> bool:
        try:
            async with self._places.pyro() as pyro:
                return (await pyro.status_workspace(self.state.workspace_id)).state == "started"
        except NotFound:
            return False

    async def read(self, path: Path, *, user: str | User | None = None) -> io.IOBase:
        workspace_path = await self._validate_path_access(path)
        command = self._prepare_exec_command("cat", "--", str(workspace_path), shell=False, user=user)
        exit_code, output = await self._fetch(command)
        if exit_code != 0:
            output.out.close()
            shown = ExecResult(stdout=b"", stderr=output.err.getvalue()[:4096], exit_code=exit_code)
            await self._raise_read_error_from_exec(
                path=path, workspace_path=workspace_path, command=command, result=shown, user=user
            )
        return self._whole(output, path)

    async def write(self, path: Path, data: io.IOBase, *, user: str | User | None = None) -> None:
        payload = coerce_write_payload(path=path, data=data)
        target = await self._validate_path_access(path, for_write=True)
        script = 'mkdir -p -- "$(dirname -- "$1")" && cat > "$1"'
        command = self._prepare_exec_command("sh", "-c", script, "sh", str(target), shell=False, user=user)
        await self._feed(command, payload.stream, path)

    async def persist_workspace(self) -> io.IOBase:
        root = self.state.manifest.root
        skipped = [f"--exclude=./{one.as_posix()}" for one in sorted(self._persist_workspace_skip_relpaths())]
        command = ["tar", "-C", root, "--anchored", "--no-wildcards", *skipped, "-cf", "-", "."]
        exit_code, output = await self._fetch(command)
        # 1: a file changed while it was read, which a live workspace may do.
        if exit_code not in (0, 1):
            output.out.close()
            raise WorkspaceArchiveReadError(path=Path(root), context={"reason": output.complaint})
        return self._whole(output, Path(root))

    async def hydrate_workspace(self, data: io.IOBase) -> None:
        root = self.state.manifest.root
        empty = 'mkdir -p -- "$1" && find "$1" -mindepth 1 -delete && tar -C "$1" --no-same-owner -xf -'
        await self._feed(["sh", "-c", empty, "sh", root], data, Path(root))

    async def _exec_internal(self, *command: str | Path, timeout: float | None = None) -> ExecResult:
        words = [str(word) for word in command]
        output = Collected(io.BytesIO(), EXEC_BYTES)
        exit_code, result = await self._run(words, output, timeout)
        if result.timed_out:
            raise ExecTimeoutError(command=command, timeout_s=timeout)
        output.out.seek(0)
        if output.whole:
            return ExecResult(stdout=output.out.read(), stderr=output.err.getvalue(), exit_code=exit_code)
        stdout, stderr = (text.encode("utf-8", "replace") for text in (result.stdout, result.stderr))
        return ExecResult(stdout=stdout, stderr=stderr, exit_code=exit_code)

    async def _resolve_exposed_port(self, port: int) -> ExposedPortEndpoint:
        async with self._places.pyro() as pyro:
            try:
                service = await pyro.status_service(self.state.workspace_id, PORTS_SERVICE)
            except PyroError as error:
                raise ExposedPortUnavailableError(
                    port=port, exposed_ports=self.state.exposed_ports, reason="backend_unavailable", cause=error
                ) from error
        published = next(one for one in service.published_ports if one.guest_port == port)
        return ExposedPortEndpoint(host=published.host, port=published.host_port, tls=False)

    async def _validate_path_access(self, path: Path | str, *, for_write: bool = False) -> Path:
        return await self._validate_remote_path_access(path, for_write=for_write)

    def _runtime_helpers(self) -> tuple[RuntimeHelperScript, ...]:
        return (RESOLVE_WORKSPACE_PATH_HELPER,)

    def _current_runtime_helper_cache_key(self) -> object:
        return self.state.workspace_id

    def _prepare_exec_command(
        self, *command: str | Path, shell: bool | list[str], user: str | User | None
    ) -> list[str]:
        words = super()._prepare_exec_command(*command, shell=shell, user=None)
        name = user.name if isinstance(user, User) else user
        return ["runuser", "-u", name, "--", *words] if name else words

    async def _ensure_backend_started(self) -> None:
        async with self._places.pyro() as pyro:
            workspace = await pyro.start_workspace(self.state.workspace_id)
            ports: list[int | str] = list(self.state.exposed_ports)
            if ports and PORTS_SERVICE not in {
                one.service_name
                for one in (await pyro.list_services(workspace.workspace_id)).services
                if one.state in ("running", "ready", "starting")
            }:
                # A published port belongs to a service; this one lives as long as the machine and does nothing.
                await pyro.start_service(
                    workspace.workspace_id, PORTS_SERVICE, command=["sleep", "infinity"], published_ports=ports
                )

    async def _shutdown_backend(self) -> None:
        try:
            async with self._places.pyro() as pyro:
                await pyro.stop_workspace(self.state.workspace_id)
        except NotFound:
            pass

    async def _feed(self, command: list[str], data: io.IOBase, path: Path) -> None:
        """Run `command` with `data` as its input. Raises `WorkspaceArchiveWriteError` when it fails."""
        output = Collected(io.BytesIO(), EXEC_BYTES)
        exit_code, _ = await self._run(command, output, None, pieces(data))
        if exit_code != 0:
            context = {"exit_code": exit_code, "reason": output.complaint}
            raise WorkspaceArchiveWriteError(path=path, context=context)

    async def _fetch(self, command: list[str]) -> tuple[int, Collected]:
        """The exit code of `command`, with output that may be large; whoever takes it closes it."""
        output = Collected(tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES), ARCHIVE_BYTES)  # noqa: SIM115
        try:
            return (await self._run(command, output, None))[0], output
        except BaseException:
            output.out.close()
            raise

    @staticmethod
    def _whole(output: Collected, path: Path) -> io.IOBase:
        if not output.whole:
            output.out.close()
            raise WorkspaceArchiveReadError(path=path, context={"reason": f"it has more than {ARCHIVE_BYTES} bytes"})
        output.out.seek(0)
        return cast("io.IOBase", output.out)

    async def _run(
        self, command: list[str], output: Collected, timeout: float | None, stdin: Iterator[bytes] | None = None
    ) -> tuple[int, WorkspaceExec]:
        """Run `command`; `output` gets what it says. Raises `ExecTransportError` when it cannot be run."""
        seconds = MAX_SECONDS if timeout is None else min(MAX_SECONDS, max(1, math.ceil(timeout)))
        variables = [f"{name}={value}" for name, value in (await self.state.manifest.environment.resolve()).items()]
        words = ["env", *variables, *command] if variables else command
        try:
            async with self._places.pyro(output) as pyro:
                result = await pyro.exec_workspace(
                    self.state.workspace_id, command=words, timeout_seconds=seconds, stdin=stdin
                )
        except PyroError as error:
            raise ExecTransportError(
                command=command, cause=error, message=str(error), retryable=error.retryable
            ) from error
        if result.exit_code is None:
            raise ExecTransportError(command=command, message="the command was lost with its machine")
        return result.exit_code, result


def pieces(data: io.IOBase) -> Iterator[bytes]:
    """What `data` holds. The first piece is read at once, so that what is no stream of bytes is found here."""
    first = data.read(PIECE)
    if not isinstance(first, bytes):
        raise TypeError(f"a stream of bytes is wanted, not of {type(first).__name__}")
    return itertools.chain([first], iter(lambda: data.read(PIECE), b""))
