"""Secrets: values that the commands of a workspace get by name, and that are shown nowhere else.

A value is kept as a file of mode 0600 in the workspace's own directory, outside the database, which holds the name and
where it came from. It reaches a machine's memory when a command first asks for it.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_mcp.engine.agent import AgentClient
from pyro_mcp.engine.registry import Registry
from pyro_mcp.engine.secrets.redact import Masks
from pyro_mcp.errors import InvalidArgument, NotFound, PermissionDenied, PyroError
from pyro_mcp.machines.driver import Machine
from pyro_mcp.model.count import count_of
from pyro_mcp.model.names import VARIABLE_RULE, check_variables, is_variable
from pyro_mcp.operations.call import Call
from pyro_mcp.store.database import Database
from pyro_mcp.store.secrets import SecretTable as Table
from pyro_mcp.system.atomic import disk_errors, sync_directory

MAX_SECRETS = 64
MIN_BYTES, MAX_BYTES = 4, 32 * 1024
PUT_SECONDS, PATIENCE_SECONDS = 20.0, 120.0


class Values:
    """Secrets that a new workspace shall have: checked, and not to be printed."""

    def __init__(self, literal: Mapping[str, str] | None, files: Mapping[str, str] | None) -> None:
        """Raises `InvalidArgument`, `NotFound` and `PermissionDenied`, none of which contains a value."""
        literal, files = literal or {}, files or {}
        if both := set(literal) & set(files):
            raise InvalidArgument(f"cannot make the secret {min(both)}: it is given as a value and as a file")
        if len(literal) + len(files) > MAX_SECRETS:
            raise InvalidArgument(
                f"cannot make {count_of(len(literal) + len(files), 'secret')}: at most {MAX_SECRETS} fit"
            )
        for name in (*literal, *files):
            _check_name("make", name)
        self.values = {name: _checked(name, _encoded(name, value)) for name, value in literal.items()}
        self.values |= {name: _checked(name, _read(name, Path(path))) for name, path in files.items()}
        self.kinds = [(name, "file" if name in files else "literal") for name in self.values]


class SecretManager:
    """The secrets of all workspaces."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._registry = registry
        self.table = Table(database)
        self._masks: dict[str, Masks] = {}
        self._delivered: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def keep(self, workspace_id: str, values: Values) -> None:
        """Keep the secrets of a workspace that is being made. Raises `DiskFull` and `PermissionDenied`."""
        if not values.values:
            return
        home = self._home(workspace_id)
        with disk_errors("keep the secrets"):
            home.mkdir(mode=0o700)
            for name, value in values.values.items():
                _store(home / name, value)
            sync_directory(home)
        self.table.insert(workspace_id, values.kinds)

    def requested(
        self,
        workspace_id: str,
        secret_env: Mapping[str, str] | Sequence[str] | None,
        env: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """Environment variable → name of the secret, as `secret_env` asks for. Raises `InvalidArgument`, also for a
        variable that `env` cannot set, or sets as well, and `NotFound`."""
        plain = check_variables(env)
        pairs = [_pair(one) for one in secret_env.items()] if isinstance(secret_env, Mapping) else []
        pairs = pairs or [_pair(one.partition("=")[::2]) for one in secret_env or ()]
        known = [name for name, _ in self.table.list(workspace_id)] if pairs else []
        requested: dict[str, str] = {}
        for name, variable in pairs:
            if name not in known:
                hint = f"It has: {', '.join(known)}" if known else "It has none; they are given when it is created"
                raise NotFound(f"cannot use the secret {name[:128]!r}: {workspace_id} has none of that name", hint=hint)
            if variable in requested:
                raise InvalidArgument(f"cannot set {variable}: two secrets are mapped to it")
            if variable in plain:
                raise InvalidArgument(
                    f"cannot set {variable}: it is a variable and a secret",
                    hint="Leave it out of <<exec_workspace.env>> or of <<exec_workspace.secret_env>>",
                )
            requested[variable] = name
        return requested

    def deliver(self, workspace_id: str, machine: Machine, names: Iterable[str]) -> None:
        """Put secrets into the machine's memory, each once. Raises `MachineFailed`."""
        with self._lock:
            done = self._delivered.setdefault(machine, set())
        for name in set(names) - done:
            try:
                _put(machine, name, self._value(workspace_id, name))
            except PyroError as error:
                raise self.masks(workspace_id).error(error) from None
            done.add(name)

    def masks(self, workspace_id: str) -> Masks:
        """What to mask in everything that comes out of the workspace."""
        masks = self._masks.get(workspace_id)
        if masks is None:
            names = [name for name, _ in self.table.list(workspace_id)]
            masks = Masks.of(self._value(workspace_id, name) for name in names)
            if names:
                self._masks[workspace_id] = masks
        return masks

    def forget(self, workspace_id: str) -> None:
        """The workspace is gone."""
        self._masks.pop(workspace_id, None)

    @contextmanager
    def hidden(self, ref: object) -> Iterator[Masks]:
        """While inside, errors about the workspace `ref`, if there is one, come out masked; the masks."""
        try:
            masks = self.masks(self._registry.find(ref).workspace_id) if isinstance(ref, str) else Masks()
        except PyroError:
            masks = Masks()
        try:
            yield masks
        except PyroError as error:
            if not masks:
                raise
            raise masks.error(error) from None

    def _value(self, workspace_id: str, name: str) -> bytes:
        path = self._home(workspace_id) / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise NotFound(
                f"cannot read the secret {name} of {workspace_id}: {error.strerror}",
                hint="It was removed from the state directory; create the workspace again",
            ) from None

    def _home(self, workspace_id: str) -> Path:
        return self._registry.directory(workspace_id) / "secrets"


def _check_name(verb: str, name: str) -> None:
    if not is_variable(name):
        raise InvalidArgument(
            f"cannot {verb} the secret {name[:128]!r}: a name is {VARIABLE_RULE}", hint=f"Call it {_allowed(name)}"
        )


def _allowed(name: str) -> str:
    """The nearest name that is one."""
    bare = re.sub(r"[^A-Za-z0-9_]", "_", name[:100])
    return bare if bare[:1].isalpha() or bare[:1] == "_" else f"_{bare}"


def _pair(pair: tuple[str, ...]) -> tuple[str, str]:
    name, variable = pair[0], pair[1] or pair[0]
    _check_name("use", name)
    if not is_variable(variable):
        raise InvalidArgument(
            f"cannot map the secret {name} to {variable[:128]!r}: an environment variable is {VARIABLE_RULE}"
        )
    return name, variable


def _encoded(name: str, value: str) -> bytes:
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgument(f"cannot make the secret {name}: its value is not valid Unicode") from None


def _read(name: str, path: Path) -> bytes:
    """The file's content without one line break at its end, which editors put there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            data = file.read(MAX_BYTES + 3)
    except FileNotFoundError:
        raise NotFound(f"cannot make the secret {name}: there is no file {path}") from None
    except PermissionError:
        raise PermissionDenied(f"cannot make the secret {name}: {path} may not be read") from None
    except OSError as error:
        raise InvalidArgument(f"cannot make the secret {name}: cannot read {path}: {error.strerror}") from None
    return data.removesuffix(b"\n").removesuffix(b"\r") if data and data.endswith(b"\n") else data or b""


def _checked(name: str, value: bytes) -> bytes:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidArgument(f"cannot make the secret {name}: its value is not UTF-8") from None
    if b"\0" in value:
        raise InvalidArgument(f"cannot make the secret {name}: a value cannot hold a NUL")
    if len(value) > MAX_BYTES:
        raise InvalidArgument(f"cannot make the secret {name}: a value has at most {MAX_BYTES:,} bytes")
    if len(value.strip()) < MIN_BYTES:
        raise InvalidArgument(
            f"cannot make the secret {name}: its value has fewer than {MIN_BYTES} bytes",
            hint="So short a value cannot be kept out of what commands print",
        )
    return value


def _store(path: Path, value: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())


def _put(machine: Machine, name: str, value: bytes) -> None:
    params = {"name": name, "size": len(value)}
    purpose = f"hand over the secret {name}"
    agent = AgentClient(machine)
    how: dict[str, Any] = {"send": value, "seconds": PUT_SECONDS, "patience": PATIENCE_SECONDS, "purpose": purpose}
    agent.request(Call(None), "secret_put", params, dict[str, Any], **how)
