"""secrets: values that commands get by name, in memory only."""

from __future__ import annotations

import os
import re
import threading
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import AgentError, invalid
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.tree.stage import write_all
from pyro_mcp.protocol.channel import Stream

MAX_SECRET = 65536
MAX_SECRETS = 256
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")


class AgentSecrets:
    """The secrets of one workspace. `directory`, if given, is on a tmpfs and gets them as files of mode 0600."""

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory
        self._values: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, stream: Stream) -> dict[str, Any]:
        """name, size ← the value as DATA 0 → name. Replaces a secret of that name."""
        name = _checked(_NAME, "name", stream.params.get("name"))
        size = read.integer(stream.params, "size", min_=1, max_=MAX_SECRET)
        flow = Flow(stream)
        try:
            value = b"".join(flow.take(size))
            flow.require_end()
        finally:
            flow.close()
        if b"\0" in value:
            raise invalid(f"cannot put secret {name}: an environment variable cannot hold a NUL")
        with self._lock:
            if name not in self._values and len(self._values) >= MAX_SECRETS:
                raise AgentError("capacity", f"cannot put secret {name}: at most {MAX_SECRETS} fit")
            if self._directory is not None:
                self._store(self._directory, name, value)
            self._values[name] = value
        return {"name": name}

    def environment(self, params: dict[str, Any]) -> dict[bytes, bytes]:
        """The variables that `secret_env` {variable: name of a secret} asks for."""
        requested = params.get("secret_env") or {}
        if not isinstance(requested, dict) or len(requested) > MAX_SECRETS:
            raise invalid(f"secret_env must be an object of at most {MAX_SECRETS} names")
        result = {}
        for variable, name in requested.items():
            key = _checked(_VARIABLE, "secret_env: a variable", variable)
            name = _checked(_NAME, f"secret_env.{key}", name)
            value = self._values.get(name)
            if value is None:
                raise AgentError("not_found", f"cannot exec: there is no secret {name}")
            result[key.encode()] = value
        return result

    def _store(self, directory: str, name: str, value: bytes) -> None:
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass
        path = f"{directory}/{name}"
        fresh = f"{directory}/.{os.urandom(4).hex()}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, value)
        finally:
            os.close(fd)
        os.rename(fresh, path)


def _checked(rule: re.Pattern[str], what: str, value: Any) -> str:
    if not isinstance(value, str) or not rule.fullmatch(value):
        raise invalid(f"{what} must match {rule.pattern}")
    return value
