"""Claude Code: `mcpServers.NAME`, written by `claude mcp add-json` alone, because Claude rewrites its file at any time.

The user's and the local entries are in `.claude.json`, a project's in `.mcp.json`. A name that is taken is refused, so
an entry is removed first; if the new one fails, the file gets back what it said: by us, for Claude just failed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pyro_mcp.errors import PyroError
from pyro_mcp.hosts.configfile import ConfigFile
from pyro_mcp.hosts.contract import ChatHost, Entry, EntryRefused, Found, Scope, Server, Tool
from pyro_mcp.hosts.filehost import said_by, unified
from pyro_mcp.hosts.formats import same
from pyro_mcp.hosts.jsonfile import JsonFormat
from pyro_mcp.model.host import HostApprovals
from pyro_mcp.system.process import CommandFailed, run

COMMAND_SECONDS = 60.0
GRACE_SECONDS = 5.0
"""How long Claude holds the first turn for a server whose tools it always loads; for others it does not wait."""


class ClaudeCode(ChatHost):
    """Anthropic's Claude Code."""

    name = "claude-code"
    title = "Claude Code"
    program = "claude"
    scopes = ("user", "project", "local")
    format = JsonFormat("mcpServers", comments=False)
    defaults: ClassVar[Mapping[str, Any]] = {"type": "stdio", "args": []}
    # Without it a first turn begins without the tools; with it they take room in every conversation.
    preferences: ClassVar[frozenset[str]] = frozenset({"alwaysLoad"})

    def path(self, scope: Scope, name: str) -> Path:
        if scope == "project":
            return self.where.cwd / ".mcp.json"
        named = self.where.environ.get("CLAUDE_CONFIG_DIR")
        return (self.where.cwd / named if named else self.where.home) / ".claude.json"

    @staticmethod
    def entry(server: Server) -> Entry:
        return {"type": "stdio", "command": server.command, "args": list(server.args), "alwaysLoad": True}

    def read(self, file: ConfigFile, scope: Scope) -> Mapping[str, Any]:
        if scope != "local":
            return super().read(file, scope)
        with file.blamed():
            projects = self.format.load(file.text or "").get("projects", {})
            own = projects.get(str(self._project())) if isinstance(projects, dict) else None
            servers = own.get("mcpServers", {}) if isinstance(own, dict) else {}
            return servers if isinstance(servers, dict) else {}

    def change(self, found: Found, name: str, entry: Entry | None) -> None:
        if entry is None:
            self._remove(found.scope, name)
            self._prove(found, name, None)
            return
        left = found.file
        try:
            if found.entry is not None:
                self._remove(found.scope, name)
                left = ConfigFile.load(found.file.path)
            self._add(found.scope, name, entry)
            self._prove(found, name, entry)
        except BaseException:
            if found.entry is not None:
                self._put_back(found, name, left)
            raise

    def diff(self, found: Found, name: str, entry: Entry | None) -> str:
        return unified(_shown(name, found.entry), _shown(name, entry), str(found.file.path))

    def patience(self, entry: Entry) -> float:
        return GRACE_SECONDS if entry.get("alwaysLoad") is True else 1.0

    def approvals(self, tools: Sequence[Tool], name: str, entry: Entry) -> HostApprovals:
        allowed = self._allowed()
        whole = {f"mcp__{name}", f"mcp__{name}__*"} & allowed
        unasked = [tool.name for tool in tools if whole or f"mcp__{name}__{tool.name}" in allowed]
        return HostApprovals(
            unasked=unasked,
            asks=[tool.name for tool in tools if tool.name not in unasked],
            how=f'"permissions": {{"allow": ["mcp__{name}"]}} in {self._settings()[0]} allows every tool, '
            f'"mcp__{name}__TOOL" one; for one run: claude -p --allowedTools mcp__{name}',
        )

    def _add(self, scope: Scope, name: str, entry: Entry) -> None:
        # On standard input: an entry may hold keys, and a process list shows words.
        self._claude("add-json", "-s", scope, name, "-", input=json.dumps(entry))

    def _remove(self, scope: Scope, name: str) -> None:
        self._claude("remove", "-s", scope, name)

    def _put_back(self, found: Found, name: str, left: ConfigFile) -> None:
        """Undo a removal after which the file was `left`; what was written since stays."""
        try:
            now = ConfigFile.load(found.file.path)
            if now.data == found.file.data:
                return
            if now.data == left.data:
                found.file.restore(now.text or "")
            else:
                with now.blamed():
                    text = self._format(found.scope).put(now.text or "", name, found.entry)
                now.replace(text)
        except PyroError as error:
            lost = json.dumps({name: found.entry})
            raise EntryRefused(
                f"cannot put the entry back into {found.file.path}: {error.message}", hint=f"It was: {lost}"
            ) from error

    def _format(self, scope: Scope) -> JsonFormat:
        place = ("projects", str(self._project())) if scope == "local" else ()
        return JsonFormat(*place, *self.format.keys, comments=False)

    def _prove(self, found: Found, name: str, entry: Entry | None) -> None:
        seen = self.find(found.scope, name).entry
        if entry is None and seen is None:
            return
        if entry is None or not isinstance(seen, dict) or not all(same(seen.get(key), entry[key]) for key in ENTRY):
            raise EntryRefused(
                f"cannot change {found.file.path}: `claude mcp` succeeded, but the entry is not what it should be",
                hint="Look at it with `claude mcp get`, and report this.",
            )

    def _claude(self, *words: str, input: str | None = None) -> None:
        argv = [self.require(), "mcp", *words]
        data = None if input is None else input.encode()
        try:
            run(argv, cwd=self.where.cwd, env=self.where.environ, input=data, timeout=COMMAND_SECONDS)
        except CommandFailed as error:
            raise EntryRefused(f"cannot run `claude mcp {words[0]}`: {said_by(error)}") from error

    def _project(self) -> Path:
        """Under which key Claude keeps what is local: the checkout, or the directory."""
        here = self.where.cwd.resolve()
        return next((one for one in (here, *here.parents) if (one / ".git").exists()), here)

    def _settings(self) -> tuple[Path, ...]:
        user = self.where.directory("CLAUDE_CONFIG_DIR", ".claude") / "settings.json"
        project = self.where.cwd / ".claude"
        return user, project / "settings.json", project / "settings.local.json"

    def _allowed(self) -> set[str]:
        """What the settings files let run unasked; one that cannot be read allows nothing."""
        allowed: set[str] = set()
        for path in self._settings():
            with contextlib.suppress(PyroError, ValueError):
                permissions = self.format.load(ConfigFile.load(path).text or "").get("permissions")
                listed = permissions.get("allow") if isinstance(permissions, dict) else None
                allowed |= {one for one in listed if isinstance(one, str)} if isinstance(listed, list) else set()
        return allowed


ENTRY = ("command", "args")


def _shown(name: str, entry: Any) -> str:
    """The entry alone: the rest of Claude's file is its own."""
    return "" if entry is None else json.dumps({name: entry}, indent=2)
