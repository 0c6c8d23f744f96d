"""Environment: one workspace as Harbor sees it: a shell, files in and out, and a network policy.

Everything goes through commands in the guest. Archives of the guest are unpacked on this computer by Harbor's own
extraction, which keeps them inside of their target.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import itertools
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO, Any, override

from harbor.environments.base import BaseEnvironment, ExecResult, OutputCallback, OutputStream
from harbor.environments.capabilities import EnvironmentCapabilities, EnvironmentResourceCapabilities
from harbor.environments.definition import COMPOSE_FILE_NAME, DOCKERFILE_NAME
from harbor.environments.options import EnvironmentOptions
from harbor.environments.tar_transfer import extract_dir, pack_dir, tar_pack_succeeded
from harbor.models.task.config import NetworkAllowlistEntryType, NetworkMode, classify_network_allowlist_entry

from pyro_mcp import AsyncPyro, NotFound, WorkspaceExec

ROOT = "/workspace"
IN_MEMORY_BYTES = 16 * 1024 * 1024
TRANSFER_BYTES = 16 * 1024**3
MAX_SECONDS = 86_400
PIECE = 1024 * 1024
NAMES = (NetworkAllowlistEntryType.HOSTNAME, NetworkAllowlistEntryType.WILDCARD_HOSTNAME)


class PyroOptions(EnvironmentOptions):
    """What `--environment-kwarg` takes."""

    environment: str | None = None
    ttl_seconds: int = 86_400
    state_dir: Path | None = None
    cache_dir: Path | None = None


class PyroEnvironment(BaseEnvironment):
    """A trial's workspace."""

    options_model = PyroOptions
    options: PyroOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._workspace_id: str | None = None
        if self._host_mounts:
            targets = ", ".join(str(mount["target"]) for mount in self._host_mounts)
            raise ValueError(f"cannot mount {targets}: a pyro machine sees nothing of this computer")

    @staticmethod
    @override
    def type() -> str:
        return "pyro"

    @property
    @override
    def capabilities(self) -> EnvironmentCapabilities:
        return EnvironmentCapabilities(
            disable_internet=True,
            network_allowlist=True,
            network_allowlist_hostnames=True,
            network_allowlist_wildcard_hostnames=True,
            network_allowlist_ipv4_addresses=True,
            network_allowlist_ipv4_cidrs=True,
            network_allowlist_ipv6_addresses=True,
            network_allowlist_ipv6_cidrs=True,
        )

    @classmethod
    @override
    def resource_capabilities(cls) -> EnvironmentResourceCapabilities:
        return EnvironmentResourceCapabilities(cpu_limit=True, cpu_request=True, memory_limit=True, memory_request=True)

    @override
    def _validate_definition(self) -> None:
        if (self.environment_dir / COMPOSE_FILE_NAME).exists() or self.extra_docker_compose_paths:
            raise ValueError("cannot run Docker Compose in a pyro machine: take a task of one container")
        if self.options.environment:
            return
        if (self.environment_dir / DOCKERFILE_NAME).exists():
            raise ValueError(
                "cannot build a Dockerfile: name an environment of pyro to take instead, with "
                "--environment-kwarg environment=debian:12"
            )
        if not self.task_env_config.docker_image:
            raise ValueError('cannot choose an environment: write docker_image = "debian:12" into task.toml')

    @override
    async def start(self, force_build: bool) -> None:
        environment = self.options.environment or str(self.task_env_config.docker_image)
        policy, hosts, addresses = self._policy()
        cpus, memory, storage = self._effective_cpus, self._effective_memory_mb, self._effective_storage_mb
        async with self._pyro() as pyro:
            made = await pyro.create_workspace(
                environment=environment,
                network_policy=policy,
                allow_hosts=hosts,
                allow_addresses=addresses,
                vcpu_count=int(cpus or 1),
                mem_mib=memory or 1024,
                scratch_mib=storage or 8192,
                ttl_seconds=self.options.ttl_seconds,
                labels={"harbor": self.session_id[-60:]},
            )
        self._workspace_id = made.workspace_id
        try:
            if self.task_env_config.workdir:
                await self._checked("make the work directory", "mkdir", "-p", "--", self.task_env_config.workdir)
            await self.ensure_dirs(self._mount_targets(writable_only=True))
            await self._upload_environment_dir_after_start()
        except BaseException:
            with contextlib.suppress(NotFound):
                await asyncio.shield(self.stop(delete=True))
            raise

    @override
    async def stop(self, delete: bool) -> None:
        if self._workspace_id is None:
            return
        async with self._pyro() as pyro:
            with contextlib.suppress(NotFound):
                if delete:
                    await pyro.delete_workspace(self._workspace_id)
                else:
                    await pyro.stop_workspace(self._workspace_id)
                    self.logger.info(f"Kept the workspace {self._workspace_id}")
        self._workspace_id = None

    @override
    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        directory = cwd or self.task_env_config.workdir or ROOT
        variables = [f"{name}={value}" for name, value in (self._merge_env(env) or {}).items()]
        words = ["env", "-C", directory, *variables, *_as_user(self._resolve_user(user)), "bash", "-c", command]
        async with _relay(self._output_callback()) as on_output:
            result = await self._run(words, on_output, timeout_sec=timeout_sec)
        if result.timed_out:
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds")
        return ExecResult(stdout=result.stdout, stderr=result.stderr, return_code=_exit_code(result))

    @override
    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        with Path(source_path).open("rb") as source:
            script = 'mkdir -p -- "$(dirname -- "$1")" && cat > "$1" && chmod "$2" "$1"'
            mode = f"{Path(source_path).stat().st_mode & 0o777:o}"
            await self._checked(f"upload {target_path}", "sh", "-c", script, "sh", target_path, mode, data=source)

    @override
    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as archive:
            await asyncio.to_thread(pack_dir, source_dir, archive, compress=False)
            archive.seek(0)
            script = 'mkdir -p -- "$1" && tar -C "$1" --no-same-owner -xf -'
            await self._checked(f"upload {target_dir}", "sh", "-c", script, "sh", target_dir, data=archive)

    @override
    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        target = Path(target_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        try:
            with part.open("wb") as file:
                result = await self._fetch(file, "cat", "--", source_path)
            if result.exit_code != 0:
                raise RuntimeError(f"cannot download {source_path}: {result.stderr.strip()}")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    @override
    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as archive:
            result = await self._fetch(archive, "tar", "-C", source_dir, "-cf", "-", ".")
            if not tar_pack_succeeded(result.exit_code, stderr=result.stderr, logger=self.logger):
                raise RuntimeError(f"cannot download {source_dir}: {result.stderr.strip()}")
            archive.seek(0)
            try:
                refused = await asyncio.to_thread(extract_dir, archive, target_dir)
            except tarfile.TarError as error:
                raise RuntimeError(f"cannot download {source_dir}: what came is no archive: {error}") from error
            for why in refused:
                self.logger.warning(f"Left out of {source_dir}: {why}")

    def _policy(self) -> tuple[Any, list[str] | None, list[str] | None]:
        """The task's network policy in pyro's words: the policy, allowed names, allowed addresses."""
        policy = self._network_policy
        if policy.network_mode == NetworkMode.NO_NETWORK:
            return "off", None, None
        if policy.network_mode == NetworkMode.PUBLIC:
            return "egress", None, None
        kinds = {entry: classify_network_allowlist_entry(entry) for entry in policy.allowed_hosts}
        names = [entry for entry, kind in kinds.items() if kind in NAMES]
        return "egress", names, [entry for entry in kinds if entry not in names]

    def _pyro(self, on_output: Callable[[int, bytes], None] | None = None) -> AsyncPyro:
        return AsyncPyro(state_dir=self.options.state_dir, cache_dir=self.options.cache_dir, on_output=on_output)

    async def _run(
        self,
        words: list[str],
        on_output: Callable[[int, bytes], None] | None = None,
        *,
        data: IO[bytes] | None = None,
        timeout_sec: int | None = None,
    ) -> WorkspaceExec:
        if self._workspace_id is None:
            raise RuntimeError("cannot reach the pyro machine: it has not been started, or is stopped")
        seconds = min(MAX_SECONDS, max(1, timeout_sec or MAX_SECONDS))
        async with self._pyro(on_output) as pyro:
            return await pyro.exec_workspace(
                self._workspace_id, command=words, timeout_seconds=seconds, stdin=_pieces(data) if data else None
            )

    async def _checked(self, what: str, *words: str, data: IO[bytes] | None = None) -> None:
        """Run a command that has to succeed."""
        result = await self._run(list(words), data=data)
        if result.exit_code != 0:
            raise RuntimeError(f"cannot {what}: {result.stderr.strip() or f'exit code {result.exit_code}'}")

    async def _fetch(self, file: IO[bytes], *words: str) -> WorkspaceExec:
        """Run a command, with its output in `file`, byte by byte. Raises `RuntimeError` when that is too much."""
        left = TRANSFER_BYTES

        def keep(tag: int, piece: bytes) -> None:
            nonlocal left
            if tag == 1:
                left -= len(piece)
                if left < 0:
                    raise RuntimeError(f"cannot download it: it has more than {TRANSFER_BYTES} bytes")
                file.write(piece)

        return await self._run(list(words), keep)


def _as_user(user: str | int | None) -> list[str]:
    """The words that make a command another user's."""
    if user is None or str(user) in ("root", "0"):
        return []
    if str(user).isdigit():
        return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
    return ["runuser", "-u", str(user), "--"]


def _exit_code(result: WorkspaceExec) -> int:
    if result.exit_code is None:
        raise RuntimeError("cannot finish the command: it was lost with its machine")
    return result.exit_code


def _pieces(data: IO[bytes]) -> Iterator[bytes]:
    return itertools.takewhile(bool, (data.read(PIECE) for _ in itertools.count()))


@contextlib.asynccontextmanager
async def _relay(callback: OutputCallback | None) -> AsyncIterator[Callable[[int, bytes], None] | None]:
    """Passes output on to an async callback, in order; all has been passed on when the context ends."""
    if callback is None:
        yield None
        return
    queue: asyncio.Queue[tuple[str, OutputStream] | None] = asyncio.Queue()
    decoders = {tag: codecs.getincrementaldecoder("utf-8")("replace") for tag in (1, 2)}

    def put(tag: int, data: bytes, final: bool = False) -> None:
        if text := decoders[tag].decode(data, final):
            queue.put_nowait((text, "stdout" if tag == 1 else "stderr"))

    async def pass_on() -> None:
        while (piece := await queue.get()) is not None:
            await callback(*piece)

    task = asyncio.create_task(pass_on())
    try:
        yield put
        for tag in (1, 2):
            put(tag, b"", final=True)
        queue.put_nowait(None)
        await task
    finally:
        task.cancel()
