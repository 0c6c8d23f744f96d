"""Connect: write, mend and remove the entry that makes a host start `pyro mcp serve`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_mcp.errors import Conflict, InvalidArgument, MissingDependency, PyroError
from pyro_mcp.hosts.configfile import ConfigFile, held
from pyro_mcp.hosts.contract import DEFAULT_NAME, ChatHost, Entry, Found, Scope, Server, server_of
from pyro_mcp.hosts.filehost import unified
from pyro_mcp.hosts.formats import same
from pyro_mcp.hosts.launcher import Launcher, remedy
from pyro_mcp.hosts.salvage import option_words
from pyro_mcp.model.host import HostAction, HostChange

if TYPE_CHECKING:
    from pyro_mcp.hosts.printed import Printed

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

ReadOptions = Callable[[Sequence[str]], tuple[str, ...]]
"""The words of `mcp serve` in their usual form. Raises `InvalidArgument` for what is not understood."""


@dataclass(frozen=True)
class Wish:
    """What an entry called `name` should be: this launcher, with `options` of `mcp serve`; None: those it has, as
    `read` understands them."""

    name: str
    launcher: Launcher
    options: tuple[str, ...] | None
    read: ReadOptions
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidArgument(
                f"cannot use the name {self.name[:80]!r}: it must be 1 to 64 letters, digits, '_' and '-'",
                hint=f"The usual one is {DEFAULT_NAME}.",
            )

    def server(self, present: object) -> Server:
        """The server meant, in place of the entry `present`. Raises `InvalidArgument` for an option of it that cannot
        be kept: without it, the server might give more than it was to."""
        options = self._kept(present) if self.options is None else self.options
        return self.launcher.server(options, instead_of=server_of(present))

    def _kept(self, present: object) -> tuple[str, ...]:
        try:
            return self.read(option_words(present))
        except InvalidArgument as error:
            cause = error.message.removeprefix("cannot read the command line: ")
            # Only a repair replaces what no longer names pyro.
            verb = "connect" if _is_ours(present) else "repair"
            raise InvalidArgument(
                f"cannot keep the options of the entry {self.name!r}: {cause}",
                hint=f"Mend it by hand, or write it anew: `pyro host {verb}` with all options that it should have.",
            ) from None


def connect(host: ChatHost, scope: str | None, wish: Wish) -> HostChange:
    """Write the entry, at the user's scope unless told. An entry of that name that is not ours is left alone."""
    chosen = host.require_scope(scope or "user")
    lacking = _lacking(host, wish)
    with held(host.path(chosen, wish.name)):
        found = host.find(chosen, wish.name)
        _require_ours(found.entry, wish.name, found.file.path)
        return _apply(host, found, wish, [*lacking, *_notes(host, chosen, wish)])


def repair(host: ChatHost, scope: str | None, wish: Wish) -> list[HostChange]:
    """Mend the entry wherever it stands; where there is none, at the user's scope, write it."""
    lacking = _lacking(host, wish)
    scopes = [host.require_scope(scope)] if scope else [one.scope for one in standing(host, wish.name)]
    scopes = scopes or [host.require_scope("user")]
    for chosen in scopes:
        wish.server(host.find(chosen, wish.name).entry)  # refused before any is changed
    changes = []
    for chosen in scopes:
        with held(host.path(chosen, wish.name)):
            found = host.find(chosen, wish.name)
            changes.append(_apply(host, found, wish, [*lacking, *_notes(host, chosen, wish)]))
    return changes


def disconnect(host: ChatHost, scope: str | None, name: str, *, dry_run: bool) -> list[HostChange]:
    """Remove the entry where it stands, from each file of that scope. Raises `Conflict` when it stands at several
    scopes and none is named."""
    chosen = host.require_scope(scope) if scope else _only_scope(host, name)
    paths = [host.path(chosen, name), *host.hidden(chosen, name)]
    for path in paths:
        _require_ours(host.find(chosen, name, path=path).entry, name, path)
    return [_remove(host, chosen, name, path, dry_run) for path in paths]


def _remove(host: ChatHost, chosen: Scope, name: str, path: Path, dry_run: bool) -> HostChange:
    with held(path):
        found = host.find(chosen, name, path=path)
        if found.entry is None:
            return _told(host, found, name, "absent", [], "", dry_run)
        _require_ours(found.entry, name, path)
        diff = host.diff(found, name, None)
        if not dry_run:
            host.change(found, name, None)
        return _told(host, found, name, "removed", [], diff, dry_run)


def put_into(path: Path, host: str, form: Printed, wish: Wish) -> HostChange:
    """Put the entry into the file `path` that a person named, beside what it holds."""
    server = wish.server(None)
    with held(path):
        file = ConfigFile.load(path)
        with file.blamed():
            present = form.format.entries(file.text or "").get(wish.name)
            _require_ours(present, wish.name, path)
            entry = {**(present or {}), **form.entry(server)}
            text = form.format.put(file.text or "", wish.name, entry)
        action: HostAction = "added" if present is None else "updated"
        diff = unified(file.text or "", text, str(path))
        file.replace(text)
    return HostChange(
        host=host,
        name=wish.name,
        scope="",
        path=str(path),
        action=action if diff or file.data is None else "unchanged",
        dry_run=False,
        command=[server.command, *server.args],
        diff=diff,
    )


def drift(host: ChatHost, entry: Entry, wanted: Entry) -> list[str]:
    """The keys of `entry` that do not say what they should."""
    asked = {key: value for key, value in wanted.items() if not (key in host.preferences and key in entry)}
    return [key for key, value in asked.items() if not same(entry.get(key, host.defaults.get(key)), value)]


def mended(host: ChatHost, present: object, server: Server) -> Entry:
    """The entry for `server` that keeps what a person added to `present`; what is no entry of ours is replaced."""
    wanted = host.entry(server)
    if not isinstance(present, dict) or server_of(present) is None:
        return wanted
    changed = drift(host, present, wanted)
    return {**present, **{key: wanted[key] for key in changed}}


def _lacking(host: ChatHost, wish: Wish) -> list[str]:
    """Raises `MissingDependency` without the host's program, which writes the entry or proves it. Nobody needs it to
    see what would change; then it is a note."""
    try:
        host.require()
    except MissingDependency as error:
        if not wish.dry_run:
            raise
        return [f"{error.message}; nothing is changed without it"]
    return []


def _apply(host: ChatHost, found: Found, wish: Wish, notes: list[str]) -> HostChange:
    server = wish.server(found.entry)
    entry = mended(host, found.entry, server)
    if same(found.entry, entry):
        return _told(host, found, wish.name, "unchanged", [server.command, *server.args], "", wish.dry_run, notes)
    diff = host.diff(found, wish.name, entry)
    if not wish.dry_run:
        host.change(found, wish.name, entry)
    action: HostAction = "added" if found.entry is None else "updated"
    return _told(host, found, wish.name, action, [server.command, *server.args], diff, wish.dry_run, notes)


def _told(
    host: ChatHost,
    found: Found,
    name: str,
    action: HostAction,
    command: list[str],
    diff: str,
    dry_run: bool,
    notes: list[str] | None = None,
) -> HostChange:
    return HostChange(
        host=host.name,
        name=name,
        scope=found.scope,
        path=str(found.file.path),
        action=action,
        dry_run=dry_run,
        command=command,
        diff=diff,
        notes=notes or [],
    )


def _notes(host: ChatHost, chosen: Scope, wish: Wish) -> list[str]:
    notes = []
    if wish.launcher.risk:
        notes.append(f"{wish.launcher.risk}. A lasting path: {remedy(wish.launcher.command)}")
    try:
        others = [one.scope for one in standing(host, wish.name) if one.scope != chosen]
    except PyroError as error:
        return [*notes, error.message]
    return notes + [f"{host.title} also has an entry {wish.name!r} at scope {scope}" for scope in others]


def standing(host: ChatHost, name: str) -> list[Found]:
    """The entries of that name, the one that wins last. Raises `PyroError` for a file that cannot be read."""
    found = [host.find(scope, name) for scope in host.scopes]
    # In the home directory the project's file may be the user's.
    user = found[0].file.real
    return [one for one in found if one.entry is not None and not (one.scope == "project" and one.file.real == user)]


def _only_scope(host: ChatHost, name: str) -> Scope:
    scopes = [one.scope for one in standing(host, name)]
    if len(scopes) > 1:
        raise Conflict(
            f"cannot disconnect {host.name}: the entry {name!r} stands at several scopes: {', '.join(scopes)}",
            hint="Name one with --scope.",
        )
    return scopes[0] if scopes else "user"


def _is_ours(entry: object) -> bool:
    server = server_of(entry)
    return server is not None and server.starts_pyro


def _require_ours(entry: object, name: str, path: Path) -> None:
    if entry is None or _is_ours(entry):
        return
    raise Conflict(
        f"cannot change the entry {name!r} in {path}: it does not start pyro",
        hint="Use another --name. If it was pyro's and is damaged, use `pyro host repair`.",
    )
