"""`pyro host`: make chat hosts start `pyro mcp serve`, and see whether they do."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_mcp.settings import Settings, host_environ
from pyro_mcp.surfaces.cli import serve
from pyro_mcp.surfaces.cli.parser import Parser, add_leaf, common_options

if TYPE_CHECKING:
    from pyro_mcp.hosts.connect import Wish
    from pyro_mcp.hosts.contract import Where
    from pyro_mcp.model.host import HostChange

HOSTS = "claude-code, codex or opencode"
PRINTED = f"{HOSTS.replace(' or', ',')}, cursor, vscode, claude-desktop or gemini"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the five commands."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    connect = add_leaf(commands, "connect", run_connect, "make a chat host start `pyro mcp serve`")
    printing = add_leaf(commands, "print-config", run_print, "show the entry for a chat host, or put it into a file")
    doctor = add_leaf(commands, "doctor", run_doctor, "see whether chat hosts start pyro, and whether it answers them")
    repair = add_leaf(commands, "repair", run_repair, "mend the entry; its options stay unless others are given")
    disconnect = add_leaf(commands, "disconnect", run_disconnect, "remove the entry")
    for leaf in (connect, repair, disconnect):
        leaf.add_argument("host", metavar="HOST", help=HOSTS)
        leaf.add_argument("--scope", metavar="SCOPE", help="user, project or, with claude-code, local")
        leaf.add_argument("--dry-run", action="store_true", help="change nothing, show what would change")
    printing.add_argument("host", metavar="HOST", help=PRINTED)
    printing.add_argument(
        "--output", dest="target", metavar="FILE", help="put the entry into FILE, beside what it holds"
    )
    doctor.add_argument("host", metavar="HOST", nargs="?", help=f"{HOSTS}; all three if not given")
    for leaf in (connect, printing, doctor, repair, disconnect):
        leaf.add_argument("--name", default="pyro", metavar="NAME", help="the entry's name (default pyro)")
        if leaf is not disconnect:
            serve.add_options(leaf)
        common_options(leaf)


def run_connect(namespace: argparse.Namespace) -> int:
    """Exit code 0, also when nothing had to be done."""
    from pyro_mcp.hosts import catalog, connect

    where = _where()
    wish = _wish(namespace, where, given=serve.words(namespace))
    notes = _lost_settings(namespace)
    change = connect.connect(catalog.host(namespace.host, where), namespace.scope, wish)
    return _show_changes(namespace, [change], notes)


def run_repair(namespace: argparse.Namespace) -> int:
    """Exit code 0, also when nothing had to be done."""
    from pyro_mcp.hosts import catalog, connect

    where = _where()
    wish = _wish(namespace, where, given=serve.words(namespace) or None)
    notes = _lost_settings(namespace)
    changes = connect.repair(catalog.host(namespace.host, where), namespace.scope, wish)
    return _show_changes(namespace, changes, notes)


def run_disconnect(namespace: argparse.Namespace) -> int:
    """Exit code 0, also when there was nothing to remove."""
    from pyro_mcp.hosts import catalog, connect

    host = catalog.host(namespace.host, _where())
    changes = connect.disconnect(host, namespace.scope, namespace.name, dry_run=namespace.dry_run)
    return _show_changes(namespace, changes, [])


def run_print(namespace: argparse.Namespace) -> int:
    """The entry on standard output, or in a file."""
    from pyro_mcp.hosts import catalog, connect

    where = _where()
    form = catalog.printed(namespace.host)
    wish = _wish(namespace, where, given=serve.words(namespace))
    notes = _lost_settings(namespace)
    if namespace.target is not None:
        target = Path(os.path.abspath(os.path.expanduser(namespace.target)))
        return _show_changes(namespace, [connect.put_into(target, namespace.host, form, wish)], notes)
    text = form.format.show(wish.name, form.entry(wish.server(None)))
    if namespace.json:
        namespace.output.document({"host": namespace.host, "place": form.place, "config": text})
    else:
        namespace.output.verbatim(text)
        for note in (f"{form.title} reads it from {form.place}", *notes):
            namespace.output.notice(note)
    return 0


def run_doctor(namespace: argparse.Namespace) -> int:
    """Exit code 0 when nothing stops a connected host, otherwise 1."""
    from pyro_mcp.hosts import catalog, doctor
    from pyro_mcp.operations.encode import encode

    where = _where()
    wish = _wish(namespace, where, given=serve.words(namespace) or None)
    names = [namespace.host] if namespace.host else list(catalog.CONNECTABLE)
    reports = doctor.examine_all([catalog.host(name, where) for name in names], wish)
    if namespace.json:
        namespace.output.document(encode(reports))
    else:
        from pyro_mcp.surfaces.cli import render

        render.show("host_doctor", reports, namespace.output)
    return 0 if reports.ok else 1


def _where() -> Where:
    from pyro_mcp.hosts.contract import Where

    return Where(host_environ(), Path.cwd())


def _wish(namespace: argparse.Namespace, where: Where, *, given: tuple[str, ...] | None) -> Wish:
    from pyro_mcp.hosts.connect import Wish
    from pyro_mcp.hosts.launcher import find_launcher

    if given is not None:
        # An entry whose server never starts is told now, not by the host, which shows at most that it failed.
        serve.defaults(namespace)
    dry_run = getattr(namespace, "dry_run", False)
    return Wish(namespace.name, find_launcher(where), given, serve.read_words, dry_run)


def _show_changes(namespace: argparse.Namespace, changes: Sequence[HostChange], notes: list[str]) -> int:
    from pyro_mcp.model.host import HostChanges
    from pyro_mcp.operations.encode import encode

    if namespace.json:
        namespace.output.document(encode(HostChanges(changes=list(changes), notes=notes)))
        return 0
    from pyro_mcp.surfaces.cli import render

    render.show("host_change", HostChanges(changes=list(changes), notes=notes), namespace.output)
    return 0


def _lost_settings(namespace: argparse.Namespace) -> list[str]:
    """Settings that this shell has and a server started by a host has not."""
    from pyro_mcp.hosts.probe import PASSED_ON

    environ = host_environ()
    given = {"state_dir": namespace.state_dir, "cache_dir": namespace.cache_dir}
    here = Settings.load(environ, **given)
    there = Settings.load({name: environ[name] for name in PASSED_ON if name in environ}, **given)
    lost = [one.name for one in fields(here) if one.compare and getattr(here, one.name) != getattr(there, one.name)]
    return (
        [
            f"{', '.join(lost)}: set by this shell's environment, which a host need not pass on to the server. Give "
            "--state-dir and --cache-dir, or write it into ~/.config/pyro/config.toml"
        ]
        if lost
        else []
    )
